/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: zstd frames, measured from their headers and decoded: both must agree. */
#include "fuzz.h"
#include "block/chunk.h"
#include "block/compress.h"
#include "image/zstd-frame.h"

/* Input: u8 where in the file the frame begins; u8 bytes of the file behind the limit; the frame.
 */

static int fd;
static VmbDecompressor *decompressor;
static guint8 *block;

void
fuzz_set_up(void)
{
    fd = fuzz_file_new();
    decompressor = vmb_decompressor_new();
    block = g_malloc(VMB_BLOCK_SIZE);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    FuzzInput input = {data, length};
    gsize begin = (gsize)fuzz_take(&input, 1), behind = (gsize)fuzz_take(&input, 1);
    g_autoptr(GByteArray) file = g_byte_array_new();
    guint32 measured = 0;
    gsize decoded = 0;
    g_byte_array_set_size(file, (guint)begin);
    g_byte_array_append(file, input.at, (guint)input.left);
    fuzz_file_set(fd, file->data, file->len);
    guint32 limit = (guint32)(input.left > behind ? input.left - behind : 0);
    gboolean is_frame = vmb_zstd_frame_length(fd, begin, limit, &measured, "fuzz", &error);
    FUZZ_CHECK(!is_frame || (measured > 0 && measured <= limit));
    if (!is_frame)
        fuzz_check_error(error, VMB_ERROR_DAMAGE);
    /* A copy of just that length: a read beyond it is seen. */
    g_autofree guint8 *stored = g_malloc(MAX(limit, 1));
    if (limit > 0)
        memcpy(stored, input.at, limit);
    if (vmb_decompressor_block(decompressor, stored, limit, block, &decoded)) {
        FUZZ_CHECK(decoded <= limit);
        FUZZ_CHECK(is_frame && measured == decoded);
    }
}

void
fuzz_seeds(void)
{
    static const int levels[] = {-3, 1, 3, 19};
    g_autofree guint8 *content = g_malloc0(VMB_BLOCK_SIZE), *out = g_malloc(VMB_BLOCK_SIZE + 2);
    for (guint i = 0; i < G_N_ELEMENTS(levels) * 2; i++) {
        g_autoptr(VmbCompressor) compressor = vmb_compressor_new(levels[i / 2]);
        for (guint k = 0; i % 2 == 1 && k < VMB_BLOCK_SIZE; k += 1 + k % 61)
            content[k] = (guint8)("an old pond"[k % 11] + k / 4096);
        out[0] = (guint8)i;
        out[1] = 0;
        gsize length = vmb_compressor_block(compressor, content, out + 2);
        g_autofree char *name = g_strdup_printf("frame-%u", i);
        fuzz_seed(name, out, 2 + MIN(length, 4000));
    }
}
