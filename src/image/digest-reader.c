/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads the .digests file beside an image, and trusts nothing in it. */
#include "image/digest-file.h"
#include "image/digest-format.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>

#define BUFFER_RECORDS 2048u

struct VmbDigestReader {
    int fd;
    char *label;
    guint64 n_blocks;   /* of the disk */
    guint64 next_block; /* smallest one that may still come */
    guint64 offset;     /* of the next byte of the file that is not in the buffer */
    guint64 length;     /* of the file */
    VmbDigest *digest;
    guint8 *buffer;
    gsize used, at; /* bytes in the buffer, and how many of them are read */
};

static gboolean
read_header(VmbDigestReader *reader, guint64 disk_size, GError **error)
{
    guint8 header[VMB_DIGEST_FILE_HEADER], expected[VMB_DIGEST_FILE_HEADER];
    struct stat st;
    if (fstat(reader->fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s: cannot stat the digests", reader->label);
    reader->length = (guint64)st.st_size;
    if (!S_ISREG(st.st_mode) || reader->length < VMB_DIGEST_FILE_HEADER ||
        (reader->length - VMB_DIGEST_FILE_HEADER) % VMB_DIGEST_FILE_RECORD != 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the digests have a length that cannot be: %" G_GUINT64_FORMAT
                             " bytes",
                             reader->label, reader->length);
    if (!vmb_fs_pread(reader->fd, header, sizeof header, 0, reader->label, error))
        return FALSE;
    vmb_digest_file_header(disk_size, expected);
    if (memcmp(header, expected, sizeof header) != 0)
        return vmb_error_set(
            error, VMB_ERROR_DAMAGE,
            "%s: the header of the digests is not that of a disk of %" G_GUINT64_FORMAT " bytes",
            reader->label, disk_size);
    vmb_digest_update(reader->digest, header, sizeof header);
    reader->offset = sizeof header;
    return TRUE;
}

VmbDigestReader *
vmb_digest_reader_open(int fd, guint64 disk_size, const char *label, GError **error)
{
    g_autoptr(VmbDigestReader) reader = g_new0(VmbDigestReader, 1);
    reader->fd = fd;
    reader->label = g_strdup(label);
    reader->n_blocks = vmb_digest_file_blocks(disk_size);
    reader->digest = vmb_digest_new();
    reader->buffer = g_malloc(BUFFER_RECORDS * VMB_DIGEST_FILE_RECORD);
    if (!read_header(reader, disk_size, error))
        return NULL;
    return g_steal_pointer(&reader);
}

void
vmb_digest_reader_free(VmbDigestReader *reader)
{
    if (reader == NULL)
        return;
    vmb_digest_free(reader->digest);
    g_free(reader->buffer);
    g_free(reader->label);
    g_free(reader);
}

static gboolean
fill_buffer(VmbDigestReader *reader, GError **error)
{
    gsize length = (gsize)MIN(reader->length - reader->offset,
                              BUFFER_RECORDS * (guint64)VMB_DIGEST_FILE_RECORD);
    if (!vmb_fs_pread(reader->fd, reader->buffer, length, reader->offset, reader->label, error))
        return FALSE;
    vmb_digest_update(reader->digest, reader->buffer, length);
    reader->offset += length;
    reader->used = length;
    reader->at = 0;
    return TRUE;
}

static gboolean
is_valid(const VmbDigestReader *reader, const VmbDigestRecord *record, guint32 kind, guint32 extra)
{
    static const guint8 zero[VMB_DIGEST_SIZE];
    guint64 block = record->offset / VMB_BLOCK_SIZE;
    if (record->offset % VMB_BLOCK_SIZE != 0 || block < reader->next_block ||
        block >= reader->n_blocks || record->n_blocks > reader->n_blocks - block)
        return FALSE;
    if (kind == VMB_DIGEST_FILE_ZERO)
        return extra > 0 && memcmp(record->digest, zero, sizeof zero) == 0;
    return kind == VMB_DIGEST_FILE_DATA;
}

gboolean
vmb_digest_reader_next(VmbDigestReader *reader, VmbDigestRecord *record, gboolean *end,
                       GError **error)
{
    *end = reader->at == reader->used && reader->offset == reader->length;
    if (*end)
        return TRUE;
    if (reader->at == reader->used && !fill_buffer(reader, error))
        return FALSE;
    const guint8 *at = reader->buffer + reader->at;
    guint32 kind = vmb_digest_file_get32(at + 8);
    guint32 extra = vmb_digest_file_get32(at + 12);
    record->offset = vmb_digest_file_get64(at);
    record->zero = kind == VMB_DIGEST_FILE_ZERO;
    record->n_blocks = record->zero ? extra : 1;
    record->check = record->zero ? 0 : extra;
    memcpy(record->digest, at + 16, VMB_DIGEST_SIZE);
    if (!is_valid(reader, record, kind, extra))
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the digest record at offset %" G_GUINT64_FORMAT
                             " of the digests is not valid",
                             reader->label, reader->offset - reader->used + reader->at);
    reader->next_block = record->offset / VMB_BLOCK_SIZE + record->n_blocks;
    reader->at += VMB_DIGEST_FILE_RECORD;
    return TRUE;
}

void
vmb_digest_reader_digest(VmbDigestReader *reader, guint8 digest[VMB_DIGEST_SIZE])
{
    vmb_digest_finish(reader->digest, digest);
}
