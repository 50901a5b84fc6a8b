/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a domain's points tell of its data: how well it compresses, and how fast the points grow. */
#include "job/measure.h"

#include <string.h>

#define DAY_NS (24 * 3600 * G_GINT64_CONSTANT(1000000000))

/* Of @disk, or of the whole point: bytes of its files; FALSE if it does not hold the disk. */
static gboolean
stored_of(const VmbSummary *point, const char *disk, guint64 *bytes)
{
    *bytes = vmb_summary_stored(point);
    if (disk == NULL)
        return TRUE;
    for (guint i = 0; i < point->n_disks; i++) {
        if (strcmp(point->disks[i].id, disk) != 0)
            continue;
        *bytes = point->disks[i].image_size + point->disks[i].digests_size;
        return TRUE;
    }
    return FALSE;
}

static void
add_data(VmbMeasure *measure, const VmbSummary *point, const char *disk)
{
    for (guint i = 0; i < point->n_disks; i++) {
        if (disk != NULL && strcmp(point->disks[i].id, disk) != 0)
            continue;
        measure->data += point->disks[i].data_blocks * VMB_BLOCK_SIZE;
        measure->images += point->disks[i].image_size;
    }
}

static gboolean
counts(const VmbSummary *point, gint64 now_ns)
{
    return point->damage == NULL && point->time_ns <= now_ns &&
           point->time_ns > now_ns - VMB_MEASURE_DAYS * DAY_NS;
}

VmbMeasure
vmb_measure(const GPtrArray *points, const char *disk, gint64 now_ns)
{
    VmbMeasure measure = {0};
    const VmbSummary *first = NULL;
    guint64 bytes = 0;
    for (guint i = 0; i < points->len; i++) {
        const VmbSummary *point = points->pdata[i];
        if (point->damage != NULL)
            continue;
        add_data(&measure, point, disk);
        if (counts(point, now_ns) && stored_of(point, disk, &bytes) &&
            (first == NULL || point->time_ns < first->time_ns))
            first = point;
    }
    for (guint i = 0; i < points->len; i++) {
        const VmbSummary *point = points->pdata[i];
        if (point == first || !counts(point, now_ns) || !stored_of(point, disk, &bytes))
            continue;
        measure.added += bytes;
        measure.n_added++;
        measure.span_ns = MAX(measure.span_ns, point->time_ns - first->time_ns);
    }
    return measure;
}

double
vmb_measure_ratio(const VmbMeasure *measure)
{
    return measure->images > 0 ? (double)measure->data / (double)measure->images : 0;
}

guint64
vmb_measure_growth(const VmbMeasure *measure)
{
    if (measure->n_added == 0 || measure->span_ns < DAY_NS / 2)
        return VMB_BYTES_UNKNOWN;
    return (guint64)((double)measure->added * (double)DAY_NS / (double)measure->span_ns);
}
