/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup list: the restore points of a repository. */
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "job/catalog.h"
#include "util/log.h"
#include "util/units.h"

static char *
disk_names(const VmbManifest *manifest)
{
    GString *names = g_string_new(NULL);
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = g_ptr_array_index(manifest->disks, i);
        g_string_append_printf(names, "%s%s", i > 0 ? "," : "", disk->target);
    }
    return g_string_free(names, FALSE);
}

/* What a user can give to other verbs for this domain, whatever its older points call it. */
static const char *
usable_name(const GPtrArray *domains, const VmbCatalogDomain *domain)
{
    for (guint i = 0; domain->name != NULL && i < domains->len; i++) {
        const VmbCatalogDomain *other = g_ptr_array_index(domains, i);
        if (other != domain && g_strcmp0(other->name, domain->name) == 0)
            return domain->uuid;
    }
    return domain->name != NULL ? domain->name : domain->uuid;
}

/* Of domains with one name the first two: they stand side by side. */
static void
tell_shared_names(const GPtrArray *domains)
{
    for (guint i = 1; i < domains->len; i++) {
        const VmbCatalogDomain *before = g_ptr_array_index(domains, i - 1);
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        if (domain->name != NULL && g_strcmp0(before->name, domain->name) == 0)
            vmb_notice("two domains have had the name '%s' (%s and %s): give the UUID of the one "
                       "that is meant",
                       domain->name, before->uuid, domain->uuid);
    }
}

static void
add_row(VmbTable *table, const char *name, const VmbPoint *point)
{
    const VmbManifest *manifest = point->manifest;
    g_autofree char *id = g_strdup_printf("%s/%s", name, point->id);
    if (manifest == NULL) {
        vmb_table_add(table, id, "DAMAGED", NULL, NULL, NULL);
        return;
    }
    g_autofree char *disks = disk_names(manifest);
    g_autofree char *stored = vmb_units_format_size(vmb_manifest_stored(manifest));
    vmb_table_add(table, id, vmb_level_name(manifest->level),
                  vmb_consistency_name(manifest->consistency), stored, disks);
}

static void
print_table(const GPtrArray *domains)
{
    static const char *const headers[] = {"POINT",   "LEVEL", "CONSISTENCY",
                                          ">STORED", "DISKS", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    for (guint i = 0; i < domains->len; i++) {
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        for (guint k = 0; k < domain->points->len; k++)
            add_row(table, usable_name(domains, domain), g_ptr_array_index(domain->points, k));
    }
    g_autofree char *text = vmb_table_text(table, "");
    if (vmb_table_rows(table) > 0)
        vmb_output_text(text);
    else
        vmb_notice("there is no restore point yet");
}

static void
print_json(const GPtrArray *domains)
{
    VmbJson *document = vmb_view_new(NULL);
    VmbJson *points = json_object_new_array();
    for (guint i = 0; i < domains->len; i++) {
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        for (guint k = 0; k < domain->points->len; k++) {
            const VmbPoint *point = g_ptr_array_index(domain->points, k);
            json_object_array_add(points, point->manifest != NULL
                                              ? vmb_view_point(point->manifest)
                                              : vmb_view_damaged(point->id, domain->name,
                                                                 domain->uuid, point->damage));
        }
        if (domain->damage != NULL)
            json_object_array_add(
                points, vmb_view_damaged(NULL, domain->name, domain->uuid, domain->damage));
    }
    vmb_json_add(document, "points", points);
    vmb_output_json_document(document);
}

/* What is damaged is told on standard error, too; returns the exit status. */
static int
tell_damage(const GPtrArray *domains)
{
    int status = VMB_EXIT_OK;
    for (guint i = 0; i < domains->len; i++) {
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        if (domain->damage != NULL) {
            vmb_log(VMB_LOG_ERROR, "%s: %s", domain->uuid, domain->damage->message);
            status = vmb_exit_status(domain->damage);
        }
        for (guint k = 0; k < domain->points->len; k++) {
            const VmbPoint *point = g_ptr_array_index(domain->points, k);
            if (point->manifest != NULL)
                continue;
            vmb_log(VMB_LOG_ERROR, "%s", point->damage->message);
            status = vmb_exit_status(point->damage);
        }
    }
    return status;
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
    g_autoptr(GPtrArray) domains = NULL;
    if (path != NULL)
        domains = vmb_catalog_read(path, vmb_command_operands(command)[0], &error);
    if (domains == NULL)
        return vmb_command_fail(error);
    if (json)
        print_json(domains);
    else
        print_table(domains);
    tell_shared_names(domains);
    return tell_damage(domains);
}
