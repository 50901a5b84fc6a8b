/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The .digests file beside each image: what each stored block holds, sorted by offset. */
#pragma once
#include "block/digest.h"

/* On disk, little-endian:
 *   header, 64 bytes: "VMBDIGST", u32 version 1, u32 block size 65536, u64 disk size in bytes,
 *                     40 bytes of zero
 *   records, 48 bytes each, ascending, not overlapping:
 *     u64 offset   guest-visible, a multiple of 65536
 *     u32 kind     1 data, 2 zero run
 *     u32 extra    data: vmb_digest_check() of the stored frame, 0 if stored plain;
 *                  zero run: number of blocks, at least 1
 *     u8[32]       data: SHA-256 of the block (a short last block is padded with zero); else zero
 * Nothing follows the last record. The manifest holds the file's length and SHA-256. */

typedef struct VmbDigestWriter VmbDigestWriter;
VmbDigestWriter *vmb_digest_writer_new(int fd, guint64 disk_size, const char *label,
                                       GError **error);
void vmb_digest_writer_free(VmbDigestWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDigestWriter, vmb_digest_writer_free)

gboolean vmb_digest_writer_data(VmbDigestWriter *writer, guint64 offset,
                                const guint8 digest[VMB_DIGEST_SIZE], guint32 check,
                                GError **error);
/* Runs that touch are merged. @length: bytes, as for vmb_qcow2_writer_zero(). */
gboolean vmb_digest_writer_zero(VmbDigestWriter *writer, guint64 offset, guint64 length,
                                GError **error);
/* Flushes (no fsync); gives the file's length and digest. */
gboolean vmb_digest_writer_finish(VmbDigestWriter *writer, guint64 *length,
                                  guint8 digest[VMB_DIGEST_SIZE], GError **error);

typedef struct {
    guint64 offset;   /* bytes */
    guint64 n_blocks; /* 1 for data */
    gboolean zero;
    guint32 check;
    guint8 digest[VMB_DIGEST_SIZE];
} VmbDigestRecord;

/* A cursor over the file; checks header, order, bounds and kinds. Errors: VMB_ERROR_DAMAGE. */
typedef struct VmbDigestReader VmbDigestReader;
VmbDigestReader *vmb_digest_reader_open(int fd, guint64 disk_size, const char *label,
                                        GError **error);
void vmb_digest_reader_free(VmbDigestReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDigestReader, vmb_digest_reader_free)
/* *@end is TRUE after the last record. */
gboolean vmb_digest_reader_next(VmbDigestReader *reader, VmbDigestRecord *record, gboolean *end,
                                GError **error);
/* The digest of the whole file, as in the manifest; only after *@end. */
void vmb_digest_reader_digest(VmbDigestReader *reader, guint8 digest[VMB_DIGEST_SIZE]);
