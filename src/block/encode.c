/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The work of a backup on one chunk: zero detection, digests, compression. */
#include "block/encode.h"
#include "block/compress.h"
#include "block/digest.h"

#include <string.h>

struct VmbEncoder {
    VmbDigest *digest;
    VmbCompressor *compressor; /* NULL: everything is stored plain */
    guint8 zero_digest[VMB_DIGEST_SIZE];
};

VmbEncoder *
vmb_encoder_new(int level)
{
    VmbEncoder *encoder = g_new0(VmbEncoder, 1);
    encoder->digest = vmb_digest_new();
    if (level != VMB_COMPRESS_NONE)
        encoder->compressor = vmb_compressor_new(level);
    g_autofree guint8 *zeroes = g_malloc0(VMB_BLOCK_SIZE);
    vmb_digest_block(encoder->digest, zeroes, VMB_BLOCK_SIZE, encoder->zero_digest);
    return encoder;
}

void
vmb_encoder_free(VmbEncoder *encoder)
{
    if (encoder == NULL)
        return;
    vmb_digest_free(encoder->digest);
    vmb_compressor_free(encoder->compressor);
    g_free(encoder);
}

static gboolean
holds_data(const VmbBlock *block)
{
    return block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED;
}

/* @out: room for one block's stored form. @before: what the block was, or NULL. */
static void
encode_block(VmbEncoder *encoder, const guint8 *data, guint8 *out, const VmbBlock *before,
             VmbBlock *block)
{
    memset(block, 0, sizeof *block);
    if (vmb_zero_detect(data, VMB_BLOCK_SIZE)) {
        block->kind = before != NULL && !holds_data(before) ? VMB_BLOCK_ABSENT : VMB_BLOCK_ZERO;
        memcpy(block->digest, encoder->zero_digest, VMB_DIGEST_SIZE);
        return;
    }
    vmb_digest_block(encoder->digest, data, VMB_BLOCK_SIZE, block->digest);
    if (before != NULL && holds_data(before) &&
        memcmp(before->digest, block->digest, VMB_DIGEST_SIZE) == 0)
        return; /* ABSENT */
    gsize length =
        encoder->compressor != NULL ? vmb_compressor_block(encoder->compressor, data, out) : 0;
    if (length > 0) {
        block->kind = VMB_BLOCK_COMPRESSED;
        block->check = vmb_digest_check(out, length);
        block->stored = out;
        block->stored_length = (guint32)length;
    } else {
        block->kind = VMB_BLOCK_PLAIN;
        block->stored = data;
        block->stored_length = VMB_BLOCK_SIZE;
    }
}

void
vmb_encoder_chunk(VmbEncoder *encoder, VmbChunk *chunk)
{
    g_assert(chunk->data != NULL && chunk->length > 0 && chunk->length <= VMB_CHUNK_SIZE);
    chunk->n_blocks = (guint)((chunk->length + VMB_BLOCK_SIZE - 1) >> VMB_BLOCK_BITS);
    gsize padded = (gsize)chunk->n_blocks << VMB_BLOCK_BITS;
    memset(chunk->data + chunk->length, 0, padded - (gsize)chunk->length);
    for (guint i = 0; i < chunk->n_blocks; i++) {
        gsize at = (gsize)i << VMB_BLOCK_BITS;
        VmbBlock before = chunk->blocks[i];
        encode_block(encoder, chunk->data + at, chunk->output + at,
                     chunk->compare ? &before : NULL, &chunk->blocks[i]);
    }
}
