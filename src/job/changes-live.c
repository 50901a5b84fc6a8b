/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What differs between a point and the running domain at this moment. */
#include "block/digest.h"
#include "image/qcow2-format.h"
#include "job/chain-files.h"
#include "job/changes.h"
#include "job/change-ranges.h"
#include "job/live.h"
#include "nbd/reader.h"
#include "repo/pins.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BUFFERS 4
#define BUFFER_BLOCKS 16u /* 1 MiB */

typedef struct {
    const VmbChangesLive *options;
    VmbPins *pins;
    GPtrArray *points;
    VmbPoint *point;
    char *name, *uuid; /* of the domain, as libvirt says */
    /* What is told is written down first: whoever reads it slowly must not hold the job, and with it the guest. */
    FILE *spool;       /* of Record */
    GPtrArray *views;  /* VmbChangedDisk, whose texts are owned */
    GPtrArray *gone;   /* targets of disks that only the point holds */
} Work;

typedef struct {
    guint64 offset, length;
    guint32 disk, zero;
} Record;

static void
view_free(gpointer data)
{
    VmbChangedDisk *view = data;
    g_free((char *)view->target);
    g_free((char *)view->id);
    g_free(view);
}

static void
work_clear(Work *work)
{
    vmb_pins_free(work->pins);
    g_clear_pointer(&work->points, g_ptr_array_unref);
    g_clear_pointer(&work->views, g_ptr_array_unref);
    g_clear_pointer(&work->gone, g_ptr_array_unref);
    if (work->spool != NULL)
        fclose(work->spool);
    g_free(work->name);
    g_free(work->uuid);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Work, work_clear)

typedef enum { SAME, UNKNOWN, NOW_ZERO, NOW_DATA } Verdict;

/* One disk that is being compared. */
typedef struct {
    Work *work;
    VmbChangedDisk view;
    VmbNbdReader *reader;
    VmbChainFiles *files; /* NULL: the point does not hold the disk */
    VmbDecoder *decoder;
    VmbDigest *digest;
    const VmbChainWindow *window; /* NULL: behind the end of the point's disk */
    GArray *extents;
    guint8 *verdicts; /* of the window's blocks */
    guint8 *data[BUFFERS], *old, *output;
    VmbChangeRanges ranges;
} Disk;

static void
disk_clear(Disk *disk)
{
    vmb_nbd_reader_free(disk->reader);
    vmb_decoder_free(disk->decoder);
    vmb_chain_files_free(disk->files);
    vmb_digest_free(disk->digest);
    g_clear_pointer(&disk->extents, g_array_unref);
    g_free(disk->verdicts);
    for (guint i = 0; i < BUFFERS; i++)
        g_free(disk->data[i]);
    g_free(disk->old);
    g_free(disk->output);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Disk, disk_clear)

/* ---- without reading ---- */

static const VmbBlock *
find_data(const Disk *disk, guint i)
{
    if (disk->window == NULL || i >= disk->window->n_blocks)
        return NULL;
    const VmbBlock *block = &disk->window->blocks[i];
    return vmb_block_has_data(block) ? block : NULL;
}

/* A block counts as zero if all of it is, and as clean if none of it is dirty; what is clean and reads as zero where the
 * point has data has changed all the same. */
static void
judge_extent(Disk *disk, guint64 window, const VmbNbdExtent *extent, guint8 *marks)
{
    guint64 end = extent->offset + extent->length;
    for (guint64 at = vmb_round_down(extent->offset, VMB_BLOCK_SIZE); at < end; at += VMB_BLOCK_SIZE) {
        guint8 *mark = &marks[(at - window) / VMB_BLOCK_SIZE];
        *mark |= (extent->zero ? 0 : 1) | (extent->dirty ? 2 : 0);
    }
}

static void
judge(Disk *disk, guint64 window, guint n_blocks)
{
    memset(disk->verdicts, 0, n_blocks);
    for (guint i = 0; i < disk->extents->len; i++)
        judge_extent(disk, window, &g_array_index(disk->extents, VmbNbdExtent, i), disk->verdicts);
    for (guint i = 0; i < n_blocks; i++) {
        gboolean data = (disk->verdicts[i] & 1) != 0, dirty = (disk->verdicts[i] & 2) != 0;
        const VmbBlock *old = find_data(disk, i);
        if (data)
            disk->verdicts[i] = dirty ? UNKNOWN : SAME;
        else
            disk->verdicts[i] = old != NULL ? UNKNOWN : SAME;
        /* Zeroes over data: only a cut block, whose visible part may be zero, needs a look. */
        if (!data && old != NULL &&
            !vmb_chain_is_cut(vmb_chain_files_chain(disk->files), old, window + (guint64)i * VMB_BLOCK_SIZE) &&
            window + ((guint64)i + 1) * VMB_BLOCK_SIZE <= disk->view.size)
            disk->verdicts[i] = NOW_ZERO;
    }
}

/* ---- with reading ---- */

static gboolean
read_old(Disk *disk, const VmbBlock *block, guint64 offset, GError **error)
{
    VmbChunk chunk = {.offset = offset, .length = VMB_BLOCK_SIZE, .data = disk->old,
                      .output = disk->output, .n_blocks = 1};
    if (block == NULL) {
        memset(disk->old, 0, VMB_BLOCK_SIZE);
        return TRUE;
    }
    chunk.blocks[0] = *block;
    return vmb_decoder_chunk(disk->decoder, &chunk, NULL, error);
}

/* By digest, where there is one of what the point's block reads as; @data: a whole block, padded with zeroes. */
static gboolean
compare(Disk *disk, guint i, guint64 offset, const guint8 *data, GError **error)
{
    guint8 digest[VMB_DIGEST_SIZE];
    gsize n = (gsize)MIN(VMB_BLOCK_SIZE, disk->view.size - offset);
    gboolean zero = vmb_zero_detect(data, n), same;
    const VmbBlock *old = find_data(disk, i);
    gboolean by_bytes = old != NULL && (vmb_chain_is_cut(vmb_chain_files_chain(disk->files), old, offset) ||
                                        n < VMB_BLOCK_SIZE);
    if (by_bytes) {
        if (!read_old(disk, old, offset, error))
            return FALSE;
        same = memcmp(disk->old, data, n) == 0;
    } else if (zero || old == NULL) {
        same = zero && old == NULL;
    } else {
        vmb_digest_block(disk->digest, data, VMB_BLOCK_SIZE, digest);
        same = memcmp(digest, old->digest, sizeof digest) == 0;
    }
    disk->verdicts[i] = same ? SAME : zero ? NOW_ZERO : NOW_DATA;
    return TRUE;
}

static void
note_error(gpointer item, const GError *error, gpointer user)
{
    GError **first = user;
    if (error != NULL && *first == NULL)
        *first = g_error_copy(error);
}

/* Runs of blocks of which nothing is known yet, up to BUFFERS of them at a time; *@next: where to go on. */
static gboolean
read_some(Disk *disk, guint64 window, guint n_blocks, guint *next, GError **error)
{
    guint first[BUFFERS], count[BUFFERS], n = 0;
    g_autoptr(GError) failed = NULL;
    while (*next < n_blocks && n < BUFFERS) {
        if (disk->verdicts[*next] != UNKNOWN) {
            (*next)++;
            continue;
        }
        first[n] = *next;
        while (*next < n_blocks && disk->verdicts[*next] == UNKNOWN && *next - first[n] < BUFFER_BLOCKS)
            (*next)++;
        count[n] = *next - first[n];
        guint64 offset = window + (guint64)first[n] * VMB_BLOCK_SIZE;
        guint64 length = MIN((guint64)count[n] * VMB_BLOCK_SIZE, disk->view.size - offset);
        memset(disk->data[n] + length, 0, (gsize)count[n] * VMB_BLOCK_SIZE - length);
        if (!vmb_nbd_reader_submit(disk->reader, disk->data[n], offset, (guint32)length, note_error,
                                   NULL, &failed, error))
            return FALSE;
        n++;
    }
    if (!vmb_nbd_reader_drain(disk->reader, error))
        return FALSE;
    if (failed != NULL) {
        g_propagate_error(error, g_steal_pointer(&failed));
        return FALSE;
    }
    for (guint b = 0; b < n; b++)
        for (guint i = 0; i < count[b]; i++)
            if (!compare(disk, first[b] + i, window + (guint64)(first[b] + i) * VMB_BLOCK_SIZE,
                         disk->data[b] + (gsize)i * VMB_BLOCK_SIZE, error))
                return FALSE;
    return TRUE;
}

/* ---- telling ---- */

static gboolean
spool(guint64 offset, guint64 length, gboolean zero, gpointer user, GError **error)
{
    Work *work = user;
    Record record = {.offset = offset, .length = length, .disk = work->views->len, .zero = zero};
    return fwrite(&record, sizeof record, 1, work->spool) == 1 ||
           vmb_error_errno(error, errno, "cannot write a temporary file");
}

static gboolean
compare_window(Disk *disk, guint64 index, GError **error)
{
    guint64 offset = index * VMB_QCOW2_L2_SPAN;
    guint64 length = MIN(disk->view.size - offset, VMB_QCOW2_L2_SPAN);
    guint n_blocks = (guint)((length + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE), next = 0;
    disk->window = NULL;
    if ((disk->files != NULL && offset < disk->view.since_size &&
         !vmb_chain_window(vmb_chain_files_chain(disk->files), index, &disk->window, error)) ||
        !vmb_nbd_reader_extents(disk->reader, offset, length, disk->extents, error))
        return FALSE;
    judge(disk, offset, n_blocks);
    while (next < n_blocks)
        if (!read_some(disk, offset, n_blocks, &next, error))
            return FALSE;
    for (guint i = 0; i < n_blocks; i++)
        if (disk->verdicts[i] != SAME &&
            !vmb_change_ranges_add(&disk->ranges, offset + (guint64)i * VMB_BLOCK_SIZE,
                                   disk->verdicts[i] == NOW_ZERO, error))
            return FALSE;
    return TRUE;
}

/* ---- the disks ---- */

static gboolean
open_disk(Disk *disk, const VmbLiveView *view, const VmbLiveDisk *live, GArray **links, GError **error)
{
    const Work *work = disk->work;
    const VmbManifestDisk *old = vmb_manifest_find_disk(work->point->manifest, live->id);
    VmbNbdOptions options = {.socket = view->socket,
                             .export_name = live->target,
                             .dirty_context = live->context,
                             .label = live->target,
                             .cancel = view->stop};
    disk->view = (VmbChangedDisk){.target = live->target, .id = live->id, .size = live->size,
                                  .is_new = old == NULL};
    if (old != NULL) {
        disk->view.since_size = vmb_round_up(old->size, VMB_QCOW2_SECTOR);
        *links = vmb_repo_chain(work->points, work->point, live->id, error);
        if (*links == NULL || !vmb_chain_files_check_digests(*links, view->domain, error))
            return FALSE;
        disk->files = vmb_chain_files_open(*links, view->domain, FALSE, TRUE, error);
        if (disk->files == NULL)
            return FALSE;
        disk->decoder = vmb_decoder_new(vmb_chain_files_chain(disk->files));
    }
    disk->reader = vmb_nbd_reader_open(&options, error);
    disk->digest = vmb_digest_new();
    disk->extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    disk->verdicts = g_malloc(VMB_QCOW2_L2_ENTRIES);
    disk->old = g_malloc(VMB_BLOCK_SIZE);
    disk->output = g_malloc(VMB_BLOCK_SIZE);
    for (guint i = 0; i < BUFFERS; i++)
        disk->data[i] = g_malloc(BUFFER_BLOCKS * VMB_BLOCK_SIZE);
    if (disk->reader != NULL && vmb_nbd_reader_size(disk->reader) != live->size)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s disk %s: it was resized while the job began; try again", view->domain,
                             live->target);
    return disk->reader != NULL;
}

static gboolean
compare_disk(Work *work, const VmbLiveView *view, const VmbLiveDisk *live, GError **error)
{
    g_autoptr(GArray) links = NULL;
    g_auto(Disk) disk = {.work = work};
    if (!open_disk(&disk, view, live, &links, error))
        return FALSE;
    disk.ranges = (VmbChangeRanges){.view = &disk.view, .emit = spool, .user = work};
    guint64 n = vmb_qcow2_l1_entries(live->size);
    for (guint64 i = 0; i < n; i++)
        if (!compare_window(&disk, i, error))
            return FALSE;
    if (!vmb_change_ranges_end(&disk.ranges, error))
        return FALSE;
    VmbChangedDisk *view_of = g_memdup2(&disk.view, sizeof disk.view);
    view_of->target = g_strdup(disk.view.target);
    view_of->id = g_strdup(disk.view.id);
    g_ptr_array_add(work->views, view_of);
    return TRUE;
}

static gboolean
visit(const VmbLiveView *view, gpointer user, GError **error)
{
    Work *work = user;
    work->name = g_strdup(view->domain);
    work->uuid = g_strdup(view->uuid);
    if (strcmp(work->point->uuid, view->uuid) != 0)
        return vmb_error_set(error, VMB_ERROR_DOMAIN,
                             "the points of %s in the repository are those of another domain of this name: give the UUID",
                             view->domain);
    const GPtrArray *held = work->point->manifest->disks;
    gboolean all = work->options->disks == NULL || work->options->disks[0] == NULL;
    for (guint i = 0; all && i < held->len; i++) {
        const VmbManifestDisk *disk = held->pdata[i];
        gboolean there = FALSE;
        for (guint k = 0; k < view->n_disks; k++)
            there |= strcmp(view->disks[k].id, disk->id) == 0;
        if (!there)
            g_ptr_array_add(work->gone, g_strdup(disk->target));
    }
    for (guint i = 0; i < view->n_disks; i++)
        if (!compare_disk(work, view, &view->disks[i], error))
            return FALSE;
    return TRUE;
}

/* The job has ended: now it may take as long as it likes. */
static gboolean
tell_all(Work *work, GError **error)
{
    const VmbChangesLive *options = work->options;
    Record record;
    rewind(work->spool);
    gboolean more = fread(&record, sizeof record, 1, work->spool) == 1;
    for (guint i = 0; i < work->views->len; i++) {
        options->begin(work->views->pdata[i], options->user);
        for (; more && record.disk == i; more = fread(&record, sizeof record, 1, work->spool) == 1)
            if (!options->emit(record.offset, record.length, record.zero != 0, options->user, error))
                return FALSE;
        options->end(work->views->pdata[i], options->user);
    }
    return !ferror(work->spool) || vmb_error_errno(error, errno, "cannot read a temporary file");
}

gboolean
vmb_changes_live(const VmbChangesLive *options, char **since, char **name, char **uuid,
                 GPtrArray **gone, GError **error)
{
    g_auto(Work) work = {.options = options};
    work.views = g_ptr_array_new_with_free_func(view_free);
    work.gone = g_ptr_array_new_with_free_func(g_free);
    work.spool = tmpfile();
    if (work.spool == NULL)
        return vmb_error_errno(error, errno, "cannot make a temporary file");
    vmb_fs_allow_many();
    g_autofree char *text = g_strdup_printf("%s/%s", options->domain, options->point);
    g_autoptr(VmbRepository) repository = vmb_repository_open(options->repository, error);
    int status = 0;
    if (repository == NULL)
        return FALSE;
    work.pins = vmb_pins_take_named(repository, text, options->cancel, &work.point, &work.points, error);
    if (work.pins == NULL)
        return FALSE;
    VmbLiveOptions live = {.repository = options->repository,
                           .uri = options->uri,
                           .domain = options->domain,
                           .disks = options->disks,
                           .since = work.point->id,
                           .quiesce = VMB_QUIESCE_NONE,
                           .freeze_timeout_ns = G_GUINT64_CONSTANT(10000000000),
                           .scratch_dir = options->scratch_dir,
                           .lock_wait_ns = options->lock_wait_ns,
                           .visit = visit,
                           .user = &work,
                           .cancel = options->cancel};
    if (!vmb_export_live(&live, &status, error) || !tell_all(&work, error))
        return FALSE;
    *gone = g_steal_pointer(&work.gone);
    *since = g_strdup(work.point->id);
    *name = g_steal_pointer(&work.name);
    *uuid = g_steal_pointer(&work.uuid);
    return TRUE;
}
