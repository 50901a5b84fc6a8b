/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first cluster of an image: written in one way only, and accepted in that way only. */
#pragma once
#include "image/qcow2-format.h"

typedef struct {
    guint64 size;                              /* virtual, bytes, a multiple of 512 */
    guint64 l1_offset;                         /* bytes into the file */
    guint64 reftable_offset;                   /* bytes into the file */
    guint32 l1_entries;                        /* vmb_qcow2_l1_entries() of size */
    guint32 reftable_clusters;                 /* 1..VMB_QCOW2_REFTABLE_CLUSTERS_MAX */
    gboolean compressed;                       /* zstd frames are allowed */
    char backing_file[VMB_QCOW2_NAME_MAX + 1]; /* "": none */
} VmbQcow2Header;

/* Fills a whole cluster. */
void vmb_qcow2_header_encode(const VmbQcow2Header *header, guint8 cluster[VMB_BLOCK_SIZE]);

/* Reads a whole cluster of a file of @file_size bytes; the tables lie inside the file, aligned,
 * past the header. Anything that vmb_qcow2_header_encode() would not write is refused. Errors:
 * VMB_ERROR_DAMAGE that names @label. */
gboolean vmb_qcow2_header_decode(VmbQcow2Header *header, const guint8 cluster[VMB_BLOCK_SIZE],
                                 guint64 file_size, const char *label, GError **error);
