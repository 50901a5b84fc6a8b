/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes the .digests file beside an image. */
#include "image/digest-file.h"
#include "image/digest-format.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#define BUFFER_RECORDS 2048u

struct VmbDigestWriter {
    int fd;
    char *label;
    guint64 n_blocks;   /* of the disk */
    guint64 next_block; /* smallest one that may still come */
    guint64 run_start;  /* zero run that is not written yet, in blocks */
    guint64 run_blocks; /* 0: none */
    guint64 length;     /* of the file, without what is in the buffer */
    VmbDigest *digest;
    guint8 *buffer;
    gsize used; /* bytes */
};

static gboolean
flush_buffer(VmbDigestWriter *writer, GError **error)
{
    gsize used = writer->used;
    if (!vmb_fs_pwrite(writer->fd, writer->buffer, used, writer->length, writer->label, error))
        return FALSE;
    vmb_digest_update(writer->digest, writer->buffer, used);
    writer->length += used;
    writer->used = 0;
    return TRUE;
}

VmbDigestWriter *
vmb_digest_writer_new(int fd, guint64 disk_size, const char *label, GError **error)
{
    if (disk_size == 0 || disk_size > VMB_SIZE_MAX) {
        vmb_error_set(error, VMB_ERROR_FAILED,
                      "%s: a disk of %" G_GUINT64_FORMAT " bytes cannot have digests", label,
                      disk_size);
        return NULL;
    }
    VmbDigestWriter *writer = g_new0(VmbDigestWriter, 1);
    writer->fd = fd;
    writer->label = g_strdup(label);
    writer->n_blocks = vmb_digest_file_blocks(disk_size);
    writer->digest = vmb_digest_new();
    writer->buffer = g_malloc(BUFFER_RECORDS * VMB_DIGEST_FILE_RECORD);
    vmb_digest_file_header(disk_size, writer->buffer);
    writer->used = VMB_DIGEST_FILE_HEADER;
    return writer;
}

void
vmb_digest_writer_free(VmbDigestWriter *writer)
{
    if (writer == NULL)
        return;
    vmb_digest_free(writer->digest);
    g_free(writer->buffer);
    g_free(writer->label);
    g_free(writer);
}

static gboolean
put_record(VmbDigestWriter *writer, guint64 block, guint32 kind, guint32 extra,
           const guint8 *digest, GError **error)
{
    if (writer->used + VMB_DIGEST_FILE_RECORD > BUFFER_RECORDS * VMB_DIGEST_FILE_RECORD &&
        !flush_buffer(writer, error))
        return FALSE;
    guint8 *at = writer->buffer + writer->used;
    vmb_digest_file_put64(at, block * VMB_BLOCK_SIZE);
    vmb_digest_file_put32(at + 8, kind);
    vmb_digest_file_put32(at + 12, extra);
    if (digest != NULL)
        memcpy(at + 16, digest, VMB_DIGEST_SIZE);
    else
        memset(at + 16, 0, VMB_DIGEST_SIZE);
    writer->used += VMB_DIGEST_FILE_RECORD;
    return TRUE;
}

static gboolean
flush_run(VmbDigestWriter *writer, GError **error)
{
    guint64 blocks = writer->run_blocks;
    if (blocks == 0)
        return TRUE;
    writer->run_blocks = 0;
    return put_record(writer, writer->run_start, VMB_DIGEST_FILE_ZERO, (guint32)blocks, NULL,
                      error);
}

static gboolean
advance(VmbDigestWriter *writer, guint64 offset, guint64 n_blocks, GError **error)
{
    guint64 block = offset / VMB_BLOCK_SIZE;
    if (offset % VMB_BLOCK_SIZE != 0 || block < writer->next_block || block > writer->n_blocks ||
        n_blocks > writer->n_blocks - block)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: a digest for disk offset %" G_GUINT64_FORMAT
                             " does not fit after offset %" G_GUINT64_FORMAT,
                             writer->label, offset, writer->next_block * VMB_BLOCK_SIZE);
    writer->next_block = block + n_blocks;
    return TRUE;
}

gboolean
vmb_digest_writer_data(VmbDigestWriter *writer, guint64 offset,
                       const guint8 digest[VMB_DIGEST_SIZE], guint32 check, GError **error)
{
    return advance(writer, offset, 1, error) && flush_run(writer, error) &&
           put_record(writer, offset / VMB_BLOCK_SIZE, VMB_DIGEST_FILE_DATA, check, digest, error);
}

gboolean
vmb_digest_writer_zero(VmbDigestWriter *writer, guint64 offset, guint64 length, GError **error)
{
    guint64 block = offset / VMB_BLOCK_SIZE;
    guint64 n_blocks = length / VMB_BLOCK_SIZE + (length % VMB_BLOCK_SIZE != 0);
    if (!advance(writer, offset, n_blocks, error))
        return FALSE;
    if (n_blocks == 0)
        return TRUE;
    if (writer->run_blocks > 0 && writer->run_start + writer->run_blocks == block) {
        writer->run_blocks += n_blocks;
        return TRUE;
    }
    if (!flush_run(writer, error))
        return FALSE;
    writer->run_start = block;
    writer->run_blocks = n_blocks;
    return TRUE;
}

gboolean
vmb_digest_writer_finish(VmbDigestWriter *writer, guint64 *length, guint8 digest[VMB_DIGEST_SIZE],
                         GError **error)
{
    if (!flush_run(writer, error) || !flush_buffer(writer, error))
        return FALSE;
    writer->next_block = writer->n_blocks;
    *length = writer->length;
    vmb_digest_finish(writer->digest, digest);
    return TRUE;
}
