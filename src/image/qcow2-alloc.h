/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Appends clusters, packed frames and tables to an image and counts their references. */
#pragma once
#include "image/qcow2-format.h"

typedef struct VmbQcow2Alloc VmbQcow2Alloc;

/* Appending begins after @front_clusters, which are counted as used once. @label is copied. */
VmbQcow2Alloc *vmb_qcow2_alloc_new(int fd, guint64 front_clusters, guint64 reftable_clusters,
                                   const char *label);
void vmb_qcow2_alloc_free(VmbQcow2Alloc *alloc);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbQcow2Alloc, vmb_qcow2_alloc_free)

/* Each writes one thing and gives the byte offset where it lies. A frame has 1..VMB_BLOCK_SIZE
 * bytes. A table is one cluster; it goes into the tables' digest. */
gboolean vmb_qcow2_alloc_plain(VmbQcow2Alloc *alloc, const guint8 *block, guint64 *host,
                               GError **error);
gboolean vmb_qcow2_alloc_frame(VmbQcow2Alloc *alloc, const guint8 *frame, guint32 length,
                               guint64 *host, GError **error);
gboolean vmb_qcow2_alloc_table(VmbQcow2Alloc *alloc, const void *table, guint64 *host,
                               GError **error);

/* One more reference to the table at @host; FALSE if its count is full or already written. */
gboolean vmb_qcow2_alloc_share(VmbQcow2Alloc *alloc, guint64 host);

/* Writes what is open: packed frames and the last refcount block. Gives the final file size, the
 * digest of all tables in the order of their offsets, and the refcount table (big-endian, whole
 * clusters, owned by @alloc). */
gboolean vmb_qcow2_alloc_finish(VmbQcow2Alloc *alloc, guint64 *file_size,
                                guint8 tables_digest[VMB_DIGEST_SIZE], const guint64 **reftable,
                                GError **error);
