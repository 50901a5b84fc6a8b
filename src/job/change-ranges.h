/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Blocks that differ, told as ranges: those of one kind that touch are one. */
#pragma once
#include "job/changes.h"

/* Begins as {@view, @emit, @user}; @emit may be NULL: only totals are wanted. */
typedef struct {
    VmbChangedDisk *view; /* its data and zero grow */
    VmbChangesEmit emit;
    gpointer user;
    guint64 start, end; /* bytes, of the open range; equal: none */
    gboolean zero;
} VmbChangeRanges;

/* The block at @offset differs and is zero now, or data; ascending. It ends with the disk. */
gboolean vmb_change_ranges_add(VmbChangeRanges *ranges, guint64 offset, gboolean zero,
                               GError **error);
/* Tells the last one. */
gboolean vmb_change_ranges_end(VmbChangeRanges *ranges, GError **error);
