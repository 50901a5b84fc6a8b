/* SPDX-License-Identifier: GPL-2.0-or-later */
/* zstd frames of single blocks, with contexts that are made once per thread. */
#include "block/compress.h"
#include "util/error.h"

#include <string.h>
#include <zstd.h>

#define LEVEL_MIN (-7)
#define LEVEL_MAX 19
/* A stored block must save at least one sixteenth, or reading it back is not worth the decoding. */
#define STORED_MAX (VMB_BLOCK_SIZE - VMB_BLOCK_SIZE / 16)

/* Level 1 with a match table of 2^11 entries (it stays in the first-level cache; zstd's own table
 * for such inputs has 2^13) and matches of at least 7 bytes. Measured over files of /usr in blocks
 * of 64 KiB: 1.2 times as fast as zstd's level 1, 1.04 times its size; 1.8 times as fast as level
 * 3, 1.07 times its size. */
#define FAST_LEVEL 1
#define FAST_HASH_LOG 11
#define FAST_MIN_MATCH 7

struct VmbCompressor {
    ZSTD_CCtx *context;
};

struct VmbDecompressor {
    ZSTD_DCtx *context;
};

gboolean
vmb_compress_parse(const char *text, int *level, GError **error)
{
    if (strcmp(text, "none") == 0) {
        *level = VMB_COMPRESS_NONE;
        return TRUE;
    }
    if (strcmp(text, "zstd") == 0) {
        *level = VMB_COMPRESS_DEFAULT;
        return TRUE;
    }
    gint64 value = 0;
    if (!g_str_has_prefix(text, "zstd:") ||
        !g_ascii_string_to_signed(text + strlen("zstd:"), 10, LEVEL_MIN, LEVEL_MAX, &value, NULL) ||
        value == 0)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "'%s' is no compression: use none, zstd, or zstd:LEVEL with a level "
                             "of %d to -1 or 1 to %d",
                             text, LEVEL_MIN, LEVEL_MAX);
    *level = (int)value;
    return TRUE;
}

static void
set(ZSTD_CCtx *context, ZSTD_cParameter parameter, int value)
{
    gsize result = ZSTD_CCtx_setParameter(context, parameter, value);
    if (ZSTD_isError(result))
        g_error("zstd refuses parameter %d = %d: %s", (int)parameter, value,
                ZSTD_getErrorName(result));
}

VmbCompressor *
vmb_compressor_new(int level)
{
    g_assert(level != VMB_COMPRESS_NONE);
    VmbCompressor *compressor = g_new0(VmbCompressor, 1);
    compressor->context = ZSTD_createCCtx();
    if (compressor->context == NULL)
        g_error("no memory for a zstd context");
    set(compressor->context, ZSTD_c_compressionLevel, CLAMP(level, LEVEL_MIN, LEVEL_MAX));
    set(compressor->context, ZSTD_c_contentSizeFlag, 1);
    set(compressor->context, ZSTD_c_checksumFlag, 0);
    if (level == FAST_LEVEL) {
        set(compressor->context, ZSTD_c_windowLog, VMB_BLOCK_BITS);
        set(compressor->context, ZSTD_c_hashLog, FAST_HASH_LOG);
        set(compressor->context, ZSTD_c_minMatch, FAST_MIN_MATCH);
    }
    return compressor;
}

void
vmb_compressor_free(VmbCompressor *compressor)
{
    if (compressor == NULL)
        return;
    ZSTD_freeCCtx(compressor->context);
    g_free(compressor);
}

gsize
vmb_compressor_block(VmbCompressor *compressor, const guint8 *block, guint8 *out)
{
    /* zstd itself gives up early on blocks that do not compress (5 GB/s here); what it then makes
     * does not fit, which is an error to zstd and "store it plain" to us. */
    gsize length = ZSTD_compress2(compressor->context, out, VMB_BLOCK_SIZE, block, VMB_BLOCK_SIZE);
    return ZSTD_isError(length) || length > STORED_MAX ? 0 : length;
}

VmbDecompressor *
vmb_decompressor_new(void)
{
    VmbDecompressor *decompressor = g_new0(VmbDecompressor, 1);
    decompressor->context = ZSTD_createDCtx();
    if (decompressor->context == NULL)
        g_error("no memory for a zstd context");
    return decompressor;
}

void
vmb_decompressor_free(VmbDecompressor *decompressor)
{
    if (decompressor == NULL)
        return;
    ZSTD_freeDCtx(decompressor->context);
    g_free(decompressor);
}

gboolean
vmb_decompressor_block(VmbDecompressor *decompressor, const guint8 *stored, gsize length,
                       guint8 *block, gsize *frame_length)
{
    gsize frame = ZSTD_findFrameCompressedSize(stored, length);
    if (ZSTD_isError(frame) || frame > length)
        return FALSE;
    if (ZSTD_getFrameContentSize(stored, frame) != VMB_BLOCK_SIZE)
        return FALSE;
    gsize result = ZSTD_decompressDCtx(decompressor->context, block, VMB_BLOCK_SIZE, stored, frame);
    if (ZSTD_isError(result) || result != VMB_BLOCK_SIZE)
        return FALSE;
    *frame_length = frame;
    return TRUE;
}
