/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One image out of the newest layers of a chain, from blocks as they are stored. */
#include "job/merge.h"
#include "block/pipeline.h"
#include "image/digest-file.h"
#include "image/fold.h"
#include "image/qcow2-format.h"
#include "image/qcow2-writer.h"
#include "job/chain-files.h"
#include "util/error.h"

#include <string.h>

typedef struct {
    const VmbMerge *merge;
    VmbChain *chain;
    VmbQcow2Writer *writer;
    VmbDigestWriter *digests;
    GArray *damage;
    guint64 size;       /* of the newest layer, bytes */
    guint64 ends_block; /* what no layer has from here on reads as zero: a merged one ends before */
} Merging;

static const VmbChainLink *
link_at(const VmbMerge *merge, guint i)
{
    return &g_array_index(merge->links, VmbChainLink, i);
}

/* ---- the pipeline ---- */

static gpointer
worker_new(gpointer user)
{
    const Merging *merging = user;
    return vmb_decoder_new(merging->chain);
}

static void
worker_free(gpointer worker)
{
    vmb_decoder_free(worker);
}

static gboolean
decode(VmbChunk *chunk, gpointer worker, gpointer user, GError **error)
{
    const Merging *merging = user;
    return vmb_decoder_chunk(worker, chunk,
                             merging->merge->keep_damage ? merging->damage : NULL, error);
}

static gboolean
write_zero(Merging *merging, guint64 offset, guint64 length, GError **error)
{
    return merging->merge->backing_file == NULL ||
           (vmb_qcow2_writer_zero(merging->writer, offset, length, error) &&
            vmb_digest_writer_zero(merging->digests, offset, length, error));
}

static gboolean
emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    Merging *merging = user;
    guint64 size = vmb_round_up(merging->size, VMB_QCOW2_SECTOR);
    vmb_progress_advance(merging->merge->progress, chunk->length,
                         chunk->data != NULL ? chunk->length : 0);
    if (chunk->data == NULL)
        return write_zero(merging, chunk->offset, chunk->length, error);
    for (guint i = 0; i < chunk->n_blocks; i++) {
        const VmbBlock *block = &chunk->blocks[i];
        guint64 offset = chunk->offset + (guint64)i * VMB_BLOCK_SIZE;
        if (block->kind == VMB_BLOCK_ZERO) {
            if (!write_zero(merging, offset, MIN(VMB_BLOCK_SIZE, size - offset), error))
                return FALSE;
        } else if (!vmb_qcow2_writer_block(merging->writer, offset, block->kind, block->stored,
                                           block->stored_length, error) ||
                   !vmb_digest_writer_data(merging->digests, offset, block->digest, block->check,
                                           error)) {
            return FALSE;
        }
    }
    return TRUE;
}

/* ---- what is merged ---- */

typedef enum { NOTHING, ZERO, DATA } What;

static What
what_is(const Merging *merging, const VmbBlock *block, guint64 number)
{
    if (block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED)
        return DATA;
    return block->kind == VMB_BLOCK_ZERO || number >= merging->ends_block ? ZERO : NOTHING;
}

static gboolean
queue_run(Merging *merging, VmbPipeline *pipeline, const VmbChainWindow *window, guint first,
          guint n, What what)
{
    guint64 size = vmb_round_up(merging->size, VMB_QCOW2_SECTOR);
    guint64 offset = window->offset + (guint64)first * VMB_BLOCK_SIZE;
    guint64 length = MIN((guint64)n * VMB_BLOCK_SIZE, size - offset);
    if (what == ZERO)
        return vmb_pipeline_zero(pipeline, offset, length);
    VmbChunk *chunk = vmb_pipeline_take(pipeline, offset, length);
    if (chunk == NULL)
        return FALSE;
    chunk->n_blocks = n;
    memcpy(chunk->blocks, window->blocks + first, n * sizeof(VmbBlock));
    vmb_pipeline_push(pipeline, chunk);
    return TRUE;
}

static gboolean
queue_window(Merging *merging, VmbPipeline *pipeline, const VmbChainWindow *window)
{
    guint64 number = window->offset / VMB_BLOCK_SIZE;
    if (window->empty && number + window->n_blocks <= merging->ends_block)
        return TRUE;
    for (guint first = 0, n; first < window->n_blocks; first += n) {
        What what = what_is(merging, &window->blocks[first], number + first);
        guint most = what == DATA ? VMB_CHUNK_BLOCKS : VMB_QCOW2_L2_ENTRIES;
        for (n = 1; n < most && first + n < window->n_blocks &&
                    what_is(merging, &window->blocks[first + n], number + first + n) == what;)
            n++;
        if (what != NOTHING && !queue_run(merging, pipeline, window, first, n, what))
            return FALSE;
    }
    return TRUE;
}

/* The block in which a merged layer ends, if nothing of the merged ones is there: what lies below would show in
 * its first part only. Backups always store it. */
static gboolean
check_end(const Merging *merging, const VmbChainWindow *window, GError **error)
{
    const VmbMerge *merge = merging->merge;
    for (guint i = 1; i < merge->n_layers; i++) {
        guint64 end = link_at(merge, i)->disk->size, number = end / VMB_BLOCK_SIZE;
        guint64 first = window->offset / VMB_BLOCK_SIZE;
        if (merge->backing_file == NULL || end % VMB_BLOCK_SIZE == 0 || end >= merging->size ||
            number < first || number >= first + window->n_blocks)
            continue;
        if (window->blocks[number - first].kind == VMB_BLOCK_ABSENT)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "%s/%s disk %s: the block at offset %" G_GUINT64_FORMAT
                                 " is cut by the end of a shorter image", merge->domain,
                                 link_at(merge, 0)->point->id, link_at(merge, 0)->disk->target,
                                 number * VMB_BLOCK_SIZE);
    }
    return TRUE;
}

static gboolean
merge_windows(Merging *merging, GError **error)
{
    VmbPipelineConfig config = {.worker_new = worker_new, .worker_free = worker_free,
                                .work = decode, .emit = emit, .user = merging};
    g_autoptr(VmbPipeline) pipeline = vmb_pipeline_new(&config);
    for (guint64 index = 0; index < vmb_qcow2_l1_entries(merging->size); index++) {
        const VmbChainWindow *window = NULL;
        if (g_cancellable_is_cancelled(merging->merge->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "cancelled");
        if (!vmb_chain_window(merging->chain, index, &window, error) ||
            !check_end(merging, window, error))
            return FALSE;
        if (!queue_window(merging, pipeline, window))
            break; /* finish tells the reason */
    }
    return vmb_pipeline_finish(pipeline, error);
}

/* ---- what is relied upon, and what comes out ---- */

static gboolean
check_sources(const VmbMerge *merge, VmbChain *chain, GError **error)
{
    for (guint i = 0; i < merge->n_layers; i++) {
        const VmbChainLink *link = link_at(merge, i);
        guint8 digest[VMB_DIGEST_SIZE];
        if (!vmb_chain_digests_end(chain, i, digest, error))
            return FALSE;
        if (memcmp(digest, link->disk->digests_digest, sizeof digest) != 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s/%s disk %s: %s differs from the manifest's digest",
                                 merge->domain, link->point->id, link->disk->target,
                                 link->disk->digests);
    }
    return TRUE;
}

static guint64
shortest(const VmbMerge *merge)
{
    guint64 blocks = G_MAXUINT64;
    if (merge->backing_file == NULL)
        return blocks;
    for (guint i = 1; i < merge->n_layers; i++)
        blocks = MIN(blocks, vmb_round_up(link_at(merge, i)->disk->size, VMB_BLOCK_SIZE) /
                                 VMB_BLOCK_SIZE);
    return blocks;
}

static gboolean
finish(Merging *merging, VmbManifestDisk *entry, GError **error)
{
    VmbQcow2Summary summary;
    if (!vmb_qcow2_writer_finish(merging->writer, &summary, error) ||
        !vmb_digest_writer_finish(merging->digests, &entry->digests_size, entry->digests_digest,
                                  error))
        return FALSE;
    entry->image_size = summary.file_size;
    entry->data_blocks = summary.data_blocks;
    entry->zero_blocks = summary.zero_blocks;
    entry->stored_bytes = summary.stored_bytes;
    memcpy(entry->head_digest, summary.head_digest, VMB_DIGEST_SIZE);
    memcpy(entry->tables_digest, summary.tables_digest, VMB_DIGEST_SIZE);
    return TRUE;
}

gboolean
vmb_merge_layers(const VmbMerge *merge, VmbManifestDisk *entry, GArray *damage, GError **error)
{
    const VmbManifestDisk *newest = link_at(merge, 0)->disk;
    g_autoptr(VmbChainFiles) files =
        vmb_chain_files_open_part(merge->links, merge->n_layers, merge->domain, TRUE, error);
    if (files == NULL)
        return FALSE;
    entry->compressed = FALSE;
    for (guint i = 0; i < merge->n_layers; i++)
        entry->compressed |= link_at(merge, i)->disk->compressed;
    VmbQcow2WriterOptions options = {vmb_round_up(newest->size, VMB_QCOW2_SECTOR),
                                     entry->compressed, merge->backing_file, merge->domain};
    g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(merge->image_fd, &options, error);
    g_autoptr(VmbDigestWriter) digests =
        writer != NULL
            ? vmb_digest_writer_new(merge->digests_fd, newest->size, merge->domain, error)
            : NULL;
    if (digests == NULL)
        return FALSE;
    Merging merging = {merge,  vmb_chain_files_chain(files), writer, digests, damage,
                       newest->size, shortest(merge)};
    return merge_windows(&merging, error) && check_sources(merge, merging.chain, error) &&
           finish(&merging, entry, error);
}
