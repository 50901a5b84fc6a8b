/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two halves of checking an image share: its tables, and the sweep over its bytes. */
#pragma once
#include "image/qcow2-reader-private.h"

typedef enum {
    VMB_QCOW2_TABLE_HEAD, /* a cluster of header, L1 or refcount table */
    VMB_QCOW2_TABLE_L2,
    VMB_QCOW2_TABLE_REFBLOCK,
} VmbQcow2TableKind;

/* The file in so many equal parts: which of them a table leads to. */
#define VMB_QCOW2_PARTS 512u

/* A cluster of the file that holds a table. */
typedef struct {
    guint64 host; /* bytes into the file */
    guint64 parts[VMB_QCOW2_PARTS / 64]; /* L2: a bit for each part in which a block of it begins. After many
                                          * folds these are all over the file, but few. */
    guint32 index;     /* L2: the L1 entry, or one of them */
    guint32 uses;      /* by how many entries */
    guint32 copied;    /* L2: how many of them have the flag */
    VmbQcow2TableKind kind;
} VmbQcow2Table;

/* In which part of a file of @file_size bytes @host lies. */
static inline guint
vmb_qcow2_part(guint64 host, guint64 file_size)
{
    guint64 length = file_size / VMB_QCOW2_PARTS + 1;
    return (guint)MIN(host / length, VMB_QCOW2_PARTS - 1);
}

/* Walks through all bytes of the file in ascending order: nothing overlaps, what is neither table
 * nor stored data is zero, and each cluster's refcount is exact. @tables: VmbQcow2Table, ascending,
 * no two the same, L2 entries valid. @reftable: big-endian, @reftable_entries of them, offsets
 * valid. Memory: a fixed buffer. */
gboolean vmb_qcow2_sweep(VmbQcow2Reader *reader, const GArray *tables, const guint64 *reftable,
                         guint64 reftable_entries, GError **error);
