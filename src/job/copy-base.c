/* SPDX-License-Identifier: GPL-2.0-or-later */
/* On what of the other repository the copy of a disk is put, so that it reads the same and nothing branches. */
#include "job/copy-private.h"
#include "image/qcow2-format.h"
#include "job/chain-files.h"
#include "repo/state.h"
#include "util/error.h"
#include "util/units.h"

#include <string.h>

void
vmb_copy_base_free(VmbCopyBase *base)
{
    if (base == NULL)
        return;
    g_clear_pointer(&base->links, g_array_unref);
    g_clear_pointer(&base->below, g_array_unref);
    g_free(base->why);
    g_free(base);
}

gboolean
vmb_copy_is_same(const VmbManifest *a, const VmbManifest *b)
{
    return strcmp(a->id, b->id) == 0 && strcmp(a->uuid, b->uuid) == 0 &&
           a->sequence == b->sequence && a->time_ns == b->time_ns;
}

static const VmbChainLink *
link_at(const GArray *links, guint i)
{
    return &g_array_index(links, VmbChainLink, i);
}

static void G_GNUC_PRINTF(2, 3)
make_full(VmbCopyBase *base, const char *format, ...)
{
    va_list args;
    base->n_layers = base->links->len;
    base->parent = NULL;
    base->parent_disk = NULL;
    g_clear_pointer(&base->below, g_array_unref);
    g_free(base->why);
    va_start(args, format);
    base->why = format != NULL ? g_strdup_vprintf(format, args) : NULL;
    va_end(args);
}

/* ---- which point ---- */

/* The newest layer below the point itself that the other repository has as well. */
static gboolean
find_common(VmbCopyBase *base, GPtrArray *to_points)
{
    for (base->n_layers = 1; base->n_layers < base->links->len; base->n_layers++) {
        const VmbChainLink *link = link_at(base->links, base->n_layers);
        for (guint i = 0; i < to_points->len; i++) {
            VmbPoint *point = to_points->pdata[i];
            if (point->manifest == NULL ||
                !vmb_copy_is_same(point->manifest, link->point->manifest))
                continue;
            base->parent_disk = vmb_manifest_find_disk(point->manifest, link->disk->id);
            if (base->parent_disk != NULL && base->parent_disk->size == link->disk->size) {
                base->parent = point;
                return TRUE;
            }
        }
    }
    return FALSE;
}

/* From the common point up to the last one that builds on it there, for what builds on one point in
 * two places could not be folded. FALSE: that one is newer than what is copied, or there are several. */
static gboolean
go_up(VmbCopyBase *base, GPtrArray *to_points)
{
    const VmbChainLink *newest = link_at(base->links, 0);
    for (;;) {
        VmbPoint *child = NULL;
        guint n = 0;
        for (guint i = 0; i < to_points->len; i++) {
            VmbPoint *point = to_points->pdata[i];
            const VmbManifestDisk *disk =
                point->manifest != NULL ? vmb_manifest_find_disk(point->manifest, newest->disk->id)
                                        : NULL;
            if (disk == NULL || g_strcmp0(disk->parent, base->parent->id) != 0)
                continue;
            child = point;
            n++;
        }
        if (n == 0)
            return TRUE;
        if (n > 1 || child->manifest->sequence >= newest->point->manifest->sequence)
            return FALSE;
        base->parent = child;
        base->parent_disk = vmb_manifest_find_disk(child->manifest, newest->disk->id);
        base->n_between++;
    }
}

static gboolean
is_known_damaged(const VmbChainLink *link)
{
    g_auto(VmbPointState) state = {0};
    return vmb_point_state_read(link->point, &state, NULL) &&
           (state.metadata_damaged || g_strcmp0(state.verify_result, "damaged") == 0);
}

VmbCopyBase *
vmb_copy_base_find(GArray *links, GPtrArray *to_points, guint max_chain)
{
    VmbCopyBase *base = g_new0(VmbCopyBase, 1);
    g_autoptr(GError) error = NULL;
    base->links = links;
    if (!find_common(base, to_points)) {
        make_full(base, NULL);
        return base;
    }
    if (!go_up(base, to_points)) {
        make_full(base, "newer points build on %s there", base->parent->id);
        return base;
    }
    base->below = vmb_repo_chain(to_points, base->parent, base->parent_disk->id, &error);
    if (base->below == NULL) {
        make_full(base, "%s", error->message);
        return base;
    }
    for (guint i = 0; i < base->below->len; i++)
        if (is_known_damaged(link_at(base->below, i))) {
            make_full(base, "%s is damaged there", link_at(base->below, i)->point->id);
            return base;
        }
    if (base->below->len >= max_chain) {
        make_full(base, "%u images build on each other there", base->below->len);
        base->at_limit = TRUE;
    }
    return base;
}

/* ---- what is in the images ---- */

/* Compares the digest files that were read with the manifests: then the maps are right, too. */
static gboolean
check_digests(VmbChain *chain, const GArray *links, guint n, GError **error)
{
    for (guint i = 0; i < n; i++) {
        const VmbChainLink *link = link_at(links, i);
        guint8 digest[VMB_DIGEST_SIZE];
        if (!vmb_chain_digests_end(chain, i, digest, error))
            return FALSE;
        if (memcmp(digest, link->disk->digests_digest, sizeof digest) != 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s differs from the manifest's digest", link->disk->digests);
    }
    return TRUE;
}

/* Blocks, rounded down, of the shortest of the newest @n links below @first. */
static guint64
shortest(const GArray *links, guint first, guint n)
{
    guint64 size = G_MAXUINT64;
    for (guint i = first; i < n; i++)
        size = MIN(size, link_at(links, i)->disk->size);
    return size;
}

typedef struct {
    VmbChain *ours, *theirs;
    guint64 size;        /* of the disk, bytes */
    guint64 theirs_size; /* of the newest layer there, bytes */
    guint64 zero_from;   /* block from which on the copy has zeroes where it has nothing else */
    guint64 needed_from; /* block from which on the copy must have everything */
} Cover;

static gboolean
covers_window(const Cover *cover, guint64 index, gboolean *covered, GError **error)
{
    const VmbChainWindow *ours = NULL, *theirs = NULL;
    guint64 first = index * VMB_QCOW2_L2_ENTRIES;
    if (!vmb_chain_window(cover->ours, index, &ours, error) ||
        (index < vmb_qcow2_l1_entries(cover->theirs_size) &&
         !vmb_chain_window(cover->theirs, index, &theirs, error)))
        return FALSE;
    for (guint i = 0; i < ours->n_blocks; i++) {
        gboolean needed = first + i >= cover->needed_from ||
                          (theirs != NULL && i < theirs->n_blocks &&
                           theirs->blocks[i].kind != VMB_BLOCK_ABSENT);
        if (needed && ours->blocks[i].kind == VMB_BLOCK_ABSENT && first + i < cover->zero_from)
            *covered = FALSE;
    }
    return TRUE;
}

static gboolean
covers(const Cover *cover, GCancellable *cancel, gboolean *covered, GError **error)
{
    *covered = TRUE;
    for (guint64 index = 0; index < vmb_qcow2_l1_entries(cover->size); index++) {
        if (g_cancellable_is_cancelled(cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "cancelled");
        if (!covers_window(cover, index, covered, error))
            return FALSE;
    }
    /* What a chain has beyond the end of a shorter disk. */
    for (guint64 index = vmb_qcow2_l1_entries(cover->size);
         index < vmb_qcow2_l1_entries(cover->theirs_size); index++) {
        const VmbChainWindow *window = NULL;
        if (!vmb_chain_window(cover->theirs, index, &window, error))
            return FALSE;
    }
    return TRUE;
}

/* The copy's layers say how the disk differs from the common point. On top of later points it reads the same if
 * it has all that these have: they hold what has changed since then, and so does it. (Where points have been
 * folded before they were copied.) */
static gboolean
hides_what_is_between(VmbCopyBase *base, const char *domain, GCancellable *cancel,
                      gboolean *covered, GError **error)
{
    const VmbManifestDisk *disk = link_at(base->links, 0)->disk;
    const VmbManifestDisk *common = link_at(base->links, base->n_layers)->disk;
    g_autoptr(VmbChainFiles) ours =
        vmb_chain_files_open_part(base->links, base->n_layers, domain, TRUE, error);
    g_autoptr(VmbChainFiles) theirs =
        ours != NULL
            ? vmb_chain_files_open_part(base->below, base->n_between, domain, TRUE, error)
            : NULL;
    if (theirs == NULL)
        return FALSE;
    guint64 between = shortest(base->below, 0, base->n_between);
    guint64 merged = shortest(base->links, 1, base->n_layers);
    Cover cover = {
        .ours = vmb_chain_files_chain(ours),
        .theirs = vmb_chain_files_chain(theirs),
        .size = disk->size,
        .theirs_size = base->parent_disk->size,
        .zero_from = merged == G_MAXUINT64 ? merged
                                           : vmb_round_up(merged, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE,
        .needed_from = common->size > between ? between / VMB_BLOCK_SIZE : G_MAXUINT64};
    return covers(&cover, cancel, covered, error) &&
           check_digests(cover.ours, base->links, base->n_layers, error) &&
           check_digests(cover.theirs, base->below, base->n_between, error);
}

gboolean
vmb_copy_base_check(VmbCopyBase *base, const char *domain, GCancellable *cancel, GError **error)
{
    g_autoptr(GError) local = NULL;
    gboolean covered = TRUE;
    if (base->parent == NULL)
        return TRUE;
    /* Files that are missing or cut off there are no ground to build on. */
    g_autoptr(VmbChainFiles) files =
        vmb_chain_files_open(base->below, domain, FALSE, FALSE, &local);
    if (files != NULL && base->n_between > 0)
        (void)hides_what_is_between(base, domain, cancel, &covered, &local);
    if (g_error_matches(local, VMB_ERROR, VMB_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (local != NULL)
        make_full(base, "%s", local->message);
    else if (!covered)
        make_full(base, "it does not hold all that %s changes there", base->parent->id);
    return TRUE;
}
