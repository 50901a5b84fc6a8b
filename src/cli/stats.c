/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup stats: how much the repository and its domains hold, and how they grow. */
#include "job/stats.h"
#include "cli/domains-view.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "job/measure.h"
#include "util/units.h"

#include <string.h>

typedef struct {
    GPtrArray *domains; /* VmbCatalogDomain: those that are shown */
    GPtrArray *all;     /* of the repository */
    VmbStats sum;       /* of all */
    const char *path;
    gint64 now_ns;
    guint64 free_bytes; /* of the repository's filesystem */
} Figures;

static void
figures_clear(Figures *figures)
{
    g_clear_pointer(&figures->domains, g_ptr_array_unref);
    g_clear_pointer(&figures->all, g_ptr_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Figures, figures_clear)

static char *
day_of(gint64 time_ns)
{
    g_autofree char *time = time_ns != 0 ? vmb_units_format_time(time_ns) : NULL;
    return time != NULL ? g_strndup(time, strcspn(time, "T")) : NULL;
}

static char *
size_or_null(guint64 bytes)
{
    return bytes != VMB_BYTES_UNKNOWN ? vmb_units_format_size(bytes) : NULL;
}

static char *
ratio_of(const VmbStats *stats)
{
    return stats->images > 0 ? g_strdup_printf("%.2f", vmb_stats_ratio(stats)) : NULL;
}

static void
add_row(VmbTable *table, const char *name, const VmbStats *stats)
{
    g_autofree char *points = g_strdup_printf("%u", stats->n_points);
    g_autofree char *oldest = day_of(stats->oldest_ns), *newest = day_of(stats->newest_ns);
    g_autofree char *size = vmb_units_format_size(stats->size);
    g_autofree char *stored = vmb_units_format_size(stats->stored);
    g_autofree char *ratio = ratio_of(stats);
    g_autofree char *retired = vmb_units_format_size(stats->retired);
    g_autofree char *growth = size_or_null(stats->growth);
    vmb_table_add(table, name, points, oldest, newest, size, stored, ratio, retired, growth);
}

static void
print_sum(const Figures *figures)
{
    const VmbStats *sum = &figures->sum;
    guint64 days = vmb_stats_days_left(sum, figures->free_bytes);
    g_autofree char *stored = vmb_units_format_size(sum->stored + sum->retired);
    g_autofree char *growth = size_or_null(sum->growth);
    g_autofree char *left = vmb_units_format_size(figures->free_bytes);
    vmb_output_line("%s: %u domains, %u points, %s; %s are free", figures->path, figures->all->len,
                    sum->n_points, stored, left);
    if (growth == NULL)
        vmb_output_line("Nobody knows how fast it grows: no domain has points of the last %d days "
                        "that are half a day apart",
                        VMB_MEASURE_DAYS);
    else if (days != VMB_BYTES_UNKNOWN)
        vmb_output_line(
            "%s are added per day: if nothing is dropped, it is full in %" G_GUINT64_FORMAT " days",
            growth, days);
}

static void
print_text(const Figures *figures)
{
    static const char *const headers[] = {"DOMAIN",  ">POINTS", "OLDEST",   "NEWEST",   ">VIRTUAL",
                                          ">STORED", ">RATIO",  ">RETIRED", ">PER DAY", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    for (guint i = 0; i < figures->domains->len; i++) {
        const VmbCatalogDomain *domain = figures->domains->pdata[i];
        VmbStats stats = vmb_stats_domain(domain, figures->now_ns);
        add_row(table, vmb_domains_usable_name(figures->all, domain), &stats);
    }
    if (figures->domains->len > 1 && figures->domains == figures->all)
        add_row(table, "(all)", &figures->sum);
    g_autofree char *text = vmb_table_text(table, "");
    vmb_output_text(text);
    vmb_output_line("%s", "");
    print_sum(figures);
}

static void
add_figures(VmbJson *object, const VmbStats *stats)
{
    vmb_json_add_uint(object, "points", stats->n_points);
    vmb_json_add_uint(object, "damaged", stats->n_damaged);
    vmb_view_add_time(object, "oldest", stats->oldest_ns);
    vmb_view_add_time(object, "newest", stats->newest_ns);
    vmb_json_add_uint(object, "virtual", stats->size);
    vmb_json_add_uint(object, "data", stats->data);
    vmb_json_add_uint(object, "stored", stats->stored);
    g_autofree char *ratio = ratio_of(stats);
    vmb_json_add(object, "ratio",
                 ratio != NULL ? json_object_new_double_s(vmb_stats_ratio(stats), ratio) : NULL);
    vmb_json_add_uint(object, "retired", stats->retired);
    vmb_view_add_bytes(object, "growth_per_day", stats->growth);
}

static void
print_json(const Figures *figures)
{
    VmbJson *document = vmb_view_new(NULL), *sum = json_object_new_object();
    VmbJson *domains = json_object_new_array();
    vmb_json_add_string(sum, "path", figures->path);
    vmb_json_add_uint(sum, "domains", figures->all->len);
    add_figures(sum, &figures->sum);
    vmb_json_add_uint(sum, "free", figures->free_bytes);
    vmb_view_add_bytes(sum, "days_until_full",
                       vmb_stats_days_left(&figures->sum, figures->free_bytes));
    for (guint i = 0; i < figures->domains->len; i++) {
        const VmbCatalogDomain *domain = figures->domains->pdata[i];
        VmbStats stats = vmb_stats_domain(domain, figures->now_ns);
        VmbJson *object = json_object_new_object();
        vmb_json_add_string(object, "domain", domain->name);
        vmb_json_add_string(object, "uuid", domain->uuid);
        add_figures(object, &stats);
        json_object_array_add(domains, object);
    }
    vmb_json_add(document, "repository", sum);
    vmb_json_add(document, "domains", domains);
    vmb_output_json_document(document);
}

/* All domains count for the repository, also those that are not shown. */
static gboolean
collect(Figures *figures, VmbRepository *repository, const char *const *names, GError **error)
{
    figures->now_ns = vmb_units_now();
    figures->sum = (VmbStats)VMB_STATS_NONE;
    figures->path = vmb_repository_path(repository);
    figures->all = vmb_catalog_read(repository, NULL, error);
    if (figures->all == NULL)
        return FALSE;
    figures->domains = names != NULL && names[0] != NULL
                           ? vmb_catalog_read(repository, names, error)
                           : g_ptr_array_ref(figures->all);
    if (figures->domains == NULL)
        return FALSE;
    for (guint i = 0; i < figures->all->len; i++) {
        VmbStats stats = vmb_stats_domain(figures->all->pdata[i], figures->now_ns);
        vmb_stats_add(&figures->sum, &stats);
    }
    return vmb_fs_free_space(figures->path, &figures->free_bytes, error);
}

int
vmb_verb_stats(VmbCommand *command)
{
    gboolean json = FALSE;
    const VmbOption options[] = {
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document instead of a table", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    g_auto(Figures) figures = {0};
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    const char *path = vmb_command_repository(command, &error);
    g_autoptr(VmbRepository) repository = path != NULL ? vmb_repository_open(path, &error) : NULL;
    if (repository == NULL || !collect(&figures, repository, vmb_command_operands(command), &error))
        return vmb_command_fail(error);
    if (json)
        print_json(&figures);
    else
        print_text(&figures);
    vmb_domains_tell_shared_names(figures.domains);
    return vmb_domains_tell_damage(figures.domains);
}
