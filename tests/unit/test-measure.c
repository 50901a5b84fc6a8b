/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What points tell of growth and compression, and what a full would take at most. */
#include "job/estimate.h"
#include "job/measure.h"
#include "job/stats.h"
#include "repo-fixture.h"

#define HOUR (3600 * FIXTURE_SECOND)
#define DAY (24 * HOUR)
#define NOW (FIXTURE_TIME + 100 * DAY)

/* A point made so long before NOW, with one disk of @image bytes that hold so many blocks. */
typedef struct {
    gint64 age_ns;
    guint64 image, blocks;
    gboolean damaged, retired;
} Made;

static GPtrArray *
points_of(const Made *made, guint n)
{
    static const char *const no_tags[] = {NULL};
    GPtrArray *points = g_ptr_array_new();
    for (guint i = 0; i < n; i++) {
        VmbSummary *point = g_new0(VmbSummary, 1);
        point->disks = g_new0(VmbSummaryDisk, 2);
        point->n_disks = 2;
        point->id = "x";
        point->tags = no_tags;
        point->time_ns = NOW - made[i].age_ns;
        point->files_bytes = 7;
        point->retired = made[i].retired;
        point->disks[0] = (VmbSummaryDisk){.id = "serial:a",
                                           .size = 100,
                                           .image_size = made[i].image,
                                           .data_blocks = made[i].blocks};
        point->disks[1] = (VmbSummaryDisk){.id = "serial:b", .size = 10, .image_size = 1};
        if (made[i].damaged)
            point->damage = g_error_new_literal(VMB_ERROR, VMB_ERROR_DAMAGE, "damaged");
        g_ptr_array_add(points, point);
    }
    return points;
}

static void
free_points(GPtrArray *points)
{
    for (guint i = 0; i < points->len; i++) {
        VmbSummary *point = points->pdata[i];
        g_free(point->disks);
        g_clear_error(&point->damage);
        g_free(point);
    }
    g_ptr_array_unref(points);
}

static VmbMeasure
measure(const Made *made, guint n, const char *disk)
{
    GPtrArray *points = points_of(made, n);
    VmbMeasure result = vmb_measure(points, disk, NOW);
    free_points(points);
    return result;
}

static void
assert_growth(const Made *made, guint n, const char *disk, guint64 expected)
{
    VmbMeasure result = measure(made, n, disk);
    g_assert_cmpuint(vmb_measure_growth(&result), ==, expected);
}

static void
test_growth(void)
{
    /* The first one is what was there before; each of the others has 8 bytes of other files. */
    const Made daily[] = {{4 * DAY, 1000000}, {3 * DAY, 92}, {2 * DAY, 192}, {DAY, 292}};
    assert_growth(daily, 4, NULL, 600 / 3);
    assert_growth(daily, 4, "serial:a", 576 / 3);
    assert_growth(daily, 4, "serial:b", 1);
    assert_growth(daily, 4, "serial:c", VMB_BYTES_UNKNOWN);
    assert_growth(daily, 1, NULL, VMB_BYTES_UNKNOWN);
    assert_growth(daily, 0, NULL, VMB_BYTES_UNKNOWN);
    const Made hourly[] = {{12 * HOUR, 5}, {6 * HOUR, 92}, {1 * HOUR, 92}};
    assert_growth(hourly, 3, NULL, VMB_BYTES_UNKNOWN);
    const Made half[] = {{13 * HOUR, 5}, {6 * HOUR, 92}, {HOUR, 92}};
    assert_growth(half, 3, NULL, 400);
    /* Older than 30 days, from the future, damaged: they say nothing. */
    const Made others[] = {{90 * DAY, 7},  {31 * DAY, 1 << 20}, {9 * DAY, 1 << 20},
                           {8 * DAY, 92},  {7 * DAY, 92},       {5 * DAY, 1 << 20, 0, TRUE},
                           {-DAY, 1 << 20}};
    assert_growth(others, 7, NULL, 100);
    const Made old[] = {{90 * DAY, 7}, {80 * DAY, 1 << 20}};
    assert_growth(old, 2, NULL, VMB_BYTES_UNKNOWN);
}

static void
test_ratio(void)
{
    const Made points[] = {{40 * DAY, 131072, 8}, {DAY, 131072, 4}, {0, 999, 999, TRUE}};
    VmbMeasure result = measure(points, 3, "serial:a");
    g_assert_cmpfloat_with_epsilon(vmb_measure_ratio(&result), 3, 1e-9);
    result = measure(points, 0, NULL);
    g_assert_cmpfloat(vmb_measure_ratio(&result), ==, 0);
}

static void
test_stats(void)
{
    const Made shown[] = {{3 * DAY, 1000}, {2 * DAY, 192}, {DAY, 292}, {0, 5, 5, TRUE}};
    const Made hidden[] = {{2 * DAY + HOUR, 92, 0, FALSE, TRUE}};
    VmbCatalogDomain domain = {.points = points_of(shown, 4), .retired = points_of(hidden, 1)};
    VmbStats stats = vmb_stats_domain(&domain, NOW), sum = VMB_STATS_NONE;
    g_assert_cmpuint(stats.n_points, ==, 4);
    g_assert_cmpuint(stats.n_damaged, ==, 1);
    g_assert_cmpint(stats.oldest_ns, ==, NOW - 3 * DAY);
    g_assert_cmpint(stats.newest_ns, ==, NOW - DAY);
    g_assert_cmpuint(stats.size, ==, 110);
    g_assert_cmpuint(stats.stored, ==, 1000 + 192 + 292 + 3 * 8);
    g_assert_cmpuint(stats.retired, ==, 100);
    g_assert_cmpuint(stats.growth, ==, (200 + 300 + 100) / 2);
    vmb_stats_add(&sum, &stats);
    stats.growth = VMB_BYTES_UNKNOWN;
    stats.oldest_ns = 0;
    vmb_stats_add(&sum, &stats);
    g_assert_cmpuint(sum.growth, ==, 300);
    g_assert_cmpint(sum.oldest_ns, ==, NOW - 3 * DAY);
    g_assert_cmpuint(sum.stored, ==, 2 * stats.stored);
    g_assert_cmpuint(vmb_stats_days_left(&sum, 3000), ==, 10);
    g_assert_cmpuint(vmb_stats_days_left(&stats, 3000), ==, VMB_BYTES_UNKNOWN);
    free_points(domain.points);
    free_points(domain.retired);
}

static void
test_full(void)
{
    const guint64 block = VMB_BLOCK_SIZE;
    /* Nothing but tables. */
    g_assert_cmpuint(vmb_estimate_full(VMB_GIB, 0), <, 10 * block);
    /* No less than what is stored, and little more. */
    for (guint64 data = VMB_MIB; data <= VMB_TIB; data *= 32) {
        g_assert_cmpuint(vmb_estimate_full(VMB_TIB, data), >, data);
        g_assert_cmpuint(vmb_estimate_full(VMB_TIB, data), <, 2 * data + 10 * block);
    }
    guint64 whole = vmb_estimate_full(VMB_SIZE_MAX, VMB_SIZE_MAX);
    g_assert_cmpuint(whole, >, VMB_SIZE_MAX);
    g_assert_cmpuint(whole, <, VMB_SIZE_MAX + VMB_SIZE_MAX / 500);
    g_assert_cmpuint(vmb_estimate_full(VMB_MIB, VMB_TIB), ==, vmb_estimate_full(VMB_MIB, VMB_MIB));
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/measure/growth", test_growth);
    g_test_add_func("/measure/ratio", test_ratio);
    g_test_add_func("/measure/stats", test_stats);
    g_test_add_func("/measure/full", test_full);
    return g_test_run();
}
