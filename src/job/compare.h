/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling by digests what a chain already holds: for whole disks, and for a few blocks as a test. */
#pragma once
#include "image/chain.h"

/* Fills in what each block of @chunk is in @window, for the encoder to compare with. The window is
 * from vmb_chain_window(); what lies behind its blocks was not there, and reads as zero. */
void vmb_compare_expect(VmbChain *chain, const VmbChainWindow *window, VmbChunk *chunk);

/* A few blocks that a bitmap calls clean, and that hold data, are read all the same and compared with
 * what the chain holds. So an image that was replaced, or whose lower layers were, is found although
 * everything else about it looks as before. */
#define VMB_SPOT_CHECKS 64 /* blocks of a disk, about: 4 MiB */

typedef struct VmbSpotCheck VmbSpotCheck;
/* @size: of the disk, bytes. @chain: borrowed, opened without digests. */
VmbSpotCheck *vmb_spot_check_new(VmbChain *chain, guint64 size);
void vmb_spot_check_free(VmbSpotCheck *check);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbSpotCheck, vmb_spot_check_free)

/* Chooses at random among the window's blocks that hold data and for which @candidate is TRUE.
 * Returns the number of blocks chosen; *@chosen are their places in the window, ascending, owned by
 * @check until the next call. */
guint vmb_spot_check_choose(VmbSpotCheck *check, const VmbChainWindow *window,
                            gboolean (*candidate)(guint block, gpointer user), gpointer user,
                            const guint **chosen);
/* What the encoder shall expect of block @index of @window: what the chain holds. FALSE if that cannot be
 * read, which is for verify to tell. */
gboolean vmb_spot_check_expect(VmbSpotCheck *check, const VmbChainWindow *window, guint index,
                               VmbBlock *expected);
