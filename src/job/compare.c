/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling by digests what a chain already holds: for whole disks, and for a few blocks as a test. */
#include "job/compare.h"
#include "block/digest.h"
#include "job/disk-backup.h"
#include "util/error.h"

#include <string.h>

static gboolean
holds_data(const VmbBlock *block)
{
    return block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED;
}

void
vmb_compare_expect(VmbChain *chain, const VmbChainWindow *window, VmbChunk *chunk)
{
    guint first = (guint)((chunk->offset - window->offset) / VMB_BLOCK_SIZE);
    guint n = (guint)((chunk->length + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE);
    chunk->compare = TRUE;
    memset(chunk->blocks, 0, n * sizeof(VmbBlock));
    for (guint i = 0; i < n && first + i < window->n_blocks; i++) {
        const VmbBlock *known = &window->blocks[first + i];
        if (!holds_data(known))
            continue;
        chunk->blocks[i].kind = known->kind;
        /* Nothing has a digest of zeroes: what is not known for certain counts as changed. */
        if (!vmb_chain_is_cut(chain, known, chunk->offset + (guint64)i * VMB_BLOCK_SIZE))
            memcpy(chunk->blocks[i].digest, known->digest, VMB_DIGEST_SIZE);
    }
}

/* A sample of what passes by, in which each has the same chance to be. */
typedef struct {
    guint quota, n, seen;
    VmbSpot *spots;
} Sample;

struct VmbSpotCheck {
    VmbDecoder *decoder;
    VmbDigest *digest;
    GRand *random;
    guint8 *data, *output; /* one block each */
    Sample all, recent, fresh;
    VmbSpot last;
    gboolean any;
    VmbSpot spots[VMB_SPOTS_MAX]; /* where the samples keep theirs */
};

VmbSpotCheck *
vmb_spot_check_new(VmbChain *chain, guint32 seed)
{
    VmbSpotCheck *check = g_new0(VmbSpotCheck, 1);
    check->decoder = vmb_decoder_new(chain);
    check->digest = vmb_digest_new();
    check->random = g_rand_new_with_seed(seed);
    check->data = g_malloc(VMB_BLOCK_SIZE);
    check->output = g_malloc(VMB_BLOCK_SIZE);
    check->all = (Sample){.quota = VMB_SPOTS_OF_ALL, .spots = check->spots};
    check->recent = (Sample){.quota = VMB_SPOTS_OF_RECENT,
                             .spots = check->all.spots + VMB_SPOTS_OF_ALL};
    check->fresh = (Sample){.quota = VMB_SPOTS_OF_NEW,
                            .spots = check->recent.spots + VMB_SPOTS_OF_RECENT};
    return check;
}

void
vmb_spot_check_free(VmbSpotCheck *check)
{
    if (check == NULL)
        return;
    vmb_decoder_free(check->decoder);
    vmb_digest_free(check->digest);
    g_rand_free(check->random);
    g_free(check->data);
    g_free(check->output);
    g_free(check);
}

static void
offer(VmbSpotCheck *check, Sample *sample, const VmbSpot *spot)
{
    guint place = sample->n;
    sample->seen++;
    if (sample->n < sample->quota)
        sample->n++;
    else
        place = g_rand_int(check->random) % sample->seen;
    if (place < sample->quota)
        sample->spots[place] = *spot;
}

void
vmb_spot_check_window(VmbSpotCheck *check, const VmbChainWindow *window, const guint8 *actions,
                      guint n_blocks)
{
    for (guint b = 0; b < n_blocks; b++) {
        VmbSpot spot = {.offset = window->offset + (guint64)b * VMB_BLOCK_SIZE};
        if (actions[b] != VMB_ACTION_TRUST)
            continue;
        if (b < window->n_blocks)
            spot.known = window->blocks[b];
        if (!holds_data(&spot.known)) {
            offer(check, &check->fresh, &spot);
            continue;
        }
        offer(check, &check->all, &spot);
        if (spot.known.layer == 0)
            offer(check, &check->recent, &spot);
        check->last = spot;
        check->any = TRUE;
    }
}

static int
compare_spots(gconstpointer a, gconstpointer b)
{
    guint64 x = ((const VmbSpot *)a)->offset, y = ((const VmbSpot *)b)->offset;
    return x < y ? -1 : x > y;
}

GArray *
vmb_spot_check_spots(const VmbSpotCheck *check)
{
    GArray *spots = g_array_sized_new(FALSE, FALSE, sizeof(VmbSpot), VMB_SPOTS_MAX);
    g_array_append_vals(spots, check->all.spots, check->all.n);
    g_array_append_vals(spots, check->recent.spots, check->recent.n);
    g_array_append_vals(spots, check->fresh.spots, check->fresh.n);
    if (check->any)
        g_array_append_val(spots, check->last);
    g_array_sort(spots, compare_spots);
    guint kept = 0;
    for (guint i = 0; i < spots->len; i++) {
        VmbSpot *spot = &g_array_index(spots, VmbSpot, i);
        if (kept == 0 || spot->offset != g_array_index(spots, VmbSpot, kept - 1).offset)
            g_array_index(spots, VmbSpot, kept++) = *spot;
    }
    g_array_set_size(spots, kept);
    return spots;
}

gboolean
vmb_spot_check_expect(VmbSpotCheck *check, const VmbSpot *spot, VmbBlock *expected, GError **error)
{
    g_autoptr(GError) cause = NULL;
    VmbChunk stored = {.offset = spot->offset,
                       .length = VMB_BLOCK_SIZE,
                       .data = check->data,
                       .output = check->output,
                       .n_blocks = 1};
    stored.blocks[0] = spot->known;
    if (!vmb_decoder_chunk(check->decoder, &stored, NULL, &cause))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "%s; `vmbackup verify` tells more",
                             cause->message);
    gboolean zero = vmb_zero_detect(check->data, VMB_BLOCK_SIZE);
    *expected = (VmbBlock){.kind = zero ? VMB_BLOCK_ZERO : VMB_BLOCK_PLAIN};
    vmb_digest_block(check->digest, check->data, VMB_BLOCK_SIZE, expected->digest);
    return TRUE;
}
