/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What reading and checking an image share. */
#pragma once
#include "image/qcow2-header.h"
#include "image/qcow2-reader.h"

struct VmbQcow2Reader {
    int fd;
    char *label;
    guint64 file_size; /* bytes, when it was opened */
    guint64 n_blocks;  /* of the disk */
    VmbQcow2Header header;
    guint64 *l1; /* big-endian, header.l1_entries of them */
    guint64 *l2; /* big-endian, one table */
};

/* Host offset of L2 table @index, 0 if there is none; *@copied: its flag. Errors: VMB_ERROR_DAMAGE.
 */
gboolean vmb_qcow2_reader_l1(VmbQcow2Reader *reader, guint64 index, guint64 *host, gboolean *copied,
                             GError **error);

/* Reads a cluster of table entries at @host into @table, as it is. */
gboolean vmb_qcow2_reader_cluster(VmbQcow2Reader *reader, guint64 host, void *table,
                                  GError **error);

/* Reads L2 table @index into reader->l2; *@any is FALSE if there is none (then nothing is read).
 * *@n_blocks: how many of its entries lie inside the disk. */
gboolean vmb_qcow2_reader_load(VmbQcow2Reader *reader, guint64 index, guint *n_blocks,
                               gboolean *any, GError **error);

/* Decodes L2 entry @raw (native); FALSE (no GError) if it is not valid. */
gboolean vmb_qcow2_reader_entry(const VmbQcow2Reader *reader, guint64 raw, VmbQcow2Entry *entry);

/* "L2 entry ... of block ... is not valid". Always FALSE. */
gboolean vmb_qcow2_reader_bad_entry(const VmbQcow2Reader *reader, guint64 block, guint64 raw,
                                    GError **error);
