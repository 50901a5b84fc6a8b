/* SPDX-License-Identifier: GPL-2.0-or-later */
/* zstd frames of single blocks, with contexts that are made once per thread. */
#pragma once
#include "block/chunk.h"

#define VMB_COMPRESS_NONE 0
#define VMB_COMPRESS_DEFAULT 1 /* the fastest level that pays */

/* Reads "none", "zstd" or "zstd:LEVEL" (-7..19). Errors: VMB_ERROR_USAGE. */
gboolean vmb_compress_parse(const char *text, int *level, GError **error);

typedef struct VmbCompressor VmbCompressor;
/* @level: zstd's, not 0. Not shared between threads. */
VmbCompressor *vmb_compressor_new(int level);
void vmb_compressor_free(VmbCompressor *compressor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbCompressor, vmb_compressor_free)

/* Compresses one block of VMB_BLOCK_SIZE bytes into @out (capacity VMB_BLOCK_SIZE) as one frame
 * with content size and without checksum. Returns the frame's length, or 0 when it would not save
 * at least one sixteenth (the caller stores it plain). */
gsize vmb_compressor_block(VmbCompressor *compressor, const guint8 *block, guint8 *out);

typedef struct VmbDecompressor VmbDecompressor;
VmbDecompressor *vmb_decompressor_new(void);
void vmb_decompressor_free(VmbDecompressor *decompressor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDecompressor, vmb_decompressor_free)

/* Decodes the frame at the start of @stored (at most @length bytes, trailing bytes are ignored) into
 * exactly VMB_BLOCK_SIZE bytes. *@frame_length gets the frame's true length. FALSE (no GError) if it
 * is not such a frame. */
gboolean vmb_decompressor_block(VmbDecompressor *decompressor, const guint8 *stored, gsize length,
                                guint8 *block, gsize *frame_length);
