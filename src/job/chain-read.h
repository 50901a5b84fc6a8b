/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading everything that a chain holds, in parallel, with digests verified on the way. */
#pragma once
#include <gio/gio.h>
#include "image/chain.h"
#include "job/losses.h"
#include "util/progress.h"

typedef struct {
    VmbChain *chain;
    /* Takes each chunk of data in order; what is not in any chunk reads as zero. May be NULL. */
    gboolean (*emit)(const VmbChunk *chunk, gpointer user, GError **error);
    gpointer user;
    /* What cannot be read is collected here and reading goes on, with zeroes; NULL: the first damaged block is
     * an error. */
    VmbLosses *losses;
    gboolean maps_only;     /* no data is read: just maps and digests, compared with each other */
    GCancellable *cancel;   /* may be NULL */
    VmbProgress *progress;  /* may be NULL; advanced by the bytes of data */
} VmbChainRead;

/* Errors: VMB_ERROR_DAMAGE with layer and offset, VMB_ERROR_CANCELLED, those of emit. */
gboolean vmb_chain_read(const VmbChainRead *read, GError **error);

/* Bytes of data that the chain shows (whole blocks), from its maps alone. */
gboolean vmb_chain_count(VmbChain *chain, guint64 *bytes, GError **error);
