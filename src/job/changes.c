/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What differs between two points of a domain: by digests, so that it does not matter what lies between them. */
#include "job/changes.h"
#include "job/change-ranges.h"
#include "block/digest.h"
#include "image/qcow2-format.h"
#include "job/chain-files.h"
#include "repo/pins.h"
#include "util/error.h"
#include "util/fsio.h"

#include <string.h>

/* A point with all that its disks are built of. */
typedef struct {
    VmbPins *pins;
    GPtrArray *points;
    VmbPoint *point;
} Side;

typedef struct {
    VmbChangedDisk view;
    GArray *newer, *older; /* VmbChainLink; older: NULL if it is new */
} Disk;

struct VmbChanges {
    Side older, newer;
    GPtrArray *disks;
    GPtrArray *gone;
    GCancellable *cancel;
};

static void
side_clear(Side *side)
{
    vmb_pins_free(side->pins);
    g_clear_pointer(&side->points, g_ptr_array_unref);
}

static void
disk_free(gpointer data)
{
    Disk *disk = data;
    g_clear_pointer(&disk->newer, g_array_unref);
    g_clear_pointer(&disk->older, g_array_unref);
    g_free(disk);
}

void
vmb_changes_free(VmbChanges *changes)
{
    if (changes == NULL)
        return;
    g_ptr_array_unref(changes->disks);
    g_ptr_array_unref(changes->gone);
    side_clear(&changes->older);
    side_clear(&changes->newer);
    g_free(changes);
}

const VmbPoint *
vmb_changes_older(const VmbChanges *changes)
{
    return changes->older.point;
}

const VmbPoint *
vmb_changes_newer(const VmbChanges *changes)
{
    return changes->newer.point;
}

guint
vmb_changes_n_disks(const VmbChanges *changes)
{
    return changes->disks->len;
}

const VmbChangedDisk *
vmb_changes_disk(const VmbChanges *changes, guint index)
{
    return &((Disk *)changes->disks->pdata[index])->view;
}

const GPtrArray *
vmb_changes_gone(const VmbChanges *changes)
{
    return changes->gone;
}

/* ---- opening ---- */

static gboolean
take_side(VmbRepository *repository, const char *text, GCancellable *cancel, Side *side,
          GError **error)
{
    side->pins =
        vmb_pins_take_named(repository, text, cancel, &side->point, &side->points, error);
    return side->pins != NULL;
}

static GArray *
open_chain(const Side *side, const char *id, GError **error)
{
    g_autoptr(GArray) links = vmb_repo_chain(side->points, side->point, id, error);
    if (links == NULL ||
        !vmb_chain_files_check_digests(links, side->point->manifest->domain, error))
        return NULL;
    return g_steal_pointer(&links);
}

static gboolean
add_disk(VmbChanges *changes, const VmbManifestDisk *now, GError **error)
{
    const VmbManifestDisk *before =
        vmb_manifest_find_disk(changes->older.point->manifest, now->id);
    Disk *disk = g_new0(Disk, 1);
    g_ptr_array_add(changes->disks, disk);
    disk->view = (VmbChangedDisk){.target = now->target,
                                  .id = now->id,
                                  .size = vmb_round_up(now->size, VMB_QCOW2_SECTOR),
                                  .is_new = before == NULL};
    if (before != NULL)
        disk->view.since_size = vmb_round_up(before->size, VMB_QCOW2_SECTOR);
    disk->newer = open_chain(&changes->newer, now->id, error);
    if (disk->newer == NULL)
        return FALSE;
    disk->older = before != NULL ? open_chain(&changes->older, now->id, error) : NULL;
    return before == NULL || disk->older != NULL;
}

static gboolean
add_disks(VmbChanges *changes, const char *const *wanted, GError **error)
{
    const VmbManifest *newer = changes->newer.point->manifest;
    const VmbManifest *older = changes->older.point->manifest;
    gboolean all = wanted == NULL || wanted[0] == NULL;
    if (!vmb_manifest_check_targets(newer, wanted, error))
        return FALSE;
    for (guint i = 0; i < newer->disks->len; i++) {
        const VmbManifestDisk *disk = newer->disks->pdata[i];
        if ((all || g_strv_contains(wanted, disk->target)) && !add_disk(changes, disk, error))
            return FALSE;
    }
    for (guint i = 0; all && i < older->disks->len; i++) {
        const VmbManifestDisk *disk = older->disks->pdata[i];
        if (vmb_manifest_find_disk(newer, disk->id) == NULL)
            g_ptr_array_add(changes->gone, disk->target);
    }
    return TRUE;
}

VmbChanges *
vmb_changes_open(VmbRepository *repository, const char *older, const char *newer,
                 const char *const *disks, GCancellable *cancel, GError **error)
{
    g_autoptr(VmbChanges) changes = g_new0(VmbChanges, 1);
    changes->disks = g_ptr_array_new_with_free_func(disk_free);
    changes->gone = g_ptr_array_new();
    changes->cancel = cancel;
    vmb_fs_allow_many();
    if (!take_side(repository, older, cancel, &changes->older, error) ||
        !take_side(repository, newer, cancel, &changes->newer, error))
        return NULL;
    if (strcmp(changes->older.point->uuid, changes->newer.point->uuid) != 0) {
        vmb_error_set(error, VMB_ERROR_USAGE,
                      "%s and %s are points of different domains: only points of one can be compared",
                      older, newer);
        return NULL;
    }
    return add_disks(changes, disks, error) ? g_steal_pointer(&changes) : NULL;
}

/* ---- comparing ---- */

/* One of the two states of a disk. */
typedef struct {
    VmbChainFiles *files; /* NULL: there is none, all of it is zero */
    VmbChain *chain;
    VmbDecoder *decoder;
    const VmbChainWindow *window; /* NULL: behind its end */
    guint64 size;
    guint8 *data, *output; /* one block each */
} State;

static void
state_clear(State *state)
{
    vmb_decoder_free(state->decoder);
    vmb_chain_files_free(state->files);
    g_free(state->data);
    g_free(state->output);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(State, state_clear)

static gboolean
state_open(State *state, const GArray *links, const char *domain, guint64 size, GError **error)
{
    if (links == NULL)
        return TRUE;
    state->files = vmb_chain_files_open(links, domain, FALSE, TRUE, error);
    if (state->files == NULL)
        return FALSE;
    state->chain = vmb_chain_files_chain(state->files);
    state->decoder = vmb_decoder_new(state->chain);
    state->size = size;
    state->data = g_malloc(VMB_BLOCK_SIZE);
    state->output = g_malloc(VMB_BLOCK_SIZE);
    return TRUE;
}

static gboolean
state_window(State *state, guint64 index, GError **error)
{
    state->window = NULL;
    return index * VMB_QCOW2_L2_SPAN >= state->size ||
           vmb_chain_window(state->chain, index, &state->window, error);
}

/* NULL: it reads as zero. */
static const VmbBlock *
find_data(const State *state, guint i)
{
    if (state->window == NULL || i >= state->window->n_blocks)
        return NULL;
    const VmbBlock *block = &state->window->blocks[i];
    return vmb_block_has_data(block) ? block : NULL;
}

/* Its bytes are brought to state->data. */
static gboolean
read_block(State *state, const VmbBlock *block, guint64 offset, GError **error)
{
    VmbChunk chunk = {.offset = offset,
                      .length = VMB_BLOCK_SIZE,
                      .data = state->data,
                      .output = state->output,
                      .n_blocks = 1};
    if (block == NULL) {
        memset(state->data, 0, VMB_BLOCK_SIZE);
        return TRUE;
    }
    chunk.blocks[0] = *block;
    return vmb_decoder_chunk(state->decoder, &chunk, NULL, error);
}

typedef struct {
    State older, newer;
    VmbChangeRanges ranges;
} Comparison;

typedef enum { SAME, NOW_ZERO, NOW_DATA } Verdict;

/* Its digest is not that of what it reads as, or the one state has bytes where the other has none. */
static gboolean
must_be_read(const Comparison *comparison, const VmbBlock *older, const VmbBlock *newer,
             guint64 offset)
{
    guint64 end = offset + VMB_BLOCK_SIZE;
    return (older != NULL && vmb_chain_is_cut(comparison->older.chain, older, offset)) ||
           (newer != NULL && vmb_chain_is_cut(comparison->newer.chain, newer, offset)) ||
           (end > comparison->newer.size && comparison->older.size > comparison->newer.size);
}

static gboolean
compare_bytes(Comparison *comparison, const VmbBlock *older, const VmbBlock *newer, guint64 offset,
              Verdict *verdict, GError **error)
{
    State *a = &comparison->older, *b = &comparison->newer;
    gsize n = (gsize)MIN(VMB_BLOCK_SIZE, b->size - offset);
    if (!read_block(a, older, offset, error) || !read_block(b, newer, offset, error))
        return FALSE;
    *verdict = memcmp(a->data, b->data, n) == 0  ? SAME
               : vmb_zero_detect(b->data, n) ? NOW_ZERO
                                             : NOW_DATA;
    return TRUE;
}

static gboolean
compare_block(Comparison *comparison, guint i, guint64 offset, Verdict *verdict, GError **error)
{
    const VmbBlock *older = find_data(&comparison->older, i);
    const VmbBlock *newer = find_data(&comparison->newer, i);
    *verdict = SAME;
    if (older == NULL && newer == NULL)
        return TRUE;
    if (must_be_read(comparison, older, newer, offset))
        return compare_bytes(comparison, older, newer, offset, verdict, error);
    if (newer == NULL)
        *verdict = NOW_ZERO; /* blocks of zeroes are never stored as data */
    else if (older == NULL || memcmp(older->digest, newer->digest, VMB_DIGEST_SIZE) != 0)
        *verdict = NOW_DATA;
    return TRUE;
}

static gboolean
compare_window(Comparison *comparison, guint64 index, GError **error)
{
    State *a = &comparison->older, *b = &comparison->newer;
    if (!state_window(a, index, error) || !state_window(b, index, error))
        return FALSE;
    if (b->window->empty && (a->window == NULL || a->window->empty))
        return TRUE;
    for (guint i = 0; i < b->window->n_blocks; i++) {
        guint64 offset = b->window->offset + (guint64)i * VMB_BLOCK_SIZE;
        Verdict verdict;
        if (!compare_block(comparison, i, offset, &verdict, error) ||
            (verdict != SAME &&
             !vmb_change_ranges_add(&comparison->ranges, offset, verdict == NOW_ZERO, error)))
            return FALSE;
    }
    return TRUE;
}

gboolean
vmb_changes_read(VmbChanges *changes, guint index, VmbChangesEmit emit, gpointer user,
                 GError **error)
{
    Disk *disk = changes->disks->pdata[index];
    const char *domain = changes->newer.point->manifest->domain;
    g_auto(State) older = {0}, newer = {0};
    if (!state_open(&older, disk->older, domain, disk->view.since_size, error) ||
        !state_open(&newer, disk->newer, domain, disk->view.size, error))
        return FALSE;
    Comparison comparison = {older, newer, {&disk->view, emit, user, 0, 0, FALSE}};
    guint64 n = vmb_qcow2_l1_entries(disk->view.size);
    disk->view.data = disk->view.zero = 0;
    for (guint64 i = 0; i < n; i++) {
        if (g_cancellable_is_cancelled(changes->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "interrupted while comparing %s of %s",
                                 disk->view.target, domain);
        if (!compare_window(&comparison, i, error))
            return FALSE;
    }
    return vmb_change_ranges_end(&comparison.ranges, error);
}
