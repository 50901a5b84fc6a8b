/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes a qcow2 image once, from its first block to its last, in memory independent of its size. */
#pragma once
#include "block/chunk.h"

typedef struct VmbQcow2Writer VmbQcow2Writer;

typedef struct {
    guint64 size;             /* virtual size in bytes; rounded up to 512; 1..VMB_SIZE_MAX */
    gboolean compressed;      /* the image may hold zstd clusters */
    const char *backing_file; /* written into the header with format qcow2; NULL: none */
    const char *label;        /* names the file in errors */
} VmbQcow2WriterOptions;

/* What the manifest needs to know of a finished image. */
typedef struct {
    guint64 file_size;    /* bytes */
    guint64 data_blocks;  /* blocks stored as data */
    guint64 zero_blocks;  /* blocks stored as explicit zero */
    guint64 stored_bytes; /* of data: frames and plain clusters, without tables */
    guint8 head_digest[VMB_DIGEST_SIZE];   /* SHA-256 of the reserved front: header, L1, refcount table */
    guint8 tables_digest[VMB_DIGEST_SIZE]; /* SHA-256 of all L2 tables and refcount blocks by offset */
} VmbQcow2Summary;

/* @fd: an empty file, open for reading and writing; borrowed. */
VmbQcow2Writer *vmb_qcow2_writer_new(int fd, const VmbQcow2WriterOptions *options, GError **error);
void vmb_qcow2_writer_free(VmbQcow2Writer *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbQcow2Writer, vmb_qcow2_writer_free)

/* Appends one block; offsets (multiples of VMB_BLOCK_SIZE) must ascend over all calls. @stored is
 * one whole block (PLAIN) or one zstd frame (COMPRESSED). */
gboolean vmb_qcow2_writer_block(VmbQcow2Writer *writer, guint64 offset, VmbBlockKind kind,
                                const guint8 *stored, guint32 stored_length, GError **error);
/* Explicit zeroes; @length a multiple of VMB_BLOCK_SIZE unless it reaches the end of the disk.
 * In an image without backing file nothing is written: absent reads as zero. */
gboolean vmb_qcow2_writer_zero(VmbQcow2Writer *writer, guint64 offset, guint64 length,
                               GError **error);
/* Writes what is left of the tables, then the header; no fsync. @summary may be NULL. */
gboolean vmb_qcow2_writer_finish(VmbQcow2Writer *writer, VmbQcow2Summary *summary,
                                 GError **error);
