/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The true length of a zstd frame in a file, from its headers alone. */
#include "image/zstd-frame.h"
#include "util/error.h"
#include "util/fsio.h"

#include <string.h>

enum {
    FRAME_HEADER_MAX = 18, /* magic 4, descriptor 1, window 1, dictionary 4, content size 8 */
    BLOCK_HEADER = 3,
    CHECKSUM = 4,
    PEEK = FRAME_HEADER_MAX + BLOCK_HEADER, /* enough for the frames of one block, the usual ones */
};

static guint32
get_le(const guint8 *at, guint n_bytes)
{
    guint32 value = 0;
    for (guint i = 0; i < n_bytes; i++)
        value |= (guint32)at[i] << (8 * i);
    return value;
}

/* Length of the frame header that begins with @head (5 bytes), 0 if it is none. */
static guint32
frame_header_length(const guint8 *head, gboolean *checksum)
{
    static const guint8 dictionary_length[4] = {0, 1, 2, 4};
    static const guint8 content_length[4] = {0, 2, 4, 8};
    guint8 descriptor = head[4];
    gboolean single_segment = (descriptor & 0x20) != 0;
    guint content = content_length[descriptor >> 6];
    if (get_le(head, 4) != 0xfd2fb528u || (descriptor & 0x08) != 0)
        return 0;
    if (single_segment && content == 0)
        content = 1;
    *checksum = (descriptor & 0x04) != 0;
    return 5 + (single_segment ? 0 : 1) + dictionary_length[descriptor & 3] + content;
}

/* Bytes of the file from @host on, the first @n of which are in @buffer. */
typedef struct {
    int fd; /* -1: there are no more */
    guint64 host;
    guint32 n;
    const guint8 *buffer;
    const char *label;
} Peek;

static gboolean
no_frame(guint64 host, const char *label, GError **error)
{
    return vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s: at offset %" G_GUINT64_FORMAT
                         " of the image there is no zstd frame of the length that its table says",
                         label, host);
}

static gboolean
peek_block_header(const Peek *peek, guint32 at, guint32 *header, GError **error)
{
    guint8 bytes[BLOCK_HEADER];
    if (at + BLOCK_HEADER <= peek->n)
        memcpy(bytes, peek->buffer + at, sizeof bytes);
    else if (peek->fd < 0)
        return no_frame(peek->host, peek->label, error);
    else if (!vmb_fs_pread(peek->fd, bytes, sizeof bytes, peek->host + at, peek->label, error))
        return FALSE;
    *header = get_le(bytes, BLOCK_HEADER);
    return TRUE;
}

static gboolean
measure(const Peek *peek, guint32 limit, guint32 *length, GError **error)
{
    gboolean checksum = FALSE, last = FALSE;
    guint32 at = frame_header_length(peek->buffer, &checksum);
    if (at == 0)
        return no_frame(peek->host, peek->label, error);
    while (!last) {
        guint32 header = 0;
        if (at > limit || limit - at < BLOCK_HEADER)
            return no_frame(peek->host, peek->label, error);
        if (!peek_block_header(peek, at, &header, error))
            return FALSE;
        guint type = header >> 1 & 3; /* 0 raw, 1 one byte repeated, 2 compressed, 3 reserved */
        last = (header & 1) != 0;
        if (type == 3)
            return no_frame(peek->host, peek->label, error);
        at += BLOCK_HEADER + (type == 1 ? 1 : header >> 3);
    }
    at += checksum ? CHECKSUM : 0;
    if (at > limit)
        return no_frame(peek->host, peek->label, error);
    *length = at;
    return TRUE;
}

gboolean
vmb_zstd_frame_length(int fd, guint64 host, guint32 limit, guint32 *length, const char *label,
                      GError **error)
{
    guint8 buffer[PEEK];
    Peek peek = {.fd = fd, .host = host, .n = MIN(limit, PEEK), .buffer = buffer, .label = label};
    if (limit < 5)
        return no_frame(host, label, error);
    return vmb_fs_pread(fd, buffer, peek.n, host, label, error) &&
           measure(&peek, limit, length, error);
}

gboolean
vmb_zstd_frame_length_of(const guint8 *frame, guint32 limit, guint32 *length)
{
    Peek peek = {.fd = -1, .n = limit, .buffer = frame, .label = ""};
    return limit >= 5 && measure(&peek, limit, length, NULL);
}
