/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads the tables of one qcow2 image of the kind that we write, and trusts nothing in them. */
#pragma once
#include "block/chunk.h"

typedef struct VmbQcow2Reader VmbQcow2Reader;

/* @fd is borrowed. @size: the virtual size that the manifest expects (rounded up to 512).
 * Every length and offset of the header is checked against the file before use; a feature that our
 * writer does not write is refused. The backing file name is not followed. Errors: VMB_ERROR_DAMAGE
 * that names @label. */
VmbQcow2Reader *vmb_qcow2_reader_open(int fd, guint64 size, const char *label, GError **error);
/* The same, as if @header (a whole cluster; NULL: none) were the first cluster of the file. */
VmbQcow2Reader *vmb_qcow2_reader_open_as(int fd, const guint8 *header, guint64 size,
                                         const char *label, GError **error);
/* The same, but damaged entries of the L1 table are no error before they are used. */
VmbQcow2Reader *vmb_qcow2_reader_open_tolerant(int fd, guint64 size, const char *label,
                                               GError **error);
void vmb_qcow2_reader_free(VmbQcow2Reader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbQcow2Reader, vmb_qcow2_reader_free)

const char *vmb_qcow2_reader_backing_file(VmbQcow2Reader *reader); /* NULL: none; borrowed */
guint64 vmb_qcow2_reader_size(VmbQcow2Reader *reader);             /* virtual size, bytes */

typedef struct {
    VmbBlockKind kind;
    guint64 host_offset;  /* bytes into the file; PLAIN and COMPRESSED */
    guint32 length;       /* PLAIN: VMB_BLOCK_SIZE; COMPRESSED: upper bound, inside the file */
} VmbQcow2Entry;

/* Entries of the VMB_QCOW2_L2_ENTRIES blocks of L2 table @index (guest offset index *
 * VMB_QCOW2_L2_SPAN); *@any is FALSE if all are absent (then @entries is not touched). Blocks beyond
 * the end of the disk are ABSENT. */
gboolean vmb_qcow2_reader_table(VmbQcow2Reader *reader, guint64 index, VmbQcow2Entry *entries,
                                gboolean *any, GError **error);

/* How many blocks an image stores. */
typedef struct {
    guint64 data_blocks, zero_blocks;
} VmbQcow2Counts;

/* The two digests of VmbQcow2Summary, recomputed from the tables alone, whose entries are checked. Reads
 * no data. @counts may be NULL. */
gboolean vmb_qcow2_reader_metadata(VmbQcow2Reader *reader, guint8 head_digest[VMB_DIGEST_SIZE],
                                   guint8 tables_digest[VMB_DIGEST_SIZE], VmbQcow2Counts *counts,
                                   GError **error);

/* The two digests of VmbQcow2Summary, recomputed from the file; and that every byte of the file
 * which is neither table nor stored data is zero, refcounts are exact, and no two blocks overlap.
 * Streams; memory depends on the number of tables only. */
gboolean vmb_qcow2_reader_check(VmbQcow2Reader *reader, guint8 head_digest[VMB_DIGEST_SIZE],
                                guint8 tables_digest[VMB_DIGEST_SIZE], GError **error);
