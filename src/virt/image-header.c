/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the header of a qcow2 image says, checked before it is believed. */
#include "virt/image-header.h"
#include "image/qcow2-format.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Header, extensions and backing file name lie in the first cluster, which has 2 MiB at most; QEMU
 * writes them within the first 4 KiB or so. */
#define READ_BYTES 65536
#define V2_LENGTH 72
#define V3_LENGTH 104
#define NAME_MAX_BYTES 1023
#define FORMAT_MAX_BYTES 15
#define CLUSTER_BITS_MIN 9
#define CLUSTER_BITS_MAX 21
#define AUTOCLEAR_BITMAPS G_GUINT64_CONSTANT(1)
#define EXTENSION_DATA_FILE 0x44415441u
#define EXTENSION_BITMAPS 0x23852875u
#define BITMAPS_LENGTH 24

void
vmb_image_header_clear(VmbImageHeader *header)
{
    g_clear_pointer(&header->backing_file, g_free);
    g_clear_pointer(&header->backing_format, g_free);
    g_clear_pointer(&header->data_file, g_free);
}

G_GNUC_PRINTF(2, 3) static gboolean
refuse(char **why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    *why = g_strdup_vprintf(format, args);
    va_end(args);
    return FALSE;
}

/* A name with a zero byte is another name for whoever reads it as a string. */
static gboolean
take_text(const guint8 *bytes, gsize length, gsize most, char **text)
{
    if (length == 0 || length > most || memchr(bytes, '\0', length) != NULL)
        return FALSE;
    g_free(*text);
    *text = g_strndup((const char *)bytes, length);
    return TRUE;
}

static gboolean
take_extension(guint32 type, const guint8 *data, guint32 length, guint64 autoclear,
               VmbImageHeader *header, char **why)
{
    switch (type) {
    case VMB_QCOW2_EXTENSION_BACKING:
        return take_text(data, length, FORMAT_MAX_BYTES, &header->backing_format) ||
               refuse(why, "its backing format is no name");
    case EXTENSION_DATA_FILE:
        return take_text(data, length, NAME_MAX_BYTES, &header->data_file) ||
               refuse(why, "the name of its data file is no name");
    case EXTENSION_BITMAPS:
        if (length != BITMAPS_LENGTH)
            return refuse(why, "its bitmap extension has %u bytes", length);
        if ((autoclear & AUTOCLEAR_BITMAPS) == 0)
            return TRUE; /* something that does not know bitmaps has written to the image */
        header->n_bitmaps = vmb_qcow2_get32(data);
        header->directory_size = vmb_qcow2_get64(data + 8);
        header->directory_offset = vmb_qcow2_get64(data + 16);
        return TRUE;
    default:
        return TRUE;
    }
}

/* Type, length, data padded to 8 bytes; type 0 ends them. */
static gboolean
take_extensions(const guint8 *bytes, gsize length, gsize at, guint64 autoclear,
                VmbImageHeader *header, char **why)
{
    while (at + 8 <= length) {
        guint32 type = vmb_qcow2_get32(bytes + at), size = vmb_qcow2_get32(bytes + at + 4);
        at += 8;
        if (type == 0)
            return TRUE;
        if (size > length - at)
            return refuse(why, "a header extension goes beyond the header");
        if (!take_extension(type, bytes + at, size, autoclear, header, why))
            return FALSE;
        at += ((gsize)size + 7) & ~(gsize)7;
        if (at > length)
            return refuse(why, "a header extension goes beyond the header");
    }
    return TRUE;
}

static gboolean
take_backing_file(const guint8 *bytes, gsize length, VmbImageHeader *header, char **why)
{
    guint64 offset = vmb_qcow2_get64(bytes + 8);
    guint32 size = vmb_qcow2_get32(bytes + 16);
    if (offset == 0)
        return TRUE;
    if (offset > length || size > length - offset ||
        !take_text(bytes + offset, size, NAME_MAX_BYTES, &header->backing_file))
        return refuse(why, "the name of its backing file is no name");
    return TRUE;
}

gboolean
vmb_image_header_parse(const guint8 *bytes, gsize length, VmbImageHeader *header, char **why)
{
    guint64 autoclear = 0;
    gsize end = V2_LENGTH;
    *header = (VmbImageHeader){0};
    if (length < V2_LENGTH || vmb_qcow2_get32(bytes) != VMB_QCOW2_MAGIC)
        return refuse(why, "it has no qcow2 header");
    header->version = vmb_qcow2_get32(bytes + 4);
    header->cluster_bits = vmb_qcow2_get32(bytes + 20);
    header->size = vmb_qcow2_get64(bytes + 24);
    header->encrypted = vmb_qcow2_get32(bytes + 32) != 0;
    if (header->version != 2 && header->version != 3)
        return refuse(why, "it is qcow2 version %u", header->version);
    if (header->cluster_bits < CLUSTER_BITS_MIN || header->cluster_bits > CLUSTER_BITS_MAX)
        return refuse(why, "it has clusters of 2^%u bytes", header->cluster_bits);
    if (header->version == 3) {
        end = length >= V3_LENGTH ? vmb_qcow2_get32(bytes + 100) : 0;
        if (end < V3_LENGTH || end > length || end % 8 != 0)
            return refuse(why, "its header has a wrong length");
        header->incompatible = vmb_qcow2_get64(bytes + 72);
        autoclear = vmb_qcow2_get64(bytes + 88);
    }
    return take_extensions(bytes, length, end, autoclear, header, why) &&
           take_backing_file(bytes, length, header, why);
}

gboolean
vmb_image_header_read(int fd, VmbImageHeader *header, char **why)
{
    g_autofree guint8 *bytes = g_malloc(READ_BYTES);
    ssize_t got = pread(fd, bytes, READ_BYTES, 0);
    if (got < 0) {
        *header = (VmbImageHeader){0};
        return refuse(why, "its header cannot be read: %s", g_strerror(errno));
    }
    /* What follows the first cluster is no part of the header. */
    if (got >= V2_LENGTH && vmb_qcow2_get32(bytes + 20) < 16)
        got = MIN(got, (ssize_t)1 << MAX(vmb_qcow2_get32(bytes + 20), CLUSTER_BITS_MIN));
    return vmb_image_header_parse(bytes, (gsize)got, header, why);
}
