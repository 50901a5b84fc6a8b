/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Free places of an image that has readers, and what its reference counts will be. */
#pragma once
#include "image/qcow2-reader-private.h"

typedef struct VmbFoldAlloc VmbFoldAlloc;

/* @reader: of the image as it is; borrowed. */
VmbFoldAlloc *vmb_fold_alloc_new(VmbQcow2Reader *reader, GError **error);
void vmb_fold_alloc_free(VmbFoldAlloc *alloc);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbFoldAlloc, vmb_fold_alloc_free)

/* @n clusters, one behind the other, that are used neither by the image as it is nor by what was taken; each
 * then has the reference count @count. Gives the byte offset of the first. */
gboolean vmb_fold_alloc_take(VmbFoldAlloc *alloc, guint64 n, guint16 count, guint64 *host,
                             GError **error);
/* The cluster at byte @host, if it is the next free one, without a count yet: *@taken. */
gboolean vmb_fold_alloc_take_next(VmbFoldAlloc *alloc, guint64 host, gboolean *taken,
                                  GError **error);

/* The @length bytes (at least 1) at @host get one reference more (@delta 1) or less (-1) in each cluster that
 * they touch. Errors: VMB_ERROR_DAMAGE if there was none. */
gboolean vmb_fold_alloc_ref(VmbFoldAlloc *alloc, guint64 host, guint64 length, int delta,
                            GError **error);
/* The count of the cluster at @host, as it will be. */
gboolean vmb_fold_alloc_count(VmbFoldAlloc *alloc, guint64 host, guint16 *count, GError **error);

/* Drops the old refcount table, takes a place for a new one, and writes that and all changed blocks. Nothing can
 * be taken afterwards. *@reftable: its offset, *@clusters: its length; *@file_size: bytes of the file. */
gboolean vmb_fold_alloc_finish(VmbFoldAlloc *alloc, guint64 *reftable, guint32 *clusters,
                               guint64 *file_size, GError **error);
