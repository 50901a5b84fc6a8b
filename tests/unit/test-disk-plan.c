/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backup does with each block, against a model that looks at single bytes' worth of 512. */
#include "job/disk-backup.h"
#include "nbd/reader.h"
#include "util/units.h"

#include <string.h>

#define UNIT 512u
#define UNITS_PER_BLOCK (VMB_BLOCK_SIZE / UNIT)

typedef struct {
    guint64 offset, size;
    guint n_blocks;
    gboolean *dirty, *zero; /* per unit from @offset on */
    guint n_units;
} Model;

static GArray *
extents_of(const Model *model)
{
    GArray *extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    for (guint i = 0; i < model->n_units;) {
        guint n = 1, limit = g_test_rand_bit() ? 300 : G_MAXUINT;
        while (i + n < model->n_units && model->dirty[i + n] == model->dirty[i] &&
               model->zero[i + n] == model->zero[i] && n < limit)
            n++;
        VmbNbdExtent extent = {model->offset + (guint64)i * UNIT, (guint64)n * UNIT,
                               model->dirty[i], model->zero[i]};
        g_array_append_val(extents, extent);
        i += n;
    }
    return extents;
}

static VmbAction
expected(const Model *model, guint block, guint64 dirty_from, guint64 suspect_from,
         gboolean incremental, gboolean parent_data, gboolean *contradicted)
{
    gboolean dirty = model->offset + ((guint64)block + 1) * VMB_BLOCK_SIZE > dirty_from;
    gboolean zero = TRUE;
    for (guint u = block * UNITS_PER_BLOCK;
         u < MIN((block + 1) * UNITS_PER_BLOCK, model->n_units); u++) {
        dirty |= model->dirty[u];
        zero &= model->zero[u];
    }
    *contradicted = FALSE;
    if (!incremental)
        return zero ? VMB_ACTION_SKIP : VMB_ACTION_READ;
    if (dirty)
        return zero ? VMB_ACTION_ZERO : VMB_ACTION_READ;
    *contradicted = zero && parent_data;
    if (!zero)
        return model->offset + (guint64)block * VMB_BLOCK_SIZE >= suspect_from ? VMB_ACTION_READ
                                                                               : VMB_ACTION_TRUST;
    return *contradicted ? VMB_ACTION_VANISHED : VMB_ACTION_SKIP;
}

static void
fill_runs(gboolean *values, guint n)
{
    guint longest = g_test_rand_int_range(0, 3) == 0 ? n + 1 : 4 * UNITS_PER_BLOCK;
    for (guint i = 0; i < n;) {
        gboolean value = g_test_rand_bit();
        guint length = longest == n + 1 ? n : (guint)g_test_rand_int_range(1, (gint32)longest);
        guint end = MIN(n, i + length);
        while (i < end)
            values[i++] = value;
    }
}

static void
check_one(gboolean incremental)
{
    guint n_blocks = (guint)g_test_rand_int_range(1, 40);
    Model model = {.offset = (guint64)g_test_rand_int_range(0, 3) * 8192 * VMB_BLOCK_SIZE,
                   .n_blocks = n_blocks};
    model.n_units = n_blocks * UNITS_PER_BLOCK - (guint)g_test_rand_int_range(0, UNITS_PER_BLOCK);
    model.size = model.offset + (guint64)model.n_units * UNIT;
    model.dirty = g_new0(gboolean, model.n_units);
    model.zero = g_new0(gboolean, model.n_units);
    fill_runs(model.dirty, model.n_units);
    fill_runs(model.zero, model.n_units);
    g_autoptr(GArray) extents = extents_of(&model);
    g_autofree VmbBlock *blocks = g_new0(VmbBlock, n_blocks);
    g_autofree guint8 *actions = g_malloc(n_blocks);
    VmbChainWindow parent = {
        .offset = model.offset, .n_blocks = (guint)g_test_rand_int_range(0, n_blocks + 1),
        .blocks = blocks};
    guint64 contradicted = 0, expected_contradicted = 0;
    guint64 dirty_from = g_test_rand_bit() ? G_MAXUINT64 : model.offset + VMB_BLOCK_SIZE * 5;
    guint64 suspect_from = g_test_rand_bit() ? G_MAXUINT64 : model.offset + VMB_BLOCK_SIZE * 3;
    parent.empty = g_test_rand_bit();
    for (guint b = 0; b < n_blocks && !parent.empty; b++)
        blocks[b].kind = (VmbBlockKind)g_test_rand_int_range(0, 4);
    vmb_disk_backup_plan(model.offset, n_blocks, model.size, extents, dirty_from,
                         suspect_from, incremental ? &parent : NULL, actions, &contradicted);
    for (guint b = 0; b < n_blocks; b++) {
        gboolean data = b < parent.n_blocks && blocks[b].kind >= VMB_BLOCK_PLAIN, against;
        g_assert_cmpint(actions[b], ==,
                        expected(&model, b, dirty_from, suspect_from, incremental, data, &against));
        expected_contradicted += against ? 1 : 0;
    }
    g_assert_cmpuint(contradicted, ==, expected_contradicted);
    g_free(model.dirty);
    g_free(model.zero);
}

static void
test_full(void)
{
    for (int i = 0; i < 500; i++)
        check_one(FALSE);
}

static void
test_incremental(void)
{
    for (int i = 0; i < 500; i++)
        check_one(TRUE);
}

#define ALL VMB_SIZE_MAX

/* One letter per 64 KiB: c clean data, d dirty, z zero. */
static guint64
survey(const char *blocks, guint unit_blocks, guint64 size)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    guint64 suspect_from = G_MAXUINT64;
    guint n = (guint)strlen(blocks);
    for (guint b = 0; b < n; b++) {
        VmbNbdExtent extent = {(guint64)b * VMB_BLOCK_SIZE, VMB_BLOCK_SIZE, blocks[b] == 'd',
                               blocks[b] == 'z'};
        g_array_append_val(extents, extent);
    }
    vmb_disk_backup_survey(0, n, size, extents, (guint64)unit_blocks * VMB_BLOCK_SIZE,
                           &suspect_from);
    return suspect_from == G_MAXUINT64 ? suspect_from : suspect_from / VMB_BLOCK_SIZE;
}

static void
test_survey(void)
{
    g_assert_cmpuint(survey("cccczzzz", 1, ALL), ==, 3);
    g_assert_cmpuint(survey("ccccdzdz", 1, ALL), ==, 3);
    g_assert_cmpuint(survey("cccczzzz", 4, ALL), ==, 0);
    g_assert_cmpuint(survey("cccccczz", 4, ALL), ==, 4);
    g_assert_cmpuint(survey("cccccdcz", 4, ALL), ==, 0);
    g_assert_cmpuint(survey("zzzzcdcz", 4, ALL), ==, 4);
    g_assert_cmpuint(survey("cdcccdcz", 4, ALL), ==, 0);
    g_assert_cmpuint(survey("zdzdzzzz", 4, ALL), ==, G_MAXUINT64);
    /* Behind the end of the parent or of the disk nothing counts. */
    g_assert_cmpuint(survey("ccccccdc", 4, 6 * VMB_BLOCK_SIZE), ==, 4);
    g_assert_cmpuint(survey("cccccccc", 4, 4 * VMB_BLOCK_SIZE), ==, 0);
    g_assert_cmpuint(survey("cccccccc", 4, 0), ==, G_MAXUINT64);
    g_assert_cmpuint(survey("cccccccz", 1, 5 * VMB_BLOCK_SIZE - 512), ==, 4);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/disk-plan/full", test_full);
    g_test_add_func("/disk-plan/incremental", test_incremental);
    g_test_add_func("/disk-plan/survey", test_survey);
    return g_test_run();
}
