/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Damage in a chain: what is known of it, and what a backup learns. */
#pragma once
#include "image/chain.h"
#include "repo/repository.h"

/* Blocks of one layer of a chain that cannot be relied upon. */
typedef struct {
    guint layer;            /* 0: the newest */
    guint64 offset, length; /* of the disk, bytes */
} VmbDamagedRange;

/* What the states of the points in @links (from vmb_repo_chain()) say of the disk @id. A state that cannot be
 * read says nothing. GArray of VmbDamagedRange, to be freed by the caller. */
GArray *vmb_damage_known(const GArray *links, const char *id);
/* Those of @ranges that touch [offset, end), or NULL if there is none. */
GArray *vmb_damage_within(const GArray *ranges, guint64 offset, guint64 end);
/* TRUE if what @block, at @offset of the disk, holds is damaged: what a newer layer has there is not. */
gboolean vmb_damage_covers(const GArray *ranges, guint64 offset, const VmbBlock *block);

/* Can any of @ranges be seen in what @chain reads as, or has all been replaced by newer layers? Reads maps, and
 * only where there is damage. Errors: those of vmb_chain_map(). */
gboolean vmb_damage_is_seen(const GArray *ranges, VmbChain *chain, gboolean *seen, GError **error);

/* Appends to @found which of the blocks at @offsets (guint64, ascending) of @chain, which was opened with digests
 * and is new, are not what their digests say. Errors: those of vmb_chain_window(). */
gboolean vmb_damage_look(VmbChain *chain, const GArray *offsets, GArray *found, GError **error);

/* Notes the ranges of @found in the states of their points, so that these are listed as damaged and the next
 * backup knows. That it cannot be noted is only a warning. */
void vmb_damage_note(const GArray *links, const char *id, const GArray *found);
