/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2 version 3 as we write it and as we accept it: header, table entries, limits. */
#pragma once
#include "block/chunk.h"
#include "util/units.h"
#include <string.h>

/* Source: docs/interop/qcow2.txt of QEMU. All numbers are big-endian, a cluster is 64 KiB.
 *
 *   cluster 0      header (below), the rest of the cluster is zero
 *   then           L1 table, one entry per 512 MiB of the disk, padded to whole clusters
 *   then           refcount table, one entry per 2 GiB of the file, whole clusters; as long as the
 *                  file can ever become (vmb_qcow2_reftable_clusters())
 *   then, appended as they become final, in any mixture:
 *     plain clusters       one block each
 *     packed clusters      zstd frames one after the other; a frame goes on in the next host
 * cluster only if that one follows directly; what is left over is zero L2 tables            one per
 * 512 MiB of the disk that holds anything refcount blocks      16 bits per host cluster; a
 * compressed block counts in each cluster that it touches; the first cluster of each 2 GiB is the
 * block of the 2 GiB before
 *
 * Header: 0 magic, 4 version 3, 8 u64 offset and 16 u32 length of the backing file name (0, 0:
 * none), 20 cluster bits 16, 24 u64 virtual size, 32 encryption 0, 36 u32 L1 entries, 40 u64 L1
 * offset, 48 u64 refcount table offset, 56 u32 refcount table clusters, 60 u32 and 64 u64 snapshots
 * 0, 72 u64 incompatible features (bit 3: compression type), 80 compatible 0, 88 autoclear 0, 96
 * refcount order 4, 100 header length 112, 104 compression type (1: zstd), then zero to 112;
 * extension 0xe2792aca "qcow2" if there is a backing file; extension 0; the backing file name.
 *
 * L1 entry: offset of the L2 table | bit 63 if its refcount is 1. Tables that say "zero" for all of
 * their blocks are shared by several entries.
 * L2 entry: 0 absent; 1 zero; offset | bit 63 plain; for a frame bit 62, the byte offset in bits
 * 0-53, and in bits 54-61 the number of 512-byte sectors that it touches beyond the first. */

#define VMB_QCOW2_MAGIC 0x514649fbu
#define VMB_QCOW2_VERSION 3u
#define VMB_QCOW2_REFCOUNT_ORDER 4u
#define VMB_QCOW2_HEADER_LENGTH 112u
#define VMB_QCOW2_INCOMPATIBLE_COMPRESSION (G_GUINT64_CONSTANT(1) << 3)
#define VMB_QCOW2_COMPRESSION_ZSTD 1u
#define VMB_QCOW2_EXTENSION_BACKING 0xe2792acau
#define VMB_QCOW2_NAME_MAX 1023u /* bytes of a backing file name */

#define VMB_QCOW2_L2_ENTRIES 8192u /* 64 KiB / 8: one L2 table maps 512 MiB */
#define VMB_QCOW2_L2_SPAN (G_GUINT64_CONSTANT(8192) * VMB_BLOCK_SIZE)
#define VMB_QCOW2_REFBLOCK_ENTRIES 32768u /* 64 KiB / 2: one refcount block maps 2 GiB of file */
#define VMB_QCOW2_REFBLOCK_SPAN (G_GUINT64_CONSTANT(32768) * VMB_BLOCK_SIZE)
#define VMB_QCOW2_REFCOUNT_MAX 65535u
#define VMB_QCOW2_TABLE_ENTRIES 8192u /* 64-bit entries in a cluster of L1 or refcount table */
#define VMB_QCOW2_REFTABLE_CLUSTERS_MAX 16u

#define VMB_QCOW2_COPIED (G_GUINT64_CONSTANT(1) << 63)
#define VMB_QCOW2_COMPRESSED (G_GUINT64_CONSTANT(1) << 62)
#define VMB_QCOW2_ZERO G_GUINT64_CONSTANT(1)
#define VMB_QCOW2_OFFSET_MASK G_GUINT64_CONSTANT(0x00fffffffffffe00)
#define VMB_QCOW2_SECTOR 512u
#define VMB_QCOW2_FRAME_OFFSET_BITS 54 /* 62 - (cluster bits - 8) */
#define VMB_QCOW2_FRAME_OFFSET_MASK ((G_GUINT64_CONSTANT(1) << VMB_QCOW2_FRAME_OFFSET_BITS) - 1)
#define VMB_QCOW2_FRAME_SECTORS_MAX 255u

static inline guint64
vmb_qcow2_get64(const void *at)
{
    guint64 value;
    memcpy(&value, at, sizeof value);
    return GUINT64_FROM_BE(value);
}

static inline guint32
vmb_qcow2_get32(const void *at)
{
    guint32 value;
    memcpy(&value, at, sizeof value);
    return GUINT32_FROM_BE(value);
}

static inline void
vmb_qcow2_put64(void *at, guint64 value)
{
    value = GUINT64_TO_BE(value);
    memcpy(at, &value, sizeof value);
}

static inline void
vmb_qcow2_put32(void *at, guint32 value)
{
    value = GUINT32_TO_BE(value);
    memcpy(at, &value, sizeof value);
}

/* Number of 512-byte sectors that @length bytes (at least 1) at @host touch beyond the first. */
static inline guint64
vmb_qcow2_frame_sectors(guint64 host, guint64 length)
{
    return (host + length - 1) / VMB_QCOW2_SECTOR - host / VMB_QCOW2_SECTOR;
}

/* L2 entry of a zstd frame of @length bytes at byte @host of the file. */
static inline guint64
vmb_qcow2_frame_entry(guint64 host, guint64 length)
{
    return VMB_QCOW2_COMPRESSED | host |
           vmb_qcow2_frame_sectors(host, length) << VMB_QCOW2_FRAME_OFFSET_BITS;
}

/* Number of L1 entries of a disk of @size bytes (at most VMB_SIZE_MAX). */
static inline guint32
vmb_qcow2_l1_entries(guint64 size)
{
    return (guint32)((size + VMB_QCOW2_L2_SPAN - 1) / VMB_QCOW2_L2_SPAN);
}

/* Number of clusters that hold @entries 64-bit entries. */
static inline guint64
vmb_qcow2_table_clusters(guint64 entries)
{
    return (entries + VMB_QCOW2_TABLE_ENTRIES - 1) / VMB_QCOW2_TABLE_ENTRIES;
}

/* Length of the refcount table for a disk of @size bytes: enough for twice its blocks, so that an
 * image into which another one is folded never outgrows it, with all tables. */
static inline guint64
vmb_qcow2_reftable_clusters(guint64 size)
{
    guint64 blocks = (size + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE;
    guint64 clusters = 2 * (blocks + vmb_qcow2_l1_entries(size)) + 64;
    guint64 refblocks = clusters / (VMB_QCOW2_REFBLOCK_ENTRIES - 1) + 2;
    return vmb_qcow2_table_clusters((clusters + refblocks) / VMB_QCOW2_REFBLOCK_ENTRIES + 2);
}
