/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Constants and helpers of the .digests file; its layout is described in digest-file.h. */
#pragma once
#include "block/chunk.h"
#include <string.h>

#define VMB_DIGEST_FILE_MAGIC "VMBDIGST"
#define VMB_DIGEST_FILE_VERSION 1u
#define VMB_DIGEST_FILE_HEADER 64u /* bytes */
#define VMB_DIGEST_FILE_RECORD 48u /* bytes */
#define VMB_DIGEST_FILE_DATA 1u
#define VMB_DIGEST_FILE_ZERO 2u

static inline void
vmb_digest_file_put64(guint8 *at, guint64 value)
{
    value = GUINT64_TO_LE(value);
    memcpy(at, &value, sizeof value);
}

static inline void
vmb_digest_file_put32(guint8 *at, guint32 value)
{
    value = GUINT32_TO_LE(value);
    memcpy(at, &value, sizeof value);
}

static inline guint64
vmb_digest_file_get64(const guint8 *at)
{
    guint64 value;
    memcpy(&value, at, sizeof value);
    return GUINT64_FROM_LE(value);
}

static inline guint32
vmb_digest_file_get32(const guint8 *at)
{
    guint32 value;
    memcpy(&value, at, sizeof value);
    return GUINT32_FROM_LE(value);
}

/* Number of blocks of a disk of @disk_size bytes. */
static inline guint64
vmb_digest_file_blocks(guint64 disk_size)
{
    return disk_size / VMB_BLOCK_SIZE + (disk_size % VMB_BLOCK_SIZE != 0);
}

/* The one header that a file for a disk of @disk_size bytes can have. */
static inline void
vmb_digest_file_header(guint64 disk_size, guint8 header[VMB_DIGEST_FILE_HEADER])
{
    memset(header, 0, VMB_DIGEST_FILE_HEADER);
    memcpy(header, VMB_DIGEST_FILE_MAGIC, 8);
    vmb_digest_file_put32(header + 8, VMB_DIGEST_FILE_VERSION);
    vmb_digest_file_put32(header + 12, VMB_BLOCK_SIZE);
    vmb_digest_file_put64(header + 16, disk_size);
}
