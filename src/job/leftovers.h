/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which checkpoints are needed, which are leftovers of ours, and which are not ours to judge. */
#pragma once
#include "repo/journal.h"
#include "repo/repository.h"

typedef enum {
    VMB_CHECKPOINT_FOREIGN, /* another program's, another repository's, or an original's of this
                               copy */
    VMB_CHECKPOINT_NEEDED,  /* the newest point of some disk names it: the next increment starts
                               there */
    VMB_CHECKPOINT_OLD,     /* only older points name it */
    VMB_CHECKPOINT_STALE,   /* no point names it, the journal does */
    VMB_CHECKPOINT_UNNAMED, /* it has the form of ours, but neither points nor journal name it */
} VmbCheckpointRole;

/* Pure. @points: the domain's, in order. @journal: of a dead run, or NULL. @disk_ids: identities of
 * the disks that count, NULL-terminated; NULL: all that points hold. The checkpoint of a dead run
 * whose point is there but damaged counts as needed. */
VmbCheckpointRole vmb_leftovers_role(const char *checkpoint, const GPtrArray *points,
                                     const VmbJournal *journal, const char *const *disk_ids,
                                     const char *repository_id);

/* How many of the points have a manifest that cannot be read. */
guint vmb_leftovers_count_damaged(const GPtrArray *points);
