/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A sparse raw file as the target of a restore. */
#include "image/raw-writer.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <errno.h>

gboolean
vmb_raw_writer_prepare(int fd, guint64 size, const char *label, GError **error)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s: cannot stat it", label);
    if (!S_ISREG(st.st_mode))
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: is not a regular file", label);
    if (size > VMB_SIZE_MAX)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: a disk of %" G_GUINT64_FORMAT " bytes cannot be written", label,
                             size);
    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)size) < 0)
        return vmb_error_errno(error, errno, "%s: cannot make it %" G_GUINT64_FORMAT " bytes long",
                               label, size);
    return TRUE;
}

gboolean
vmb_raw_writer_chunk(int fd, const VmbChunk *chunk, guint64 size, const char *label, GError **error)
{
    if (chunk->data == NULL)
        return TRUE;
    for (guint i = 0, n; i < chunk->n_blocks; i += n) {
        guint64 offset = chunk->offset + i * (guint64)VMB_BLOCK_SIZE;
        n = 1;
        if (!vmb_block_has_data(&chunk->blocks[i]) || offset >= size)
            continue;
        while (i + n < chunk->n_blocks && vmb_block_has_data(&chunk->blocks[i + n]))
            n++;
        guint64 length = MIN(n * (guint64)VMB_BLOCK_SIZE, size - offset);
        if (!vmb_fs_pwrite(fd, chunk->data + (gsize)i * VMB_BLOCK_SIZE, (gsize)length, offset,
                           label, error))
            return FALSE;
    }
    return TRUE;
}
