/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads, decodes and verifies the blocks of chunks that a chain has located. */
#include "block/compress.h"
#include "image/chain-private.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

struct VmbDecoder {
    VmbChain *chain;
    VmbDigest *digest;
    VmbDecompressor *decompressor;
    GError *errors[VMB_CHUNK_BLOCKS]; /* of the blocks of the chunk that could not be read */
};

VmbDecoder *
vmb_decoder_new(VmbChain *chain)
{
    VmbDecoder *decoder = g_new0(VmbDecoder, 1);
    decoder->chain = chain;
    decoder->digest = vmb_digest_new();
    decoder->decompressor = vmb_decompressor_new();
    return decoder;
}

static void
clear_errors(VmbDecoder *decoder)
{
    for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
        g_clear_error(&decoder->errors[i]);
}

void
vmb_decoder_free(VmbDecoder *decoder)
{
    if (decoder == NULL)
        return;
    clear_errors(decoder);
    vmb_digest_free(decoder->digest);
    vmb_decompressor_free(decoder->decompressor);
    g_free(decoder);
}

static gboolean
read_stored(VmbDecoder *decoder, const VmbBlock *block, void *out, gsize length, GError **error)
{
    const VmbChainPart *part = &decoder->chain->parts[block->layer];
    return vmb_fs_pread(part->image_fd, out, length, block->host_offset, part->label, error);
}

/* Reads the @n blocks of the chunk whose numbers stand in @run, and whose stored forms lie in one
 * stretch of @length bytes of the file, to @out; one by one if that fails. */
static void
read_run(VmbDecoder *decoder, VmbChunk *chunk, const guint *run, guint n, guint8 *out, gsize length)
{
    const VmbBlock *first = &chunk->blocks[run[0]];
    gboolean whole = read_stored(decoder, first, out, length, NULL);
    for (guint i = 0; i < n; i++) {
        VmbBlock *block = &chunk->blocks[run[i]];
        guint8 *at = out + (block->host_offset - first->host_offset);
        block->stored = at;
        if (!whole)
            (void)read_stored(decoder, block, at, block->stored_length, &decoder->errors[run[i]]);
    }
}

/* TRUE if @block lies where a run of bytes of @layer from @host to @end goes on. */
static gboolean
goes_on(const VmbBlock *block, guint layer, guint64 host, guint64 end)
{
    return block->layer == layer && block->host_offset >= host && block->host_offset <= end &&
           block->host_offset + block->stored_length >= end;
}

/* Plain blocks are read to where they belong; neighbours in one go. */
static void
read_plain(VmbDecoder *decoder, VmbChunk *chunk)
{
    for (guint i = 0, n; i < chunk->n_blocks; i += n) {
        const VmbBlock *first = &chunk->blocks[i];
        guint run[VMB_CHUNK_BLOCKS];
        n = 1;
        if (first->kind != VMB_BLOCK_PLAIN)
            continue;
        run[0] = i;
        while (i + n < chunk->n_blocks && chunk->blocks[i + n].kind == VMB_BLOCK_PLAIN &&
               chunk->blocks[i + n].layer == first->layer &&
               chunk->blocks[i + n].host_offset ==
                   first->host_offset + n * (guint64)VMB_BLOCK_SIZE) {
            run[n] = i + n;
            n++;
        }
        read_run(decoder, chunk, run, n, chunk->data + (gsize)i * VMB_BLOCK_SIZE,
                 (gsize)n * VMB_BLOCK_SIZE);
    }
}

/* Frames are read to the output buffer: it is large enough, as none is longer than its block. Those
 * that follow each other in the file are read in one go, whatever lies between them on the disk. */
static void
read_frames(VmbDecoder *decoder, VmbChunk *chunk)
{
    guint8 *out = chunk->output;
    guint i = 0;
    while (i < chunk->n_blocks) {
        guint run[VMB_CHUNK_BLOCKS], n = 0;
        guint64 host = 0, end = 0;
        for (; i < chunk->n_blocks; i++) {
            const VmbBlock *block = &chunk->blocks[i];
            if (block->kind != VMB_BLOCK_COMPRESSED)
                continue;
            if (n == 0)
                host = end = block->host_offset;
            else if (!goes_on(block, chunk->blocks[run[0]].layer, host, end))
                break;
            end = block->host_offset + block->stored_length;
            run[n++] = i;
        }
        if (n > 0)
            read_run(decoder, chunk, run, n, out, (gsize)(end - host));
        out += end - host;
    }
}

/* Decodes and verifies one block whose stored form is in memory. */
static gboolean
decode_block(VmbDecoder *decoder, VmbBlock *block, guint8 *data, const char **what)
{
    const VmbChainPart *part = &decoder->chain->parts[block->layer];
    guint8 digest[VMB_DIGEST_SIZE];
    gsize length = VMB_BLOCK_SIZE;
    if (block->kind == VMB_BLOCK_COMPRESSED) {
        *what = "its zstd frame cannot be decoded";
        if (!vmb_decompressor_block(decoder->decompressor, block->stored, block->stored_length,
                                    data, &length))
            return FALSE;
        *what = "its zstd frame has changed";
        if (part->digests != NULL && vmb_digest_check(block->stored, length) != block->check)
            return FALSE;
    }
    block->stored_length = (guint32)length;
    if (part->digests == NULL)
        return TRUE;
    *what = "its content does not match its digest";
    vmb_digest_block(decoder->digest, data, VMB_BLOCK_SIZE, digest);
    return memcmp(digest, block->digest, sizeof digest) == 0;
}

/* The bytes of a block from an older layer that lie beyond the end of a newer one are zero. */
static void
cut_block(VmbDecoder *decoder, VmbBlock *block, guint64 offset, guint8 *data)
{
    guint64 visible = decoder->chain->parts[block->layer].visible;
    if (block->layer == 0 || visible >= offset + VMB_BLOCK_SIZE)
        return;
    gsize kept = visible > offset ? (gsize)(visible - offset) : 0;
    if (vmb_zero_detect(data + kept, VMB_BLOCK_SIZE - kept))
        return;
    memset(data + kept, 0, VMB_BLOCK_SIZE - kept);
    if (vmb_zero_detect(data, kept)) {
        block->kind = VMB_BLOCK_ZERO;
        return;
    }
    block->kind = VMB_BLOCK_PLAIN;
    block->check = 0;
    block->stored = data;
    block->stored_length = VMB_BLOCK_SIZE;
    vmb_digest_block(decoder->digest, data, VMB_BLOCK_SIZE, block->digest);
}

static gboolean
finish_block(VmbDecoder *decoder, VmbChunk *chunk, guint i, GArray *damage, GError **error)
{
    VmbBlock *block = &chunk->blocks[i];
    guint64 offset = chunk->offset + i * (guint64)VMB_BLOCK_SIZE;
    guint8 *data = chunk->data + (gsize)i * VMB_BLOCK_SIZE;
    const char *what = "";
    if (block->kind == VMB_BLOCK_ZERO || block->kind == VMB_BLOCK_ABSENT) {
        memset(data, 0, VMB_BLOCK_SIZE);
        return TRUE;
    }
    if (decoder->errors[i] == NULL && decode_block(decoder, block, data, &what)) {
        cut_block(decoder, block, offset, data);
        return TRUE;
    }
    if (damage == NULL && decoder->errors[i] != NULL) {
        g_propagate_error(error, g_steal_pointer(&decoder->errors[i]));
        return FALSE;
    }
    if (damage == NULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the block at disk offset %" G_GUINT64_FORMAT
                             " (offset %" G_GUINT64_FORMAT " of the image) is damaged: %s",
                             decoder->chain->parts[block->layer].label, offset, block->host_offset,
                             what);
    g_mutex_lock(&decoder->chain->damage_lock);
    g_array_append_val(damage, offset);
    g_mutex_unlock(&decoder->chain->damage_lock);
    memset(data, 0, VMB_BLOCK_SIZE);
    block->kind = VMB_BLOCK_ZERO;
    block->loss = VMB_LOSS_DATA;
    return TRUE;
}

gboolean
vmb_decoder_chunk(VmbDecoder *decoder, VmbChunk *chunk, GArray *damage, GError **error)
{
    gboolean ok = TRUE;
    read_plain(decoder, chunk);
    read_frames(decoder, chunk);
    for (guint i = 0; ok && i < chunk->n_blocks; i++)
        ok = finish_block(decoder, chunk, i, damage, error);
    clear_errors(decoder);
    return ok;
}
