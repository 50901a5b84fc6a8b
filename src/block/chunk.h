/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The unit of work of the hot path: a piece of a disk and what becomes of its blocks. */
#pragma once
#include <glib.h>

/* A block is 64 KiB: one qcow2 cluster, one dirty-bitmap bit, one digest. */
#define VMB_BLOCK_SIZE 65536u
#define VMB_BLOCK_BITS 16
#define VMB_CHUNK_BLOCKS 16u /* at most so many blocks with data in one chunk: 1 MiB */
#define VMB_CHUNK_SIZE (VMB_CHUNK_BLOCKS * VMB_BLOCK_SIZE)
#define VMB_DIGEST_SIZE 32u /* SHA-256 */

typedef enum {
    VMB_BLOCK_ABSENT,     /* not in this image: the layer below decides */
    VMB_BLOCK_ZERO,       /* reads as zero */
    VMB_BLOCK_PLAIN,      /* stored as it is, one whole cluster */
    VMB_BLOCK_COMPRESSED, /* stored as one zstd frame */
} VmbBlockKind;

/* Why a block reads as zero although its layer held something else. */
typedef enum {
    VMB_LOSS_NONE,
    VMB_LOSS_DATA,   /* its stored form is damaged */
    VMB_LOSS_TABLES, /* where that lies is not known */
} VmbLoss;

typedef struct {
    VmbBlockKind kind;
    guint32 check;                    /* vmb_digest_check() of the stored bytes; 0 unless compressed */
    guint8 digest[VMB_DIGEST_SIZE];   /* SHA-256 of the block's VMB_BLOCK_SIZE bytes, see below */
    /* When encoding: the stored form, inside the chunk's data or output buffer. */
    const guint8 *stored;
    guint32 stored_length;
    /* When decoding: where the stored form lies, an upper bound of its length, and in which layer
     * of the chain (0 is the newest). */
    guint layer;
    guint64 host_offset;
    VmbLoss loss;
} VmbBlock;

/* TRUE if it holds something else than zeroes. */
static inline gboolean
vmb_block_has_data(const VmbBlock *block)
{
    return block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED;
}

/* A chunk is either DATA (data != NULL, length <= VMB_CHUNK_SIZE) or a run of zeroes of any length
 * (data == NULL). Its offset is a multiple of VMB_BLOCK_SIZE, its length as well unless it ends the
 * disk: the bytes from there to the end of the last block are zero in data, in digests and on disk. */
typedef struct {
    guint64 offset; /* guest-visible, bytes */
    guint64 length; /* bytes */
    guint8 *data;   /* VMB_CHUNK_SIZE bytes, owned by the pipeline */
    guint8 *output; /* VMB_CHUNK_SIZE bytes for stored forms, owned by the pipeline */
    guint n_blocks; /* used elements of blocks[] of a DATA chunk */
    /* Encoding against an earlier state: blocks[] hold what is known of it (kind; digest of data),
     * and a block that has not changed becomes ABSENT. */
    gboolean compare;
    gboolean probe;  /* for the one who takes and emits it */
    gboolean stored; /* likewise: nothing is to be encoded, blocks[] say where the data is stored */
    gboolean again;  /* set by the pipeline's work: the producer is to fill it anew */
    VmbBlock blocks[VMB_CHUNK_BLOCKS];
    guint64 sequence; /* pipeline's own */
} VmbChunk;
