/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads what a fold has copied back, before anything depends on it. */
#include "image/fold-check.h"
#include "block/pipeline.h"
#include "image/chain.h"
#include "image/qcow2-reader-private.h"
#include "util/error.h"
#include "util/fsio.h"

#include <fcntl.h>

typedef struct {
    const VmbFoldOptions *options;
    VmbChain *chain; /* the one image as it will be */
    VmbQcow2Reader *child;
    VmbQcow2Entry *entries; /* of the child, one table */
    GArray *damage;
} Check;

static gpointer
worker_new(gpointer user)
{
    const Check *check = user;
    return vmb_decoder_new(check->chain);
}

static void
worker_free(gpointer worker)
{
    vmb_decoder_free(worker);
}

static gboolean
decode(VmbChunk *chunk, gpointer worker, gpointer user, GError **error)
{
    const Check *check = user;
    return vmb_decoder_chunk(worker, chunk, check->damage, error);
}

static gboolean
is_stored(const VmbQcow2Entry *entry)
{
    return entry->kind == VMB_BLOCK_PLAIN || entry->kind == VMB_BLOCK_COMPRESSED;
}

/* Queues the blocks of a window that the child stores, in chunks of neighbours. */
static gboolean
queue_window(Check *check, VmbPipeline *pipeline, const VmbChainWindow *window)
{
    guint64 size = vmb_round_up(vmb_chain_size(check->chain), VMB_QCOW2_SECTOR);
    for (guint first = 0, n; first < window->n_blocks; first += MAX(n, 1)) {
        for (n = 0; n < VMB_CHUNK_BLOCKS && first + n < window->n_blocks &&
                    is_stored(&check->entries[first + n]);)
            n++;
        if (n == 0)
            continue;
        guint64 offset = window->offset + (guint64)first * VMB_BLOCK_SIZE;
        VmbChunk *chunk = vmb_pipeline_take(
            pipeline, offset, MIN((guint64)n * VMB_BLOCK_SIZE, size - offset));
        if (chunk == NULL)
            return FALSE;
        chunk->n_blocks = n;
        memcpy(chunk->blocks, window->blocks + first, n * sizeof(VmbBlock));
        vmb_pipeline_push(pipeline, chunk);
    }
    return TRUE;
}

static gboolean
read_back(Check *check, GError **error)
{
    VmbPipelineConfig config = {
        .worker_new = worker_new, .worker_free = worker_free, .work = decode, .user = check};
    g_autoptr(VmbPipeline) pipeline = vmb_pipeline_new(&config);
    for (guint64 index = 0; index < vmb_qcow2_l1_entries(vmb_chain_size(check->chain)); index++) {
        const VmbChainWindow *window = NULL;
        gboolean any = FALSE;
        if (g_cancellable_is_cancelled(check->options->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "%s: cancelled",
                                 check->options->child.label);
        if (!vmb_chain_window(check->chain, index, &window, error) ||
            !vmb_qcow2_reader_table(check->child, index, check->entries, &any, error))
            return FALSE;
        if (any && !queue_window(check, pipeline, window))
            break; /* finish tells the reason */
    }
    return vmb_pipeline_finish(pipeline, error);
}

/* A block that does not match its digest: was it like that before? */
static gboolean
compare_stored(Check *check, guint64 offset, GError **error)
{
    const VmbChainWindow *window = NULL;
    guint64 block = offset / VMB_BLOCK_SIZE;
    gboolean any = FALSE;
    if (!vmb_chain_map(check->chain, block / VMB_QCOW2_L2_ENTRIES, &window, error) ||
        !vmb_qcow2_reader_table(check->child, block / VMB_QCOW2_L2_ENTRIES, check->entries, &any,
                                error))
        return FALSE;
    const VmbBlock *copy = &window->blocks[block % VMB_QCOW2_L2_ENTRIES];
    const VmbQcow2Entry *stored = &check->entries[block % VMB_QCOW2_L2_ENTRIES];
    guint32 length = MIN(copy->stored_length, stored->length);
    g_autofree guint8 *a = g_malloc(VMB_BLOCK_SIZE), *b = g_malloc(VMB_BLOCK_SIZE);
    /* The shortest frame that it can be; what follows belongs to others. */
    if (stored->kind == VMB_BLOCK_COMPRESSED)
        length = length > VMB_QCOW2_SECTOR ? length - VMB_QCOW2_SECTOR : 1;
    if (!vmb_fs_pread(check->options->parent.image_fd, a, length, copy->host_offset,
                      check->options->parent.label, error) ||
        !vmb_fs_pread(check->options->child.image_fd, b, length, stored->host_offset,
                      check->options->child.label, error))
        return FALSE;
    return (copy->kind == stored->kind && memcmp(a, b, length) == 0) ||
           vmb_error_set(error, VMB_ERROR_FAILED,
                         "%s: the copy of the block at disk offset %" G_GUINT64_FORMAT
                         " reads back otherwise than it was written; nothing depends on it. Check "
                         "the repository's disk and memory",
                         check->options->child.label, offset);
}

gboolean
vmb_fold_check(const VmbFoldOptions *options, const guint8 *header, VmbFoldResult *result,
               GError **error)
{
    const VmbFoldImage *parent = &options->parent, *child = &options->child;
    VmbChainLayer layer = {.label = child->label,
                           .image_fd = parent->image_fd,
                           .digests_fd = options->digests_out,
                           .size = child->size,
                           .header = header};
    guint8 digest[VMB_DIGEST_SIZE];
    /* From the disk, as far as the kernel lets go of what it has in memory. */
    (void)posix_fadvise(parent->image_fd, 0, 0, POSIX_FADV_DONTNEED);
    g_autofree VmbQcow2Entry *entries = g_new(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    g_autoptr(VmbChain) chain = vmb_chain_open(&layer, 1, error);
    g_autoptr(VmbQcow2Reader) reader =
        chain == NULL ? NULL
                      : vmb_qcow2_reader_open(child->image_fd, child->size, child->label, error);
    if (reader == NULL)
        return FALSE;
    Check check = {options, chain, reader, entries, result->damage};
    if (!read_back(&check, error) || !vmb_chain_digests_end(chain, 0, digest, error))
        return FALSE;
    if (memcmp(digest, result->digests_digest, sizeof digest) != 0)
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: the new digests read back otherwise",
                             child->label);
    for (guint i = 0; i < result->damage->len; i++)
        if (!compare_stored(&check, g_array_index(result->damage, guint64, i), error))
            return FALSE;
    return TRUE;
}
