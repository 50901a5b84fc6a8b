/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much a repository and each of its domains hold, and how they grow. */
#include "job/stats.h"
#include "job/measure.h"

static guint64
size_of(const VmbSummary *point)
{
    guint64 bytes = 0;
    for (guint i = 0; i < point->n_disks; i++)
        bytes += point->disks[i].size;
    return bytes;
}

static void
add_point(VmbStats *stats, const VmbSummary *point)
{
    stats->n_points++;
    if (point->damage != NULL) {
        stats->n_damaged++;
        return;
    }
    if (stats->oldest_ns == 0 || point->time_ns < stats->oldest_ns)
        stats->oldest_ns = point->time_ns;
    stats->newest_ns = MAX(stats->newest_ns, point->time_ns);
    stats->size = size_of(point); /* they are in order */
    stats->stored += vmb_summary_stored(point);
}

VmbStats
vmb_stats_domain(const VmbCatalogDomain *domain, gint64 now_ns)
{
    VmbStats stats = VMB_STATS_NONE;
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    for (guint i = 0; i < domain->points->len; i++) {
        add_point(&stats, domain->points->pdata[i]);
        g_ptr_array_add(all, domain->points->pdata[i]);
    }
    VmbMeasure shown = vmb_measure(all, NULL, now_ns);
    stats.data = shown.data;
    stats.images = shown.images;
    for (guint i = 0; i < domain->retired->len; i++) {
        stats.retired += vmb_summary_stored(domain->retired->pdata[i]);
        g_ptr_array_add(all, domain->retired->pdata[i]);
    }
    /* What a point has added counts as long as it is there, and further on once it is folded. */
    VmbMeasure measure = vmb_measure(all, NULL, now_ns);
    stats.growth = vmb_measure_growth(&measure);
    return stats;
}

void
vmb_stats_add(VmbStats *sum, const VmbStats *one)
{
    sum->n_points += one->n_points;
    sum->n_damaged += one->n_damaged;
    if (sum->oldest_ns == 0 || (one->oldest_ns != 0 && one->oldest_ns < sum->oldest_ns))
        sum->oldest_ns = one->oldest_ns;
    sum->newest_ns = MAX(sum->newest_ns, one->newest_ns);
    sum->size += one->size;
    sum->data += one->data;
    sum->images += one->images;
    sum->stored += one->stored;
    sum->retired += one->retired;
    if (one->growth != VMB_BYTES_UNKNOWN)
        sum->growth = one->growth + (sum->growth != VMB_BYTES_UNKNOWN ? sum->growth : 0);
}

double
vmb_stats_ratio(const VmbStats *stats)
{
    VmbMeasure measure = {.data = stats->data, .images = stats->images};
    return vmb_measure_ratio(&measure);
}

guint64
vmb_stats_days_left(const VmbStats *stats, guint64 free_bytes)
{
    if (stats->growth == VMB_BYTES_UNKNOWN || stats->growth == 0)
        return VMB_BYTES_UNKNOWN;
    return free_bytes / stats->growth;
}
