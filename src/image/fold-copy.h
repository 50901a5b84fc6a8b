/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies stored blocks from one image to free places of another, as they are, in large pieces. */
#pragma once
#include "image/fold-alloc.h"

typedef struct VmbFoldCopy VmbFoldCopy;

/* All borrowed. @to: descriptor of the image whose places @alloc gives. */
VmbFoldCopy *vmb_fold_copy_new(VmbQcow2Reader *from, int to, VmbFoldAlloc *alloc);
void vmb_fold_copy_free(VmbFoldCopy *copy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbFoldCopy, vmb_fold_copy_free)

/* Copies the stored form of a block of data. *@raw: the L2 entry for it (native); *@length: its bytes. A frame
 * whose end cannot be found is copied as far as its entry says. */
gboolean vmb_fold_copy_block(VmbFoldCopy *copy, const VmbQcow2Entry *entry, guint64 *raw,
                             guint32 *length, GError **error);
/* Writes what is still in memory. */
gboolean vmb_fold_copy_finish(VmbFoldCopy *copy, GError **error);
