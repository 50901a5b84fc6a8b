/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling by digests what a chain already holds: for whole disks, and for a few blocks as a test. */
#pragma once
#include "image/chain.h"

/* Fills in what each block of @chunk is in @window, for the encoder to compare with. The window is
 * from vmb_chain_window(); what lies behind its blocks was not there, and reads as zero. */
void vmb_compare_expect(VmbChain *chain, const VmbChainWindow *window, VmbChunk *chunk);

/* A few blocks that a bitmap calls clean, and that are not plainly zero, are read all the same and
 * compared with what the chain holds. So a bitmap that is another disk's or an older one's is found
 * although it is valid and has the right name. They are chosen with equal chances among all of a kind. */
#define VMB_SPOTS_OF_ALL 64    /* that hold data in the chain */
#define VMB_SPOTS_OF_RECENT 32 /* that the newest point itself has stored: least likely to be elsewhere */
#define VMB_SPOTS_OF_NEW 32    /* that hold nothing in the chain */
/* And the last one that holds data in the chain: if the disk shrank and grew again, it has changed. */
#define VMB_SPOTS_MAX (VMB_SPOTS_OF_ALL + VMB_SPOTS_OF_RECENT + VMB_SPOTS_OF_NEW + 1)

typedef struct {
    guint64 offset; /* on the disk, bytes */
    VmbBlock known; /* where the chain has it */
} VmbSpot;

typedef struct VmbSpotCheck VmbSpotCheck;
/* @chain: borrowed, opened without digests. @seed: of the choice. */
VmbSpotCheck *vmb_spot_check_new(VmbChain *chain, guint32 seed);
void vmb_spot_check_free(VmbSpotCheck *check);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbSpotCheck, vmb_spot_check_free)

/* To be called for all windows. @actions: @n_blocks VmbAction; VMB_ACTION_TRUST makes a candidate. */
void vmb_spot_check_window(VmbSpotCheck *check, const VmbChainWindow *window,
                           const guint8 *actions, guint n_blocks);
/* The VmbSpot that were chosen, ascending, at most VMB_SPOTS_MAX. The caller frees the array. */
GArray *vmb_spot_check_spots(const VmbSpotCheck *check);
/* What the encoder shall expect at @spot: what the chain holds. Errors: VMB_ERROR_DAMAGE. */
gboolean vmb_spot_check_expect(VmbSpotCheck *check, const VmbSpot *spot, VmbBlock *expected,
                               GError **error);
