/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block status replies without a server: malformed ones, and the merge of two contexts. */
#include "nbd/extents.h"

#define HOLE 1u
#define ZERO 2u

static GArray *
runs_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(VmbNbdRun));
}

static void
test_parse_good(void)
{
    static const guint32 entries[] = {100, 0, 200, HOLE | ZERO, G_MAXUINT32, HOLE};
    g_autoptr(GArray) runs = runs_new();
    g_assert_null(vmb_nbd_runs_parse(runs, entries, 6, 1000));
    g_assert_cmpuint(runs->len, ==, 3);
    g_assert_cmpuint(g_array_index(runs, VmbNbdRun, 1).length, ==, 200);
    g_assert_cmphex(g_array_index(runs, VmbNbdRun, 1).flags, ==, HOLE | ZERO);
    g_assert_cmpuint(g_array_index(runs, VmbNbdRun, 2).length, ==, 700); /* cut */
    g_array_set_size(runs, 0);
    g_assert_null(vmb_nbd_runs_parse(runs, entries, 2, 1000)); /* short */
    g_assert_cmpuint(g_array_index(runs, VmbNbdRun, 0).length, ==, 100);
}

static void
test_parse_bad(void)
{
    static const guint32 odd[] = {100, 0, 200};
    static const guint32 empty_extent[] = {100, 0, 0, 0, 100, 0};
    static const guint32 beyond[] = {1000, 0, 1, 0};
    static const guint32 many[] = {G_MAXUINT32, 0, G_MAXUINT32, 0};
    const struct {
        const guint32 *entries;
        gsize n;
    } cases[] = {{odd, 0}, {odd, 1}, {odd, 3}, {empty_extent, 6}, {beyond, 4}, {many, 4}};
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GArray) runs = runs_new();
        g_assert_nonnull(vmb_nbd_runs_parse(runs, cases[i].entries, cases[i].n, 1000));
    }
}

/* Random runs that cover at least one byte of @bits, one flag byte per unit. */
static GArray *
random_runs(guint8 *flags, guint n, guint32 kinds)
{
    GArray *runs = runs_new();
    for (guint i = 0; i < n;) {
        VmbNbdRun run = {.length = (guint64)g_test_rand_int_range(1, 20),
                         .flags = (guint32)g_test_rand_int() & kinds};
        run.length = MIN(run.length, n - i);
        for (guint64 k = 0; k < run.length; k++)
            flags[i++] = (guint8)run.flags;
        g_array_append_val(runs, run);
    }
    return runs;
}

/* Against a model of one flag per byte. */
static void
check_merge(guint n_base, guint n_dirty, guint64 offset)
{
    guint8 base[300], dirty[300];
    g_autoptr(GArray) base_runs = random_runs(base, n_base, HOLE | ZERO);
    g_autoptr(GArray) dirty_runs = n_dirty > 0 ? random_runs(dirty, n_dirty, 1) : NULL;
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    guint64 reach = n_dirty > 0 ? MIN(n_base, n_dirty) : n_base;
    g_assert_cmpuint(vmb_nbd_extents_merge(base_runs, dirty_runs, offset, extents), ==, reach);
    guint64 at = 0;
    for (guint i = 0; i < extents->len; i++) {
        const VmbNbdExtent *e = &g_array_index(extents, VmbNbdExtent, i);
        g_assert_cmpuint(e->offset, ==, offset + at);
        g_assert_cmpuint(e->length, >, 0);
        if (i > 0)
            g_assert_true(e[-1].dirty != e->dirty || e[-1].zero != e->zero);
        for (guint64 k = 0; k < e->length; k++, at++) {
            g_assert_cmpint(e->zero, ==, (base[at] & ZERO) != 0);
            g_assert_cmpint(e->dirty, ==, n_dirty == 0 || dirty[at] == 1);
        }
    }
    g_assert_cmpuint(at, ==, reach);
}

static void
test_merge(void)
{
    for (int round = 0; round < 2000; round++)
        check_merge((guint)g_test_rand_int_range(1, 300), (guint)g_test_rand_int_range(0, 300),
                    (guint64)g_test_rand_int() << 30);
}

/* Two replies in a row join at their border; with a gap between them they would not. */
static void
test_join(void)
{
    static const guint32 entries[] = {10, ZERO};
    g_autoptr(GArray) runs = runs_new();
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_assert_null(vmb_nbd_runs_parse(runs, entries, 2, 100));
    vmb_nbd_extents_merge(runs, NULL, 0, extents);
    vmb_nbd_extents_merge(runs, NULL, 10, extents);
    g_assert_cmpuint(extents->len, ==, 1);
    g_assert_cmpuint(g_array_index(extents, VmbNbdExtent, 0).length, ==, 20);
    vmb_nbd_extents_merge(runs, NULL, 30, extents);
    g_assert_cmpuint(extents->len, ==, 2);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/extents/parse-good", test_parse_good);
    g_test_add_func("/extents/parse-bad", test_parse_bad);
    g_test_add_func("/extents/merge", test_merge);
    g_test_add_func("/extents/join", test_join);
    return g_test_run();
}
