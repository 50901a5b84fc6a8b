/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup list: the restore points of a repository. */
#include "cli/domains-view.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>

static char *
disk_names(const VmbSummary *point)
{
    GString *names = g_string_new(NULL);
    for (guint i = 0; i < point->n_disks; i++)
        g_string_append_printf(names, "%s%s", i > 0 ? "," : "", point->disks[i].target);
    return g_string_free(names, FALSE);
}

/* "ok 2026-11-20": when all of it was read for the last time; NULL: never. */
static char *
verified(const VmbSummary *point)
{
    if (point->state_unreadable)
        return g_strdup("?");
    if (g_strcmp0(point->verify_result, "damaged") == 0 || point->metadata_damaged)
        return g_strdup("damaged");
    if (point->verified_ns == 0 && point->checked_ns == 0)
        return NULL;
    gboolean whole = point->verified_ns != 0;
    g_autofree char *time = vmb_units_format_time(whole ? point->verified_ns : point->checked_ns);
    return g_strdup_printf("%s %.*s", whole ? "ok" : "partly", (int)strcspn(time, "T"), time);
}

/* What keeps it from being dropped: "protected,yearly"; NULL: nothing. */
static char *
marks(const VmbSummary *point)
{
    g_autofree char *tags = g_strjoinv(",", (char **)point->tags);
    if (!point->is_protected)
        return tags[0] != '\0' ? g_steal_pointer(&tags) : NULL;
    return g_strconcat("protected", tags[0] != '\0' ? "," : "", tags, NULL);
}

static void
add_row(VmbTable *table, const char *name, const VmbSummary *point, guint64 frees)
{
    g_autofree char *id = g_strdup_printf("%s/%s", name, point->id);
    if (point->damage != NULL) {
        vmb_table_add(table, id, "DAMAGED", NULL, NULL, NULL, NULL, NULL, NULL);
        return;
    }
    g_autofree char *disks = disk_names(point);
    g_autofree char *stored = vmb_units_format_size(vmb_summary_stored(point));
    g_autofree char *freed = frees != VMB_BYTES_UNKNOWN ? vmb_units_format_size(frees) : NULL;
    g_autofree char *when = verified(point);
    g_autofree char *kept = marks(point);
    vmb_table_add(table, id, vmb_level_name(point->level), vmb_consistency_name(point->consistency),
                  stored, freed, when, disks, kept);
}

static gboolean
any_marks(const GPtrArray *domains)
{
    for (guint i = 0; i < domains->len; i++) {
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        for (guint k = 0; k < domain->points->len; k++) {
            const VmbSummary *point = g_ptr_array_index(domain->points, k);
            if (point->is_protected || point->tags[0] != NULL)
                return TRUE;
        }
    }
    return FALSE;
}

static void
print_table(const GPtrArray *domains)
{
    const char *headers[] = {"POINT",    "LEVEL", "CONSISTENCY", ">STORED", ">FREES",
                             "VERIFIED", "DISKS", "MARKS",       NULL};
    if (!any_marks(domains))
        headers[7] = NULL;
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    for (guint i = 0; i < domains->len; i++) {
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        const char *name = vmb_domains_usable_name(domains, domain);
        for (guint k = 0; k < domain->points->len; k++)
            add_row(table, name, g_ptr_array_index(domain->points, k), domain->frees[k]);
    }
    g_autofree char *text = vmb_table_text(table, "");
    if (vmb_table_rows(table) > 0)
        vmb_output_text(text);
    else
        vmb_notice("there is no restore point yet");
}

static void
print_json_domain(const VmbCatalogDomain *domain)
{
    for (guint k = 0; k < domain->points->len; k++) {
        const VmbSummary *point = g_ptr_array_index(domain->points, k);
        if (point->damage == NULL)
            vmb_output_json_element(vmb_view_summary(point, domain->uuid, domain->frees[k]));
        else
            vmb_output_json_element(
                vmb_view_damaged(point->id, domain->name, domain->uuid, point->damage));
    }
    if (domain->damage != NULL)
        vmb_output_json_element(vmb_view_damaged(NULL, domain->name, domain->uuid, domain->damage));
}

static void
print_json(const GPtrArray *domains)
{
    vmb_output_json_open(vmb_view_new(NULL), "points");
    for (guint i = 0; i < domains->len; i++)
        print_json_domain(g_ptr_array_index(domains, i));
    vmb_output_json_close();
}

int
vmb_verb_list(VmbCommand *command)
{
    gboolean json = FALSE;
    const VmbOption options[] = {
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document instead of a table", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, 1, &status))
        return status;
    const char *path = vmb_command_repository(command, &error);
    g_autoptr(VmbRepository) repository = path != NULL ? vmb_repository_open(path, &error) : NULL;
    g_autoptr(GPtrArray) domains = NULL;
    if (repository != NULL)
        domains = vmb_catalog_read(repository, vmb_command_operands(command), &error);
    if (domains == NULL)
        return vmb_command_fail(error);
    if (json)
        print_json(domains);
    else
        print_table(domains);
    vmb_domains_tell_shared_names(domains);
    return vmb_domains_tell_damage(domains);
}
