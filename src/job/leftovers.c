/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which checkpoints are needed, which are leftovers of ours, and which are not ours to judge. */
#include "job/leftovers.h"
#include "virt/checkpoint.h"

#include <string.h>

/* The disk @id in a point that this repository made; NULL if it is not there, or has no checkpoint.
 */
static const char *
checkpoint_of(const VmbPoint *point, const char *id)
{
    if (point->manifest == NULL || point->foreign)
        return NULL;
    for (guint i = 0; i < point->manifest->disks->len; i++) {
        const VmbManifestDisk *disk = g_ptr_array_index(point->manifest->disks, i);
        if (strcmp(disk->id, id) == 0)
            return disk->checkpoint;
    }
    return NULL;
}

static gboolean
holds(const VmbPoint *point, const char *id)
{
    for (guint i = 0; point->manifest != NULL && i < point->manifest->disks->len; i++)
        if (strcmp(((VmbManifestDisk *)point->manifest->disks->pdata[i])->id, id) == 0)
            return TRUE;
    return FALSE;
}

/* Points are in order, the newest last. If that one was dropped, nothing will build on it, and its checkpoint
 * must go while its name is known. */
static gboolean
is_newest_of(const GPtrArray *points, const char *id, const char *checkpoint)
{
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        if (holds(point, id))
            return !point->retired && g_strcmp0(checkpoint_of(point, id), checkpoint) == 0;
    }
    return FALSE;
}

/* *@named: a point of ours names it at all. */
static gboolean
is_needed(const GPtrArray *points, const char *const *disk_ids, const char *checkpoint,
          gboolean *named)
{
    *named = FALSE;
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = g_ptr_array_index(points, i);
        for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
            const VmbManifestDisk *disk = g_ptr_array_index(point->manifest->disks, d);
            if (point->foreign || g_strcmp0(disk->checkpoint, checkpoint) != 0)
                continue;
            *named = TRUE;
            if ((disk_ids == NULL || g_strv_contains(disk_ids, disk->id)) &&
                is_newest_of(points, disk->id, checkpoint))
                return TRUE;
        }
    }
    return FALSE;
}

static gboolean
has_damaged(const GPtrArray *points, const char *id)
{
    for (guint i = 0; id != NULL && i < points->len; i++) {
        const VmbPoint *point = g_ptr_array_index(points, i);
        if (point->manifest == NULL && strcmp(point->id, id) == 0)
            return TRUE;
    }
    return FALSE;
}

VmbCheckpointRole
vmb_leftovers_role(const char *checkpoint, const GPtrArray *points, const VmbJournal *journal,
                   const char *const *disk_ids, const char *repository_id)
{
    gboolean named = FALSE;
    if (is_needed(points, disk_ids, checkpoint, &named))
        return VMB_CHECKPOINT_NEEDED;
    if (named)
        return VMB_CHECKPOINT_OLD;
    if (journal != NULL && g_strcmp0(journal->checkpoint, checkpoint) == 0)
        return has_damaged(points, journal->point) ? VMB_CHECKPOINT_NEEDED : VMB_CHECKPOINT_STALE;
    if (journal != NULL && journal->stale != NULL &&
        g_strv_contains((const char *const *)journal->stale, checkpoint))
        return VMB_CHECKPOINT_STALE;
    return vmb_checkpoint_is_ours(checkpoint, repository_id) ? VMB_CHECKPOINT_UNNAMED
                                                             : VMB_CHECKPOINT_FOREIGN;
}

guint
vmb_leftovers_count_damaged(const GPtrArray *points)
{
    guint n = 0;
    for (guint i = 0; i < points->len; i++)
        n += ((const VmbPoint *)points->pdata[i])->manifest == NULL ? 1 : 0;
    return n;
}
