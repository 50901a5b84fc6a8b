/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hot path: one disk of a running job becomes an image and its digests. */
#include "job/disk-backup.h"
#include "image/qcow2-format.h"
#include "job/compare.h"
#include "job/disk-sink.h"
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
    GError *damage;               /* of the parent, met by the spot check; the first */
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

/* Reads into a chunk from the guest. */
static gboolean
start_read(Disk *disk, VmbChunk *chunk, GError **error)
{
    if (!chunk->probe)
        disk->backup->read += chunk->length;
    if (!vmb_nbd_reader_submit(disk->reader, chunk->data, chunk->offset, (guint32)chunk->length,
                               read_done, chunk, disk, error))
        return FALSE;
    if (disk->began)
        return TRUE;
    disk->began = TRUE;
    disk->first_read = disk->last_read = vmb_units_monotonic();
    return vmb_fault_point("disk-data", error);
}

/* What could not be copied, because it is damaged in the chain, comes from the guest instead: clean blocks are
 * the same there. */
static gboolean
read_returned(Disk *disk, GError **error)
{
    for (VmbChunk *chunk; (chunk = vmb_pipeline_returned(disk->pipeline)) != NULL;) {
        disk->backup->copied -= chunk->length;
        while (!vmb_nbd_reader_has_room(disk->reader))
            if (!vmb_nbd_reader_wait(disk->reader, -1, error))
                return FALSE;
        if (!start_read(disk, chunk, error))
            return FALSE;
    }
    return TRUE;
}

/* The next chunk in the order, once there is one. What has come back is read before: all others may wait
 * for that. */
static VmbChunk *
take(Disk *disk, guint64 offset, guint64 length, gboolean to_read, GError **error)
{
    for (;;) {
        if (!check_health(disk, error) || !read_returned(disk, error))
            return NULL;
        if (!to_read || vmb_nbd_reader_has_room(disk->reader)) {
            VmbChunk *chunk = vmb_pipeline_try_take(disk->pipeline, offset, length);
            if (chunk != NULL)
                return chunk;
            if (!wait_for_room(disk, error))
                return NULL;
        } else if (!vmb_nbd_reader_wait(disk->reader, -1, error)) {
            return NULL;
        }
    }
}

/* @probe: what the one block is expected to be, or NULL for what is to be stored. */
static gboolean
submit(Disk *disk, guint64 offset, guint32 length, const VmbBlock *probe, GError **error)
{
    VmbChunk *chunk = take(disk, offset, length, TRUE, error);
    if (chunk == NULL)
        return FALSE;
    if (probe != NULL) {
        chunk->compare = chunk->probe = TRUE;
        chunk->blocks[0] = *probe;
    } else if (disk->backup->compare) {
        vmb_compare_expect(disk->backup->parent, disk->window, chunk);
    }
    return start_read(disk, chunk, error);
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
    VmbChunk *chunk = take(disk, offset, length, FALSE, error);
    if (chunk == NULL)
        return FALSE;
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
        if (!read_returned(disk, error) || !vmb_nbd_reader_drain(disk->reader, error))
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

/* Damaged blocks count as changed, and not as known. */
static void
heal_window(Disk *disk, guint64 offset, guint n_blocks, guint8 *actions, gboolean *any)
{
    if (!has_parent(disk))
        return;
    g_autoptr(GArray) damage = vmb_damage_within(
        disk->backup->damaged, offset, offset + (guint64)n_blocks * VMB_BLOCK_SIZE);
    for (guint b = 0; damage != NULL && b < MIN(n_blocks, disk->window->n_blocks); b++) {
        VmbBlock *block = &disk->window->blocks[b];
        if (!vmb_damage_covers(damage, offset + (guint64)b * VMB_BLOCK_SIZE, block))
            continue;
        disk->backup->healed++;
        memset(block->digest, 0, VMB_DIGEST_SIZE);
        if (actions[b] == VMB_ACTION_TRUST)
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

/* A synthetic full has noted it when it was to be copied, and has taken it from the guest. */
static void
note_damage(Disk *disk, const VmbSpot *spot, GError *error)
{
    VmbDamagedRange range = {spot->known.layer, spot->offset, VMB_BLOCK_SIZE};
    if (!disk->backup->synthetic)
        g_array_append_val(disk->backup->found, range);
    if (disk->backup->synthetic || disk->damage != NULL)
        g_error_free(error);
    else
        disk->damage = error;
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
        g_autoptr(GError) damage = NULL;
        if (!vmb_spot_check_expect(disk->spot_check, spot, &expected, &damage))
            note_damage(disk, spot, g_steal_pointer(&damage));
        else if (!submit(disk, spot->offset, length, &expected, error))
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

/* Until nothing comes back any more. */
static gboolean
settle(Disk *disk, GError **error)
{
    do {
        if (!read_returned(disk, error) || !vmb_nbd_reader_drain(disk->reader, error) ||
            !check_health(disk, error))
            return FALSE;
    } while (vmb_pipeline_settle(disk->pipeline));
    return TRUE;
}

/* What is damaged has to come from the guest: the increment is made once more. */
static gboolean
judge_parent(Disk *disk, GError **error)
{
    if (disk->damage == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&disk->damage));
    return FALSE;
}

static gboolean
judge_bitmap(const Disk *disk, GError **error)
{
    const GArray *differing = disk->backup->differing;
    return differing == NULL || differing->len == 0 ||
           vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                         "%s: the bitmap calls the block at offset %" G_GUINT64_FORMAT
                         " unchanged, but it differs from the newest point",
                         disk->backup->label, g_array_index(differing, guint64, 0));
}

static gboolean
read_disk(Disk *disk, GError **error)
{
    return survey(disk, error) && each_window(disk, do_window, error) &&
           spot_check(disk, error) && settle(disk, error) &&
           vmb_pipeline_finish(disk->pipeline, error) && judge_bitmap(disk, error) &&
           judge_parent(disk, error);
}

/* ---- putting it together ---- */

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
    guint found = backup->found != NULL ? backup->found->len : 0;
    Disk disk = {.backup = backup, .size = vmb_round_up(backup->size, 512),
                 .read_error = &read_error};
    backup->read = backup->copied = backup->healed = 0;
    disk.dirty_from = disk.suspect_from = disk.survey.suspect_from = G_MAXUINT64;
    if (backup->compare)
        disk.suspect_from = 0;
    else if (backup->parent != NULL && backup->parent_size != backup->size)
        disk.dirty_from = vmb_round_down(MIN(backup->parent_size, backup->size), VMB_BLOCK_SIZE);
    /* Freed in reverse order: reads into the pipeline's buffers end first. */
    g_auto(VmbDiskSink) sink = {0};
    if (!vmb_disk_sink_open(&sink, backup, error))
        return FALSE;
    g_autoptr(VmbSpotCheck) check = NULL;
    if (backup->parent != NULL && !backup->compare)
        check = disk.spot_check = vmb_spot_check_new(backup->parent, g_random_int());
    g_autoptr(VmbPipeline) pipeline = disk.pipeline = vmb_disk_sink_start(&sink);
    g_autoptr(VmbNbdReader) reader = open_reader(backup, disk.size, error);
    if (reader == NULL || !vmb_fault_point("disk-opened", error))
        return FALSE;
    disk.reader = reader;
    gboolean ok = read_disk(&disk, error) && vmb_disk_sink_finish(&sink, entry, error) &&
                  vmb_fault_point("disk-finished", error);
    g_clear_error(&disk.damage);
    *contradicted = backup->compare ? 0 : disk.contradicted * VMB_BLOCK_SIZE;
    if (ok && backup->synthetic)
        backup->healed += backup->found->len - found;
    vmb_debug("%s: data was read from %" G_GUINT64_FORMAT " ns to %" G_GUINT64_FORMAT
              " ns of the monotonic clock", backup->label, disk.first_read, disk.last_read);
    return ok;
}

gboolean
vmb_disk_backup_nothing(VmbDiskBackup *backup, VmbManifestDisk *entry, GError **error)
{
    g_auto(VmbDiskSink) sink = {0};
    backup->read = backup->copied = backup->healed = 0;
    if (!vmb_disk_sink_open(&sink, backup, error))
        return FALSE;
    vmb_progress_advance(backup->progress, sink.size, 0);
    return vmb_disk_sink_finish(&sink, entry, error);
}
