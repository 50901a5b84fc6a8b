/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block status replies: checked runs of one context, and the merge of two contexts. */
#pragma once
#include "nbd/reader.h"

/* One descriptor of NBD_REPLY_TYPE_BLOCK_STATUS (NBD protocol, "Metadata querying"). */
typedef struct {
    guint64 length; /* bytes, not 0 */
    guint32 flags;  /* by the context */
} VmbNbdRun;

/* Appends the @n_entries words (length and flags in turn) of one reply to @runs, an empty GArray of
 * VmbNbdRun. @limit: bytes asked for; only the last descriptor may go beyond, and is cut there.
 * Returns NULL, or what is wrong with the reply. */
const char *vmb_nbd_runs_parse(GArray *runs, const guint32 *entries, gsize n_entries,
                               guint64 limit);

/* Appends to @extents what both contexts tell from @offset on, as far as the shorter one reaches;
 * equal neighbours are joined. @base: runs of base:allocation; @dirty: those of the dirty bitmap, or
 * NULL (all is dirty). Returns the number of bytes told. */
guint64 vmb_nbd_extents_merge(const GArray *base, const GArray *dirty, guint64 offset,
                              GArray *extents);
