/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How chunks of a disk become an image and its digests: what the threads of the hot path's pipeline do. */
#include "job/disk-sink.h"
#include "block/compress.h"
#include "block/encode.h"
#include "util/units.h"

#include <string.h>

/* The image has nothing below it: what is absent reads as zero there. */
static gboolean
is_full(const VmbDiskSink *sink)
{
    return sink->backup->parent == NULL || sink->backup->synthetic;
}

static gboolean
may_hold_frames(const VmbDiskBackup *backup)
{
    return backup->compress_level != VMB_COMPRESS_NONE || backup->parent_frames;
}

/* ---- workers ---- */

typedef struct {
    VmbEncoder *encoder;
    VmbDecoder *decoder; /* NULL: nothing is copied */
    GArray *damage;      /* guint64 offsets, of one chunk */
} Worker;

static gpointer
worker_new(gpointer user)
{
    const VmbDiskBackup *backup = ((VmbDiskSink *)user)->backup;
    Worker *worker = g_new0(Worker, 1);
    worker->encoder = vmb_encoder_new(backup->compress_level);
    worker->damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    if (backup->synthetic)
        worker->decoder = vmb_decoder_new(backup->parent);
    return worker;
}

static void
worker_free(gpointer data)
{
    Worker *worker = data;
    vmb_encoder_free(worker->encoder);
    vmb_decoder_free(worker->decoder);
    g_array_unref(worker->damage);
    g_free(worker);
}

static void
note_damage(VmbDiskSink *sink, const VmbChunk *chunk, const GArray *damage)
{
    g_mutex_lock(&sink->lock);
    for (guint i = 0; i < damage->len; i++) {
        guint64 offset = g_array_index(damage, guint64, i);
        guint b = (guint)((offset - chunk->offset) / VMB_BLOCK_SIZE);
        VmbDamagedRange range = {chunk->blocks[b].layer, offset, VMB_BLOCK_SIZE};
        g_array_append_val(sink->backup->found, range);
    }
    g_mutex_unlock(&sink->lock);
}

/* What is copied is decoded as well: only so is it known to be what its digest says. */
static gboolean
check_stored(VmbDiskSink *sink, Worker *worker, VmbChunk *chunk, GError **error)
{
    g_array_set_size(worker->damage, 0);
    if (!vmb_decoder_chunk(worker->decoder, chunk, worker->damage, error))
        return FALSE;
    if (worker->damage->len > 0) {
        note_damage(sink, chunk, worker->damage);
        chunk->stored = FALSE;
        chunk->again = TRUE;
    }
    return TRUE;
}

static gboolean
encode(VmbChunk *chunk, gpointer data, gpointer user, GError **error)
{
    Worker *worker = data;
    if (chunk->stored)
        return check_stored(user, worker, chunk, error);
    vmb_encoder_chunk(worker->encoder, chunk);
    return TRUE;
}

/* ---- writing ---- */

static gboolean
write_zero(const VmbDiskSink *sink, guint64 offset, guint64 length, GError **error)
{
    return is_full(sink) ||
           (vmb_qcow2_writer_zero(sink->writer, offset, length, error) &&
            vmb_digest_writer_zero(sink->digests, offset, length, error));
}

static gboolean
write_block(const VmbDiskSink *sink, guint64 offset, const VmbBlock *block, GError **error)
{
    if (block->kind == VMB_BLOCK_ABSENT)
        return TRUE; /* it has not changed */
    if (block->kind == VMB_BLOCK_ZERO)
        return write_zero(sink, offset, MIN(VMB_BLOCK_SIZE, sink->size - offset), error);
    return vmb_qcow2_writer_block(sink->writer, offset, block->kind, block->stored,
                                  block->stored_length, error) &&
           vmb_digest_writer_data(sink->digests, offset, block->digest, block->check, error);
}

/* The bitmap or the chain is wrong: which of them is asked later. */
static void
judge_probe(const VmbDiskSink *sink, const VmbChunk *chunk)
{
    if (chunk->blocks[0].kind != VMB_BLOCK_ABSENT)
        g_array_append_val(sink->backup->differing, chunk->offset);
}

static gboolean
emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    const VmbDiskSink *sink = user;
    if (chunk->probe) {
        judge_probe(sink, chunk);
        return TRUE;
    }
    vmb_progress_advance(sink->backup->progress, chunk->length,
                         chunk->data != NULL ? chunk->length : 0);
    if (chunk->data == NULL)
        return write_zero(sink, chunk->offset, chunk->length, error);
    for (guint i = 0; i < chunk->n_blocks; i++)
        if (!write_block(sink, chunk->offset + (guint64)i * VMB_BLOCK_SIZE, &chunk->blocks[i],
                         error))
            return FALSE;
    return TRUE;
}

/* ---- putting it together ---- */

gboolean
vmb_disk_sink_open(VmbDiskSink *sink, VmbDiskBackup *backup, GError **error)
{
    *sink = (VmbDiskSink){.backup = backup, .size = vmb_round_up(backup->size, 512)};
    g_mutex_init(&sink->lock);
    VmbQcow2WriterOptions image = {sink->size, may_hold_frames(backup), backup->backing_file,
                                   backup->label};
    sink->writer = vmb_qcow2_writer_new(backup->image_fd, &image, error);
    if (sink->writer == NULL)
        return FALSE;
    sink->digests = vmb_digest_writer_new(backup->digests_fd, backup->size, backup->label, error);
    return sink->digests != NULL;
}

void
vmb_disk_sink_clear(VmbDiskSink *sink)
{
    if (sink->backup == NULL)
        return;
    g_clear_pointer(&sink->digests, vmb_digest_writer_free);
    g_clear_pointer(&sink->writer, vmb_qcow2_writer_free);
    g_mutex_clear(&sink->lock);
    sink->backup = NULL;
}

VmbPipeline *
vmb_disk_sink_start(VmbDiskSink *sink)
{
    VmbPipelineConfig config = {.worker_new = worker_new,
                                .worker_free = worker_free,
                                .work = encode,
                                .emit = emit,
                                .user = sink};
    return vmb_pipeline_new(&config);
}

gboolean
vmb_disk_sink_finish(VmbDiskSink *sink, VmbManifestDisk *entry, GError **error)
{
    VmbQcow2Summary summary;
    if (!vmb_qcow2_writer_finish(sink->writer, &summary, error) ||
        !vmb_digest_writer_finish(sink->digests, &entry->digests_size, entry->digests_digest,
                                  error))
        return FALSE;
    entry->image_size = summary.file_size;
    entry->compressed = may_hold_frames(sink->backup);
    entry->data_blocks = summary.data_blocks;
    entry->zero_blocks = summary.zero_blocks;
    entry->stored_bytes = summary.stored_bytes;
    memcpy(entry->head_digest, summary.head_digest, VMB_DIGEST_SIZE);
    memcpy(entry->tables_digest, summary.tables_digest, VMB_DIGEST_SIZE);
    return TRUE;
}
