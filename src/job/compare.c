/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling by digests what a chain already holds: for whole disks, and for a few blocks as a test. */
#include "job/compare.h"
#include "block/digest.h"
#include "image/qcow2-format.h"
#include "util/log.h"

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

struct VmbSpotCheck {
    VmbChain *chain;
    VmbDecoder *decoder;
    VmbDigest *digest;
    guint8 *data, *output; /* one block each */
    guint64 stride;        /* every so many windows one is looked at */
    guint64 phase;         /* which of them */
    guint quota;           /* blocks of such a window */
    guint chosen[VMB_SPOT_CHECKS];
};

VmbSpotCheck *
vmb_spot_check_new(VmbChain *chain, guint64 size)
{
    VmbSpotCheck *check = g_new0(VmbSpotCheck, 1);
    guint64 windows = size / VMB_QCOW2_L2_SPAN + 1;
    check->chain = chain;
    check->decoder = vmb_decoder_new(chain);
    check->digest = vmb_digest_new();
    check->data = g_malloc(VMB_BLOCK_SIZE);
    check->output = g_malloc(VMB_BLOCK_SIZE);
    check->stride = MAX(windows / VMB_SPOT_CHECKS, 1);
    check->phase = g_random_int() % check->stride;
    check->quota = (guint)MAX(VMB_SPOT_CHECKS / windows, 1);
    return check;
}

void
vmb_spot_check_free(VmbSpotCheck *check)
{
    if (check == NULL)
        return;
    vmb_decoder_free(check->decoder);
    vmb_digest_free(check->digest);
    g_free(check->data);
    g_free(check->output);
    g_free(check);
}

static int
compare_places(gconstpointer a, gconstpointer b)
{
    guint x = *(const guint *)a, y = *(const guint *)b;
    return x < y ? -1 : x > y;
}

guint
vmb_spot_check_choose(VmbSpotCheck *check, const VmbChainWindow *window,
                      gboolean (*candidate)(guint block, gpointer user), gpointer user,
                      const guint **chosen)
{
    guint n = 0, seen = 0;
    *chosen = check->chosen;
    if (window->empty || (window->offset / VMB_QCOW2_L2_SPAN) % check->stride != check->phase)
        return 0;
    /* A reservoir: each candidate ends up in it with the same chance. */
    for (guint b = 0; b < window->n_blocks; b++) {
        if (!holds_data(&window->blocks[b]) || !candidate(b, user))
            continue;
        seen++;
        guint place = n < check->quota ? n++ : g_random_int() % seen;
        if (place < check->quota)
            check->chosen[place] = b;
    }
    qsort(check->chosen, n, sizeof *check->chosen, compare_places);
    return n;
}

gboolean
vmb_spot_check_expect(VmbSpotCheck *check, const VmbChainWindow *window, guint index,
                      VmbBlock *expected)
{
    g_autoptr(GError) error = NULL;
    VmbChunk stored = {.offset = window->offset + (guint64)index * VMB_BLOCK_SIZE,
                       .length = VMB_BLOCK_SIZE,
                       .data = check->data,
                       .output = check->output,
                       .n_blocks = 1};
    stored.blocks[0] = window->blocks[index];
    if (!vmb_decoder_chunk(check->decoder, &stored, NULL, &error)) {
        vmb_warning("%s; `vmbackup verify` tells more", error->message);
        return FALSE;
    }
    gboolean zero = vmb_zero_detect(check->data, VMB_BLOCK_SIZE);
    *expected = (VmbBlock){.kind = zero ? VMB_BLOCK_ZERO : VMB_BLOCK_PLAIN};
    vmb_digest_block(check->digest, check->data, VMB_BLOCK_SIZE, expected->digest);
    return TRUE;
}
