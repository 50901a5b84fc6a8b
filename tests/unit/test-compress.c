/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames of single blocks: there and back at all levels, and hostile frames. */
#include "block/compress.h"
#include "block/digest.h"
#include "util/error.h"

#include <string.h>
#include <zstd.h>

/* @noise of 256: share of random bytes; the rest repeats short words. */
static guint8 *
make_block(int noise)
{
    static const char *const words[] = {"disk ", "point ", "chain ", "block\n", "domain ", "0000"};
    guint8 *block = g_malloc(VMB_BLOCK_SIZE);
    for (gsize i = 0; i < VMB_BLOCK_SIZE;) {
        if (g_test_rand_int_range(0, 256) < noise) {
            block[i++] = (guint8)g_test_rand_int();
            continue;
        }
        const char *word = words[g_test_rand_int_range(0, G_N_ELEMENTS(words))];
        for (; *word != '\0' && i < VMB_BLOCK_SIZE; word++)
            block[i++] = (guint8)*word;
    }
    return block;
}

static void
test_parse(void)
{
    static const struct {
        const char *text;
        int level;
    } good[] = {{"none", VMB_COMPRESS_NONE},
                {"zstd", VMB_COMPRESS_DEFAULT},
                {"zstd:1", 1},
                {"zstd:19", 19},
                {"zstd:-7", -7},
                {"zstd:3", 3}};
    static const char *const bad[] = {"",         "zst",     "zstd:",   "zstd:0",
                                      "zstd:20",  "zstd:-8", "zstd: 3", "zstd:3x",
                                      "zstd:3.5", "NONE",    "gzip",    "zstd:99999999999999"};
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        int level = 99;
        g_assert_true(vmb_compress_parse(good[i].text, &level, NULL));
        g_assert_cmpint(level, ==, good[i].level);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        int level = 99;
        g_assert_false(vmb_compress_parse(bad[i], &level, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_USAGE);
        g_assert_cmpint(level, ==, 99);
    }
}

static void
round_trip(VmbCompressor *compressor, VmbDecompressor *decompressor, const guint8 *block)
{
    g_autofree guint8 *out = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint8 *back = g_malloc(VMB_BLOCK_SIZE);
    gsize length = vmb_compressor_block(compressor, block, out);
    g_assert_cmpuint(length, <=, VMB_BLOCK_SIZE / 16 * 15);
    if (length == 0)
        return;
    gsize frame = 0;
    g_assert_true(vmb_decompressor_block(decompressor, out, length, back, &frame));
    g_assert_cmpuint(frame, ==, length);
    g_assert_cmpmem(back, VMB_BLOCK_SIZE, block, VMB_BLOCK_SIZE);
}

static void
test_round_trip(void)
{
    g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
    for (int level = -7; level <= 19; level++) {
        if (level == VMB_COMPRESS_NONE)
            continue;
        g_autoptr(VmbCompressor) compressor = vmb_compressor_new(level);
        for (int noise = 0; noise <= 256; noise += level > 12 ? 64 : 8) {
            g_autofree guint8 *block = make_block(noise);
            round_trip(compressor, decompressor, block);
        }
    }
}

/* What saves less than a sixteenth is left plain; what saves more is not. */
static void
test_threshold(void)
{
    g_autoptr(VmbCompressor) compressor = vmb_compressor_new(VMB_COMPRESS_DEFAULT);
    g_autofree guint8 *out = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint8 *random = make_block(256);
    g_autofree guint8 *text = make_block(0);
    g_assert_cmpuint(vmb_compressor_block(compressor, random, out), ==, 0);
    gsize length = vmb_compressor_block(compressor, text, out);
    g_assert_cmpuint(length, >, 0);
    g_assert_cmpuint(length, <, VMB_BLOCK_SIZE / 2);
    memset(random, 0, VMB_BLOCK_SIZE / 32); /* saves a thirty-second part */
    g_assert_cmpuint(vmb_compressor_block(compressor, random, out), ==, 0);
    memset(random, 0, VMB_BLOCK_SIZE / 8);
    g_assert_cmpuint(vmb_compressor_block(compressor, random, out), >, VMB_BLOCK_SIZE / 2);
}

/* RFC 8878, 3.1.1.1.1: content size present, no checksum, no dictionary. */
static void
test_header(void)
{
    static const int levels[] = {-5, VMB_COMPRESS_DEFAULT, 3, 9};
    g_autofree guint8 *block = make_block(10);
    g_autofree guint8 *out = g_malloc(VMB_BLOCK_SIZE);
    for (gsize i = 0; i < G_N_ELEMENTS(levels); i++) {
        g_autoptr(VmbCompressor) compressor = vmb_compressor_new(levels[i]);
        gsize length = vmb_compressor_block(compressor, block, out);
        g_assert_cmpuint(ZSTD_getFrameContentSize(out, length), ==, VMB_BLOCK_SIZE);
        g_assert_cmphex(out[4] & 0x07, ==, 0);
    }
}

static void
test_trailing_and_short(void)
{
    g_autoptr(VmbCompressor) compressor = vmb_compressor_new(VMB_COMPRESS_DEFAULT);
    g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
    g_autofree guint8 *block = make_block(3);
    g_autofree guint8 *back = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint8 *out = g_malloc(2 * VMB_BLOCK_SIZE);
    gsize length = vmb_compressor_block(compressor, block, out), frame = 0;
    memset(out + length, 0x28, VMB_BLOCK_SIZE);
    g_assert_true(vmb_decompressor_block(decompressor, out, length + 1000, back, &frame));
    g_assert_cmpuint(frame, ==, length);
    g_assert_cmpmem(back, VMB_BLOCK_SIZE, block, VMB_BLOCK_SIZE);
    for (gsize cut = 0; cut < length; cut++) {
        /* A copy of just that length lets a sanitizer see a read past its end. */
        g_autofree guint8 *exact = g_memdup2(out, cut);
        g_assert_false(vmb_decompressor_block(decompressor, exact, cut, back, &frame));
    }
    /* The context is still good after failures. */
    g_assert_true(vmb_decompressor_block(decompressor, out, length, back, &frame));
}

/* Frames that are valid zstd, but not one block of ours. */
static void
test_foreign_frames(void)
{
    g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
    g_autofree guint8 *data = g_malloc0(2 * VMB_BLOCK_SIZE);
    g_autofree guint8 *out = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint8 *back = g_malloc(VMB_BLOCK_SIZE);
    static const gsize sizes[] = {0, 1, VMB_BLOCK_SIZE - 1, VMB_BLOCK_SIZE + 1, 2 * VMB_BLOCK_SIZE};
    gsize frame;
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        gsize length = ZSTD_compress(out, VMB_BLOCK_SIZE, data, sizes[i], 3);
        g_assert_false(ZSTD_isError(length));
        g_assert_false(vmb_decompressor_block(decompressor, out, length, back, &frame));
    }
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    gsize length = ZSTD_compress2(context, out, VMB_BLOCK_SIZE, data, VMB_BLOCK_SIZE);
    g_assert_false(ZSTD_isError(length));
    g_assert_false(vmb_decompressor_block(decompressor, out, length, back, &frame));
    ZSTD_freeCCtx(context);
    static const guint8 skippable[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    g_assert_false(vmb_decompressor_block(decompressor, skippable, sizeof skippable, back, &frame));
}

/* Any flipped bit is refused, decodes to something else, or is found by the check. */
static void
test_damage(void)
{
    g_autoptr(VmbCompressor) compressor = vmb_compressor_new(VMB_COMPRESS_DEFAULT);
    g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
    g_autofree guint8 *block = make_block(1);
    g_autofree guint8 *back = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint8 *room = g_malloc(VMB_BLOCK_SIZE);
    gsize length = vmb_compressor_block(compressor, block, room);
    g_autofree guint8 *out = g_memdup2(room, length);
    guint32 check = vmb_digest_check(out, length);
    for (gsize i = 0; i < length; i++) {
        guint8 mask = (guint8)(1 << g_test_rand_int_range(0, 8));
        gsize frame = 0;
        out[i] ^= mask;
        if (vmb_decompressor_block(decompressor, out, length, back, &frame) &&
            memcmp(back, block, VMB_BLOCK_SIZE) == 0)
            g_assert_true(frame != length || vmb_digest_check(out, length) != check);
        out[i] ^= mask;
    }
}

static void
test_garbage(void)
{
    static const guint8 magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
    g_autofree guint8 *back = g_malloc(VMB_BLOCK_SIZE);
    for (int round = 0; round < 20000; round++) {
        gsize length = (gsize)g_test_rand_int_range(0, 200), frame;
        g_autofree guint8 *garbage = g_malloc(length + 1);
        for (gsize i = 0; i < length; i++)
            garbage[i] = i < sizeof magic ? magic[i] : (guint8)g_test_rand_int();
        if (vmb_decompressor_block(decompressor, garbage, length, back, &frame))
            g_assert_cmpuint(frame, <=, length);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compress/parse", test_parse);
    g_test_add_func("/compress/round-trip", test_round_trip);
    g_test_add_func("/compress/threshold", test_threshold);
    g_test_add_func("/compress/header", test_header);
    g_test_add_func("/compress/trailing-and-short", test_trailing_and_short);
    g_test_add_func("/compress/foreign-frames", test_foreign_frames);
    g_test_add_func("/compress/damage", test_damage);
    g_test_add_func("/compress/garbage", test_garbage);
    return g_test_run();
}
