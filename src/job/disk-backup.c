/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hot path: one disk of a running job becomes an image and its digests. */
#include "job/disk-backup.h"
#include "block/compress.h"
#include "block/encode.h"
#include "block/pipeline.h"
#include "image/digest-file.h"
#include "image/qcow2-format.h"
#include "image/qcow2-writer.h"
#include "job/compare.h"
#include "nbd/reader.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/stall.h"
#include "util/units.h"

#include <poll.h>
#include <string.h>

/* Extents are asked for by so many L2 spans at once, at most 3.5 GiB, which is one request: few round
 * trips on a disk with few extents. Where they are many, the spans become fewer, because QEMU's main
 * loop, and with it the guest, stands still while it collects them. */
#define SPANS_PER_QUERY 7
#define MANY_EXTENTS 512
#define ZERO_RUNS_PER_DRAIN 1000

typedef struct {
    VmbDiskBackup *backup;
    guint64 size;       /* of the export and the image: the disk's, rounded up to 512 */
    guint64 dirty_from; /* everything from here on counts as dirty */
    VmbQcow2Writer *writer;
    VmbDigestWriter *digests;
    VmbPipeline *pipeline;
    VmbNbdReader *reader;
    GError **read_error; /* the first one of a completed read */
    gboolean began;
    guint zero_runs; /* queued since all reads were known to be complete */
    guint64 suspect_from; /* from here on clean blocks with data are read as well */
    struct {
        guint64 suspect_from;
        gboolean shrank;
    } survey;
    guint64 contradicted; /* blocks */
    VmbChainWindow beyond;        /* where the parent has ended */
    const VmbChainWindow *window; /* the parent's, where the plan is now; NULL for a full */
    VmbSpotCheck *spot_check;     /* NULL: there is no bitmap to be tested */
    gboolean surveying;
    gboolean vanished;            /* clean data has become zero, so far */
    guint64 first_read, last_read; /* monotonic ns: first one submitted, last one completed */
} Disk;

/* For the benchmark, which finds the defaults. */
static guint
knob(const char *name, guint fallback)
{
    const char *text = g_getenv(name);
    return text != NULL ? (guint)g_ascii_strtoull(text, NULL, 10) : fallback;
}

/* There is an earlier state with which to begin. */
static gboolean
has_parent(const Disk *disk)
{
    return disk->backup->parent != NULL;
}

/* The image has nothing below it: what is absent reads as zero there. */
static gboolean
is_full(const Disk *disk)
{
    return disk->backup->parent == NULL || disk->backup->synthetic;
}

/* ---- encoding and writing ---- */

typedef struct {
    VmbEncoder *encoder;
    VmbDecoder *decoder; /* NULL: nothing is copied */
} Worker;

static gpointer
worker_new(gpointer user)
{
    const Disk *disk = user;
    Worker *worker = g_new0(Worker, 1);
    worker->encoder = vmb_encoder_new(disk->backup->compress_level);
    if (disk->backup->synthetic)
        worker->decoder = vmb_decoder_new(disk->backup->parent);
    return worker;
}

static void
worker_free(gpointer data)
{
    Worker *worker = data;
    vmb_encoder_free(worker->encoder);
    vmb_decoder_free(worker->decoder);
    g_free(worker);
}

/* What is copied is decoded as well: only so is it known to be what its digest says. */
static gboolean
encode(VmbChunk *chunk, gpointer data, gpointer user, GError **error)
{
    Worker *worker = data;
    if (chunk->stored)
        return vmb_decoder_chunk(worker->decoder, chunk, NULL, error);
    vmb_encoder_chunk(worker->encoder, chunk);
    return TRUE;
}

static gboolean
write_zero(Disk *disk, guint64 offset, guint64 length, GError **error)
{
    return is_full(disk) ||
           (vmb_qcow2_writer_zero(disk->writer, offset, length, error) &&
            vmb_digest_writer_zero(disk->digests, offset, length, error));
}

static gboolean
write_block(Disk *disk, guint64 offset, const VmbBlock *block, GError **error)
{
    if (block->kind == VMB_BLOCK_ABSENT)
        return TRUE; /* it has not changed */
    if (block->kind == VMB_BLOCK_ZERO)
        return write_zero(disk, offset, MIN(VMB_BLOCK_SIZE, disk->size - offset), error);
    return vmb_qcow2_writer_block(disk->writer, offset, block->kind, block->stored,
                                  block->stored_length, error) &&
           vmb_digest_writer_data(disk->digests, offset, block->digest, block->check, error);
}

static gboolean
judge_probe(const Disk *disk, const VmbChunk *chunk, GError **error)
{
    return chunk->blocks[0].kind == VMB_BLOCK_ABSENT ||
           vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                         "%s: the bitmap calls the block at offset %" G_GUINT64_FORMAT
                         " unchanged, but it differs from the newest point",
                         disk->backup->label, chunk->offset);
}

static gboolean
emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    Disk *disk = user;
    if (chunk->probe)
        return judge_probe(disk, chunk, error);
    vmb_progress_advance(disk->backup->progress, chunk->length,
                         chunk->data != NULL ? chunk->length : 0);
    if (chunk->data == NULL)
        return write_zero(disk, chunk->offset, chunk->length, error);
    for (guint i = 0; i < chunk->n_blocks; i++)
        if (!write_block(disk, chunk->offset + (guint64)i * VMB_BLOCK_SIZE, &chunk->blocks[i],
                         error))
            return FALSE;
    return TRUE;
}

/* ---- reading ---- */

static void
read_done(gpointer item, const GError *error, gpointer user)
{
    Disk *disk = user;
    disk->last_read = vmb_units_monotonic();
    if (error == NULL)
        vmb_pipeline_push(disk->pipeline, item);
    else if (*disk->read_error == NULL)
        *disk->read_error = g_error_copy(error);
}

static gboolean
check_health(Disk *disk, GError **error)
{
    if (*disk->read_error != NULL) {
        g_propagate_error(error, g_steal_pointer(disk->read_error));
        return FALSE;
    }
    /* The pipeline's own error is told by its finish. */
    return !vmb_pipeline_failed(disk->pipeline) || vmb_pipeline_finish(disk->pipeline, error);
}

/* Nothing is in flight: only the target can make room. */
static gboolean
wait_for_target(Disk *disk, GError **error)
{
    GCancellable *cancel = disk->backup->cancel;
    struct pollfd fds[2] = {{vmb_pipeline_fd(disk->pipeline), POLLIN, 0},
                            {g_cancellable_get_fd(cancel), POLLIN, 0}};
    guint64 patience = vmb_io_patience();
    int n = poll(fds, 2, (int)MIN(patience / 1000000, G_MAXINT));
    g_cancellable_release_fd(cancel);
    if (n == 0) {
        if (disk->backup->on_stall != NULL)
            disk->backup->on_stall(disk->backup->stall_data);
        return vmb_error_set(error, VMB_ERROR_NO_PROGRESS,
                             "%s: the repository has taken no data for %" G_GUINT64_FORMAT " s; the "
                             "backup job was ended and the guest is not affected. Check the "
                             "repository's filesystem, then run the backup again",
                             disk->backup->label, patience / 1000000000);
    }
    if (g_cancellable_is_cancelled(cancel))
        return vmb_error_set(error, VMB_ERROR_CANCELLED, "%s: cancelled", disk->backup->label);
    return TRUE;
}

static gboolean
wait_for_room(Disk *disk, GError **error)
{
    if (vmb_nbd_reader_in_flight(disk->reader) == 0)
        return wait_for_target(disk, error);
    return vmb_nbd_reader_wait(disk->reader, vmb_pipeline_fd(disk->pipeline), error);
}

/* @probe: what the one block is expected to be, or NULL for one that is to be stored. */
static void
prepare(const Disk *disk, VmbChunk *chunk, const VmbBlock *probe)
{
    if (probe != NULL) {
        chunk->compare = chunk->probe = TRUE;
        chunk->blocks[0] = *probe;
    } else if (disk->backup->compare) {
        vmb_compare_expect(disk->backup->parent, disk->window, chunk);
    }
}

static gboolean
submit(Disk *disk, guint64 offset, guint32 length, const VmbBlock *probe, GError **error)
{
    VmbChunk *chunk = NULL;
    for (;;) {
        if (!check_health(disk, error))
            return FALSE;
        if (vmb_nbd_reader_has_room(disk->reader)) {
            chunk = vmb_pipeline_try_take(disk->pipeline, offset, length);
            if (chunk != NULL)
                break;
            if (!wait_for_room(disk, error))
                return FALSE;
        } else if (!vmb_nbd_reader_wait(disk->reader, -1, error)) {
            return FALSE;
        }
    }
    prepare(disk, chunk, probe);
    if (!vmb_nbd_reader_submit(disk->reader, chunk->data, offset, length, read_done, chunk, disk,
                               error))
        return FALSE;
    if (disk->began)
        return TRUE;
    disk->began = TRUE;
    disk->first_read = disk->last_read = vmb_units_monotonic();
    return vmb_fault_point("disk-data", error);
}

static gboolean
read_range(Disk *disk, guint64 offset, guint64 length, GError **error)
{
    for (guint64 done = 0; done < length; done += VMB_CHUNK_SIZE)
        if (!submit(disk, offset + done, (guint32)MIN(length - done, VMB_CHUNK_SIZE), NULL, error))
            return FALSE;
    return TRUE;
}

static gboolean
holds_data(const VmbBlock *block)
{
    return block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED;
}

/* Unlike a read, it is complete when it is queued. */
static gboolean
copy_blocks(Disk *disk, guint first, guint n, GError **error)
{
    guint64 offset = disk->window->offset + (guint64)first * VMB_BLOCK_SIZE;
    guint64 length = MIN((guint64)n * VMB_BLOCK_SIZE, disk->size - offset);
    VmbChunk *chunk = NULL;
    while (chunk == NULL) {
        if (!check_health(disk, error))
            return FALSE;
        chunk = vmb_pipeline_try_take(disk->pipeline, offset, length);
        if (chunk == NULL && !wait_for_room(disk, error))
            return FALSE;
    }
    chunk->stored = TRUE;
    chunk->n_blocks = n;
    memcpy(chunk->blocks, disk->window->blocks + first, n * sizeof(VmbBlock));
    disk->backup->copied += length;
    vmb_pipeline_push(disk->pipeline, chunk);
    return TRUE;
}

/* A synthetic full takes what has not changed from the chain: where that has nothing, it is zero. */
static gboolean
copy_range(Disk *disk, guint64 offset, guint64 length, GError **error)
{
    guint first = (guint)((offset - disk->window->offset) / VMB_BLOCK_SIZE);
    guint end = first + (guint)((length + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE);
    guint known = MIN(end, disk->window->n_blocks);
    for (guint n; first < known; first += n) {
        for (n = 0; n < VMB_CHUNK_BLOCKS && first + n < known &&
                    holds_data(&disk->window->blocks[first + n]);)
            n++;
        if (n > 0 && !copy_blocks(disk, first, n, error))
            return FALSE;
        if (n == 0) {
            guint64 at = disk->window->offset + (guint64)first * VMB_BLOCK_SIZE;
            vmb_progress_advance(disk->backup->progress, MIN(VMB_BLOCK_SIZE, disk->size - at), 0);
            n = 1;
        }
    }
    if (end > known)
        vmb_progress_advance(disk->backup->progress, (guint64)(end - known) * VMB_BLOCK_SIZE, 0);
    return TRUE;
}

/* A full queue of zero runs waits for the chunks before them, and those for reads that only this thread
 * drives: so the reads are completed before the queue can be full. */
static gboolean
zero_range(Disk *disk, guint64 offset, guint64 length, GError **error)
{
    if (++disk->zero_runs >= ZERO_RUNS_PER_DRAIN) {
        disk->zero_runs = 0;
        if (!vmb_nbd_reader_drain(disk->reader, error))
            return FALSE;
    }
    return vmb_pipeline_zero(disk->pipeline, offset, length) || check_health(disk, error);
}

/* ---- deciding ---- */

static gboolean
act(Disk *disk, guint64 offset, guint64 length, VmbAction action, GError **error)
{
    length = MIN(length, disk->size - offset);
    if (action == VMB_ACTION_READ)
        return read_range(disk, offset, length, error);
    if (action == VMB_ACTION_ZERO || action == VMB_ACTION_VANISHED)
        return zero_range(disk, offset, length, error);
    if (disk->backup->synthetic && !(disk->window->empty && action == VMB_ACTION_SKIP))
        return copy_range(disk, offset, length, error);
    vmb_progress_advance(disk->backup->progress, length, 0);
    return TRUE;
}

static guint
blocks_of_window(const Disk *disk, guint64 offset)
{
    guint64 left = vmb_round_up(disk->size - offset, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE;
    return (guint)MIN(left, VMB_QCOW2_L2_ENTRIES);
}

static gboolean
plan_window(Disk *disk, guint64 offset, const GArray *extents, guint8 *actions, gboolean *any,
            guint64 *contradicted, GError **error)
{
    const VmbDiskBackup *backup = disk->backup;
    if (has_parent(disk)) {
        gboolean digests = (backup->compare || backup->synthetic) && !disk->surveying;
        disk->beyond = (VmbChainWindow){.offset = offset, .empty = TRUE};
        disk->window = &disk->beyond;
        guint64 index = offset / VMB_QCOW2_L2_SPAN;
        if (offset < backup->parent_size &&
            !(digests ? vmb_chain_window(backup->parent, index, &disk->window, error)
                      : vmb_chain_map(backup->parent, index, &disk->window, error)))
            return FALSE;
    }
    *any = vmb_disk_backup_plan(offset, blocks_of_window(disk, offset), disk->size, extents,
                                disk->dirty_from, disk->suspect_from, disk->window, actions,
                                contradicted);
    return TRUE;
}

/* ---- damage ---- */

/* Where the layer that is seen is the damaged one; what a newer one holds there has been mended before. */
static gboolean
is_damaged(const Disk *disk, guint64 offset, const VmbBlock *block)
{
    for (guint i = 0; disk->backup->damaged != NULL && i < disk->backup->damaged->len; i++) {
        const VmbDamagedRange *range = &g_array_index(disk->backup->damaged, VmbDamagedRange, i);
        if (range->layer == block->layer && holds_data(block) &&
            range->offset < offset + VMB_BLOCK_SIZE && offset < range->offset + range->length)
            return TRUE;
    }
    return FALSE;
}

static gboolean
touches_damage(const Disk *disk, guint64 offset, guint64 end)
{
    for (guint i = 0; disk->backup->damaged != NULL && i < disk->backup->damaged->len; i++) {
        const VmbDamagedRange *range = &g_array_index(disk->backup->damaged, VmbDamagedRange, i);
        if (range->offset < end && offset < range->offset + range->length)
            return TRUE;
    }
    return FALSE;
}

/* Damaged blocks count as changed, and not as known. */
static void
heal_window(Disk *disk, guint64 offset, guint n_blocks, guint8 *actions, gboolean *any)
{
    if (!has_parent(disk) ||
        !touches_damage(disk, offset, offset + (guint64)n_blocks * VMB_BLOCK_SIZE))
        return;
    for (guint b = 0; b < MIN(n_blocks, disk->window->n_blocks); b++) {
        VmbBlock *block = &disk->window->blocks[b];
        if (!is_damaged(disk, offset + (guint64)b * VMB_BLOCK_SIZE, block))
            continue;
        disk->backup->healed++;
        memset(block->digest, 0, VMB_DIGEST_SIZE);
        if (actions[b] == VMB_ACTION_TRUST || actions[b] == VMB_ACTION_SKIP)
            actions[b] = VMB_ACTION_READ;
        *any = TRUE;
    }
}

/* ---- testing the bitmap ---- */

/* Only shrinking makes clean blocks read as zero where the parent holds data, and it leaves nothing clean
 * with data behind them; except where clusters, blocks and bits differ, which the survey is for. */
static gboolean
check_vanished(Disk *disk, guint64 offset, guint n_blocks, const guint8 *actions, GError **error)
{
    if (disk->backup->unit != 0)
        return TRUE;
    for (guint b = 0; b < n_blocks; b++) {
        disk->vanished |= actions[b] == VMB_ACTION_VANISHED;
        if (disk->vanished && actions[b] == VMB_ACTION_TRUST)
            return vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                                 "%s: data before offset %" G_GUINT64_FORMAT " has become zero, but "
                                 "the bitmap calls both that and the data behind it unchanged",
                                 disk->backup->label, offset + (guint64)b * VMB_BLOCK_SIZE);
    }
    return TRUE;
}

static gboolean
test_bitmap(Disk *disk, guint64 offset, guint n_blocks, const guint8 *actions, GError **error)
{
    if (disk->spot_check == NULL)
        return TRUE;
    vmb_spot_check_window(disk->spot_check, disk->window, actions, n_blocks);
    return check_vanished(disk, offset, n_blocks, actions, error);
}

/* The blocks of the check come last: which they are is known when all were seen. */
static gboolean
spot_check(Disk *disk, GError **error)
{
    if (disk->spot_check == NULL)
        return TRUE;
    g_autoptr(GArray) spots = vmb_spot_check_spots(disk->spot_check);
    for (guint i = 0; i < spots->len; i++) {
        const VmbSpot *spot = &g_array_index(spots, VmbSpot, i);
        guint32 length = (guint32)MIN(VMB_BLOCK_SIZE, disk->size - spot->offset);
        VmbBlock expected;
        if (!vmb_spot_check_expect(disk->spot_check, spot, &expected, error) ||
            !submit(disk, spot->offset, length, &expected, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
do_window(Disk *disk, guint64 offset, const GArray *extents, guint8 *actions, GError **error)
{
    guint n_blocks = blocks_of_window(disk, offset);
    gboolean any;
    if (!plan_window(disk, offset, extents, actions, &any, &disk->contradicted, error))
        return FALSE;
    heal_window(disk, offset, n_blocks, actions, &any);
    if (!test_bitmap(disk, offset, n_blocks, actions, error))
        return FALSE;
    if (!any)
        return act(disk, offset, (guint64)n_blocks * VMB_BLOCK_SIZE, VMB_ACTION_SKIP, error);
    for (guint first = 0, end; first < n_blocks; first = end) {
        for (end = first + 1; end < n_blocks && actions[end] == actions[first];)
            end++;
        if (!act(disk, offset + (guint64)first * VMB_BLOCK_SIZE,
                 (guint64)(end - first) * VMB_BLOCK_SIZE, actions[first], error))
            return FALSE;
    }
    return TRUE;
}

/* The extents of a query that lie in one window. */
static GArray *
extents_of_window(const Disk *disk, const GArray *extents, guint *cursor, guint64 offset,
                  guint64 end)
{
    GArray *part = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    for (guint i = *cursor; i < extents->len; i++) {
        VmbNbdExtent extent = g_array_index(extents, VmbNbdExtent, i);
        if (extent.offset >= end)
            break;
        /* No bitmap says so: each block shows by itself whether it has changed. */
        if (disk->backup->compare)
            extent.dirty = FALSE;
        if (extent.offset + extent.length > offset)
            g_array_append_val(part, extent);
        if (extent.offset + extent.length <= end)
            *cursor = i + 1;
    }
    return part;
}

typedef gboolean (*WindowFunc)(Disk *disk, guint64 offset, const GArray *extents, guint8 *actions,
                               GError **error);

static gboolean
each_window(Disk *disk, WindowFunc function, GError **error)
{
    const guint most = MAX(knob("VMBACKUP_TEST_NBD_SPANS", SPANS_PER_QUERY), 1);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autofree guint8 *actions = g_malloc(VMB_QCOW2_L2_ENTRIES);
    guint spans = 1;
    for (guint64 start = 0, stop; start < disk->size; start = stop) {
        stop = MIN(start + spans * VMB_QCOW2_L2_SPAN, disk->size);
        guint cursor = 0;
        if (!vmb_nbd_reader_extents(disk->reader, start, stop - start, extents, error))
            return FALSE;
        for (guint64 offset = start; offset < stop; offset += VMB_QCOW2_L2_SPAN) {
            g_autoptr(GArray) part =
                extents_of_window(disk, extents, &cursor, offset, offset + VMB_QCOW2_L2_SPAN);
            if (!function(disk, offset, part, actions, error))
                return FALSE;
        }
        spans = extents->len < MANY_EXTENTS ? MIN(2 * spans, most) : MAX(spans / 2, 1);
    }
    return TRUE;
}

/* A contradiction betrays a shrink: then nothing clean is trusted. */
static gboolean
survey_window(Disk *disk, guint64 offset, const GArray *extents, guint8 *actions, GError **error)
{
    guint64 contradicted = 0;
    gboolean any;
    if (!plan_window(disk, offset, extents, actions, &any, &contradicted, error))
        return FALSE;
    vmb_disk_backup_survey(offset, blocks_of_window(disk, offset),
                           MIN(disk->size, disk->dirty_from), extents, disk->backup->unit,
                           &disk->survey.suspect_from);
    disk->survey.shrank |= contradicted > 0;
    return TRUE;
}

static gboolean
survey(Disk *disk, GError **error)
{
    if (!has_parent(disk) || disk->backup->unit == 0)
        return TRUE;
    disk->surveying = TRUE;
    if (!each_window(disk, survey_window, error))
        return FALSE;
    disk->surveying = FALSE;
    disk->suspect_from = disk->survey.shrank ? 0 : disk->survey.suspect_from;
    return TRUE;
}

static gboolean
read_disk(Disk *disk, GError **error)
{
    return survey(disk, error) && each_window(disk, do_window, error) &&
           spot_check(disk, error) && vmb_nbd_reader_drain(disk->reader, error) &&
           check_health(disk, error) && vmb_pipeline_finish(disk->pipeline, error);
}

/* ---- putting it together ---- */

static gboolean
may_hold_frames(const VmbDiskBackup *backup)
{
    return backup->compress_level != VMB_COMPRESS_NONE || backup->parent_frames;
}

static gboolean
finish(Disk *disk, VmbManifestDisk *entry, GError **error)
{
    VmbQcow2Summary summary;
    if (!vmb_qcow2_writer_finish(disk->writer, &summary, error) ||
        !vmb_digest_writer_finish(disk->digests, &entry->digests_size, entry->digests_digest,
                                  error))
        return FALSE;
    entry->image_size = summary.file_size;
    entry->compressed = may_hold_frames(disk->backup);
    entry->data_blocks = summary.data_blocks;
    entry->zero_blocks = summary.zero_blocks;
    entry->stored_bytes = summary.stored_bytes;
    memcpy(entry->head_digest, summary.head_digest, VMB_DIGEST_SIZE);
    memcpy(entry->tables_digest, summary.tables_digest, VMB_DIGEST_SIZE);
    vmb_debug("%s: data was read from %" G_GUINT64_FORMAT " ns to %" G_GUINT64_FORMAT
              " ns of the monotonic clock", disk->backup->label, disk->first_read,
              disk->last_read);
    return TRUE;
}

static VmbNbdReader *
open_reader(const VmbDiskBackup *backup, guint64 size, GError **error)
{
    VmbNbdOptions options = {.socket = backup->socket,
                             .export_name = backup->export_name,
                             .dirty_context = backup->dirty_context,
                             .label = backup->label,
                             .max_requests = knob("VMBACKUP_TEST_NBD_IN_FLIGHT", 0),
                             .max_request = knob("VMBACKUP_TEST_NBD_REQUEST_KIB", 0) * 1024,
                             .cancel = backup->cancel};
    g_autoptr(VmbNbdReader) reader = vmb_nbd_reader_open(&options, error);
    if (reader == NULL)
        return NULL;
    if (vmb_nbd_reader_size(reader) != size) {
        vmb_error_set(error, VMB_ERROR_FAILED,
                      "%s: the export has %" G_GUINT64_FORMAT " bytes, but the disk has %"
                      G_GUINT64_FORMAT "; was it resized at this moment? Run the backup again",
                      backup->label, vmb_nbd_reader_size(reader), size);
        return NULL;
    }
    return g_steal_pointer(&reader);
}

gboolean
vmb_disk_backup(VmbDiskBackup *backup, VmbManifestDisk *entry, guint64 *contradicted,
                GError **error)
{
    g_autoptr(GError) read_error = NULL;
    Disk disk = {.backup = backup, .size = vmb_round_up(backup->size, 512),
                 .read_error = &read_error};
    VmbQcow2WriterOptions image = {disk.size, may_hold_frames(backup), backup->backing_file,
                                   backup->label};
    VmbPipelineConfig config = {.worker_new = worker_new, .worker_free = worker_free,
                                .work = encode, .emit = emit, .user = &disk};
    backup->copied = backup->healed = 0;
    disk.dirty_from = disk.suspect_from = disk.survey.suspect_from = G_MAXUINT64;
    if (backup->compare)
        disk.suspect_from = 0;
    else if (backup->parent != NULL && backup->parent_size != backup->size)
        disk.dirty_from = vmb_round_down(MIN(backup->parent_size, backup->size), VMB_BLOCK_SIZE);
    /* Freed in reverse order: reads into the pipeline's buffers end first. */
    g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(backup->image_fd, &image, error);
    if (writer == NULL)
        return FALSE;
    g_autoptr(VmbDigestWriter) digests =
        vmb_digest_writer_new(backup->digests_fd, backup->size, backup->label, error);
    if (digests == NULL)
        return FALSE;
    disk.writer = writer;
    disk.digests = digests;
    g_autoptr(VmbSpotCheck) check = NULL;
    if (backup->parent != NULL && !backup->compare)
        check = disk.spot_check = vmb_spot_check_new(backup->parent, g_random_int());
    g_autoptr(VmbPipeline) pipeline = vmb_pipeline_new(&config);
    disk.pipeline = pipeline;
    g_autoptr(VmbNbdReader) reader = open_reader(backup, disk.size, error);
    if (reader == NULL || !vmb_fault_point("disk-opened", error))
        return FALSE;
    disk.reader = reader;
    gboolean ok = read_disk(&disk, error) && finish(&disk, entry, error) &&
                  vmb_fault_point("disk-finished", error);
    *contradicted = backup->compare ? 0 : disk.contradicted * VMB_BLOCK_SIZE;
    return ok;
}

gboolean
vmb_disk_backup_nothing(const VmbDiskBackup *backup, VmbManifestDisk *entry, GError **error)
{
    VmbDiskBackup none = *backup;
    Disk disk = {.backup = &none, .size = vmb_round_up(backup->size, 512)};
    VmbQcow2WriterOptions image = {disk.size, may_hold_frames(backup), backup->backing_file,
                                   backup->label};
    g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(backup->image_fd, &image, error);
    if (writer == NULL)
        return FALSE;
    g_autoptr(VmbDigestWriter) digests =
        vmb_digest_writer_new(backup->digests_fd, backup->size, backup->label, error);
    if (digests == NULL)
        return FALSE;
    disk.writer = writer;
    disk.digests = digests;
    vmb_progress_advance(backup->progress, disk.size, 0);
    return finish(&disk, entry, error);
}
