/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: block status replies of an NBD server, and the merge of two contexts. */
#include "fuzz.h"
#include "nbd/extents.h"

/* Input: u32 bytes asked for; u8 words of the first reply; the words of both, 32 bits each. */

#define FLAG_ZERO 2u  /* base:allocation */
#define FLAG_DIRTY 1u /* qemu:dirty-bitmap */
#define OFFSET (G_GUINT64_CONSTANT(1) << 40)

void
fuzz_set_up(void)
{
}

/* Flags of the run that holds byte @at. */
static guint32
flags_at(const GArray *runs, guint64 at)
{
    for (guint i = 0; i < runs->len; i++) {
        const VmbNbdRun *run = &g_array_index(runs, VmbNbdRun, i);
        if (at < run->length)
            return run->flags;
        at -= run->length;
    }
    fuzz_broken(__FILE__, __LINE__, "a byte that no run tells of");
}

static guint64
total(const GArray *runs, guint64 limit)
{
    guint64 sum = 0;
    for (guint i = 0; i < runs->len; i++) {
        FUZZ_CHECK(g_array_index(runs, VmbNbdRun, i).length > 0);
        sum += g_array_index(runs, VmbNbdRun, i).length;
    }
    FUZZ_CHECK(sum > 0 && sum <= limit);
    return sum;
}

/* The extent that tells of byte @at of the answer. */
static void
check_byte(const GArray *extents, const GArray *base, const GArray *dirty, guint64 at)
{
    for (guint i = 0; i < extents->len; i++) {
        VmbNbdExtent extent = g_array_index(extents, VmbNbdExtent, i);
        if (at >= extent.offset - OFFSET && at - (extent.offset - OFFSET) < extent.length) {
            FUZZ_CHECK(extent.zero == ((flags_at(base, at) & FLAG_ZERO) != 0));
            FUZZ_CHECK(extent.dirty == (dirty == NULL || (flags_at(dirty, at) & FLAG_DIRTY) != 0));
            return;
        }
    }
    fuzz_broken(__FILE__, __LINE__, "a byte that no extent tells of");
}

/* At the first and the last byte of each run; within it nothing can change but where another run
 * begins. */
static void
check_runs(const GArray *runs, const GArray *extents, const GArray *base, const GArray *dirty,
           guint64 end)
{
    guint64 at = 0;
    for (guint i = 0; i < runs->len && at < end; i++) {
        check_byte(extents, base, dirty, at);
        at += g_array_index(runs, VmbNbdRun, i).length;
        check_byte(extents, base, dirty, MIN(at, end) - 1);
    }
}

static void
check_merge(const GArray *base, const GArray *dirty, guint64 expected)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    FUZZ_CHECK(vmb_nbd_extents_merge(base, dirty, OFFSET, extents) == expected);
    guint64 next = OFFSET;
    for (guint i = 0; i < extents->len; i++) {
        VmbNbdExtent extent = g_array_index(extents, VmbNbdExtent, i);
        FUZZ_CHECK(extent.offset == next && extent.length > 0);
        next += extent.length;
        if (i > 0) {
            const VmbNbdExtent *before = &g_array_index(extents, VmbNbdExtent, i - 1);
            FUZZ_CHECK(before->zero != extent.zero || before->dirty != extent.dirty);
        }
    }
    FUZZ_CHECK(next == OFFSET + expected);
    check_runs(base, extents, base, dirty, expected);
    if (dirty != NULL)
        check_runs(dirty, extents, base, dirty, expected);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    FuzzInput input = {data, length};
    guint64 limit = MAX(fuzz_take(&input, 4), 1);
    gsize first = (gsize)fuzz_take(&input, 1);
    gsize n = input.left / sizeof(guint32);
    g_autofree guint32 *words = g_new(guint32, MAX(n, 1));
    fuzz_take_bytes(&input, (guint8 *)words, n * sizeof(guint32));
    first = MIN(first, n);
    g_autoptr(GArray) base = g_array_new(FALSE, FALSE, sizeof(VmbNbdRun));
    g_autoptr(GArray) dirty = g_array_new(FALSE, FALSE, sizeof(VmbNbdRun));
    /* Copies of just the right length. */
    g_autofree guint32 *one = g_memdup2(words, first * sizeof(guint32));
    g_autofree guint32 *two = g_memdup2(words + first, (n - first) * sizeof(guint32));
    const char *wrong_base = vmb_nbd_runs_parse(base, one, first, limit);
    const char *wrong_dirty = vmb_nbd_runs_parse(dirty, two, n - first, limit);
    FUZZ_CHECK(wrong_base == NULL || wrong_base[0] != '\0');
    if (wrong_base == NULL)
        check_merge(base, NULL, total(base, limit));
    if (wrong_base == NULL && wrong_dirty == NULL)
        check_merge(base, dirty, MIN(total(base, limit), total(dirty, limit)));
}

void
fuzz_seeds(void)
{
    static const guint32 words[] = {65536,  0, 65536, 3, 4096,       2,
                                    100000, 1, 70000, 0, 0xffffffff, 1};
    guint8 input[5 + sizeof words] = {0, 0, 4, 0, 6};
    memcpy(input + 5, words, sizeof words);
    fuzz_seed("both", input, sizeof input);
    input[4] = 12;
    fuzz_seed("base", input, sizeof input);
    input[4] = 5;
    fuzz_seed("odd", input, sizeof input);
}
