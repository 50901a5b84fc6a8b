/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What becomes of the blocks of one chunk: zero, plain, compressed; digests; the last block's
 * padding. */
#include "block/compress.h"
#include "block/digest.h"
#include "block/encode.h"
#include "util/text.h"

#include <string.h>

typedef struct {
    VmbChunk chunk;
    guint8 *data, *output;
} Fixture;

static void
set_up(Fixture *f, gconstpointer unused)
{
    f->data = g_malloc0(VMB_CHUNK_SIZE);
    f->output = g_malloc(VMB_CHUNK_SIZE);
    f->chunk = (VmbChunk){.length = VMB_CHUNK_SIZE, .data = f->data, .output = f->output};
}

static void
tear_down(Fixture *f, gconstpointer unused)
{
    g_free(f->data);
    g_free(f->output);
}

static void
fill(Fixture *f, guint block, gboolean random)
{
    guint8 *data = f->data + (gsize)block * VMB_BLOCK_SIZE;
    for (gsize i = 0; i < VMB_BLOCK_SIZE; i++)
        data[i] = random ? (guint8)g_test_rand_int() : (guint8)(i / 512 + block);
}

/* Decodes a block as a reader would and compares it with the (padded) source. */
static void
check_block(Fixture *f, guint index, VmbBlockKind kind)
{
    const VmbBlock *block = &f->chunk.blocks[index];
    const guint8 *source = f->data + (gsize)index * VMB_BLOCK_SIZE;
    g_assert_cmpint(block->kind, ==, kind);
    g_autofree char *hex = vmb_text_hex(block->digest, VMB_DIGEST_SIZE);
    g_autofree char *expected =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, source, VMB_BLOCK_SIZE);
    g_assert_cmpstr(hex, ==, expected);
    if (kind == VMB_BLOCK_PLAIN) {
        g_assert_cmpmem(block->stored, block->stored_length, source, VMB_BLOCK_SIZE);
        g_assert_cmphex(block->check, ==, 0);
    } else if (kind == VMB_BLOCK_COMPRESSED) {
        g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
        g_autofree guint8 *back = g_malloc(VMB_BLOCK_SIZE);
        gsize frame = 0;
        g_assert_true(vmb_decompressor_block(decompressor, block->stored, block->stored_length,
                                             back, &frame));
        g_assert_cmpuint(frame, ==, block->stored_length);
        g_assert_cmpmem(back, VMB_BLOCK_SIZE, source, VMB_BLOCK_SIZE);
        g_assert_cmphex(block->check, ==, vmb_digest_check(block->stored, block->stored_length));
    } else {
        g_assert_cmpuint(block->stored_length, ==, 0);
    }
}

static void
test_mixed(Fixture *f, gconstpointer unused)
{
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_DEFAULT);
    for (int round = 0; round < 20; round++) {
        VmbBlockKind kinds[VMB_CHUNK_BLOCKS];
        memset(f->data, 0, VMB_CHUNK_SIZE);
        for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++) {
            kinds[i] =
                (VmbBlockKind)g_test_rand_int_range(VMB_BLOCK_ZERO, VMB_BLOCK_COMPRESSED + 1);
            if (kinds[i] != VMB_BLOCK_ZERO)
                fill(f, i, kinds[i] == VMB_BLOCK_PLAIN);
        }
        vmb_encoder_chunk(encoder, &f->chunk);
        g_assert_cmpuint(f->chunk.n_blocks, ==, VMB_CHUNK_BLOCKS);
        for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
            check_block(f, i, kinds[i]);
    }
}

static void
test_uncompressed(Fixture *f, gconstpointer unused)
{
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_NONE);
    fill(f, 0, FALSE);
    fill(f, 2, TRUE);
    f->chunk.length = 3 * VMB_BLOCK_SIZE;
    vmb_encoder_chunk(encoder, &f->chunk);
    g_assert_cmpuint(f->chunk.n_blocks, ==, 3);
    check_block(f, 0, VMB_BLOCK_PLAIN);
    check_block(f, 1, VMB_BLOCK_ZERO);
    check_block(f, 2, VMB_BLOCK_PLAIN);
}

/* The rest of the last block is old content of the buffer; it must not get into the image. */
static void
test_last_block(Fixture *f, gconstpointer unused)
{
    static const guint64 lengths[] = {1,
                                      511,
                                      512,
                                      VMB_BLOCK_SIZE - 1,
                                      VMB_BLOCK_SIZE,
                                      VMB_BLOCK_SIZE + 1,
                                      VMB_CHUNK_SIZE - 1,
                                      VMB_CHUNK_SIZE};
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_DEFAULT);
    for (gsize n = 0; n < G_N_ELEMENTS(lengths); n++) {
        for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
            fill(f, i, TRUE);
        g_autofree guint8 *expected = g_malloc0(VMB_CHUNK_SIZE);
        memcpy(expected, f->data, lengths[n]);
        f->chunk.length = lengths[n];
        vmb_encoder_chunk(encoder, &f->chunk);
        gsize padded = (gsize)f->chunk.n_blocks * VMB_BLOCK_SIZE;
        g_assert_cmpuint(padded, ==,
                         (lengths[n] + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE * VMB_BLOCK_SIZE);
        g_assert_cmpmem(f->data, padded, expected, padded);
        for (guint i = 0; i < f->chunk.n_blocks; i++)
            check_block(f, i, f->chunk.blocks[i].kind);
    }
}

/* A last block whose valid bytes are zero is zero, whatever lies behind them. */
static void
test_last_block_zero(Fixture *f, gconstpointer unused)
{
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_DEFAULT);
    memset(f->data + 1000, 0xaa, VMB_BLOCK_SIZE);
    f->chunk.length = 1000;
    vmb_encoder_chunk(encoder, &f->chunk);
    g_assert_cmpuint(f->chunk.n_blocks, ==, 1);
    check_block(f, 0, VMB_BLOCK_ZERO);
}

/* Against an earlier state: what has not changed is absent, be it data or zero. */
static void
test_compare(Fixture *f, gconstpointer unused)
{
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_DEFAULT);
    VmbBlock before[VMB_CHUNK_BLOCKS];
    for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
        if (i % 4 != 3)
            fill(f, i, i % 4 == 0);
    vmb_encoder_chunk(encoder, &f->chunk);
    memcpy(before, f->chunk.blocks, sizeof before);
    f->chunk.compare = TRUE;
    vmb_encoder_chunk(encoder, &f->chunk);
    for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
        g_assert_cmpint(f->chunk.blocks[i].kind, ==, VMB_BLOCK_ABSENT);
    /* Data that differs by its last byte, data from zero, zero from data; and absent is zero. */
    memcpy(f->chunk.blocks, before, sizeof before);
    f->chunk.blocks[3].kind = f->chunk.blocks[7].kind = VMB_BLOCK_ABSENT;
    f->data[VMB_BLOCK_SIZE - 1] ^= 1;
    fill(f, 3, FALSE);
    memset(f->data + VMB_BLOCK_SIZE, 0, VMB_BLOCK_SIZE);
    vmb_encoder_chunk(encoder, &f->chunk);
    check_block(f, 0, VMB_BLOCK_PLAIN);
    check_block(f, 1, VMB_BLOCK_ZERO);
    check_block(f, 3, VMB_BLOCK_COMPRESSED);
    for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
        if (i > 3 || i == 2)
            g_assert_cmpint(f->chunk.blocks[i].kind, ==, VMB_BLOCK_ABSENT);
}

/* A digest that is not known is that of nothing, also not of zeroes. */
static void
test_compare_unknown(Fixture *f, gconstpointer unused)
{
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_NONE);
    f->chunk.compare = TRUE;
    f->chunk.length = 2 * VMB_BLOCK_SIZE;
    f->chunk.blocks[0].kind = f->chunk.blocks[1].kind = VMB_BLOCK_COMPRESSED;
    fill(f, 0, FALSE);
    vmb_encoder_chunk(encoder, &f->chunk);
    check_block(f, 0, VMB_BLOCK_PLAIN);
    check_block(f, 1, VMB_BLOCK_ZERO);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/encode/mixed", Fixture, NULL, set_up, test_mixed, tear_down);
    g_test_add("/encode/uncompressed", Fixture, NULL, set_up, test_uncompressed, tear_down);
    g_test_add("/encode/last-block", Fixture, NULL, set_up, test_last_block, tear_down);
    g_test_add("/encode/last-block-zero", Fixture, NULL, set_up, test_last_block_zero, tear_down);
    g_test_add("/encode/compare", Fixture, NULL, set_up, test_compare, tear_down);
    g_test_add("/encode/compare-unknown", Fixture, NULL, set_up, test_compare_unknown, tear_down);
    return g_test_run();
}
