/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the header of a qcow2 image says, checked before it is believed. */
#pragma once
#include <glib.h>

#define VMB_IMAGE_DIRTY (G_GUINT64_CONSTANT(1) << 0)     /* refcounts are not up to date */
#define VMB_IMAGE_CORRUPT (G_GUINT64_CONSTANT(1) << 1)
#define VMB_IMAGE_DATA_FILE (G_GUINT64_CONSTANT(1) << 2)

typedef struct {
    guint32 version;        /* 2 or 3 */
    guint32 cluster_bits;   /* 9 to 21 */
    guint64 size;           /* virtual bytes */
    gboolean encrypted;
    guint64 incompatible;   /* feature bits; 0 for version 2 */
    char *backing_file;     /* as it stands there, or NULL */
    char *backing_format;   /* or NULL */
    char *data_file;        /* external data file as it stands there, or NULL */
    guint32 n_bitmaps;      /* 0: none, or none that may be trusted (autoclear bit off) */
    guint64 directory_offset, directory_size; /* of the bitmap directory, bytes */
} VmbImageHeader;

/* Parses the first bytes of an image (docs/interop/qcow2.txt of QEMU); @length: at most the first
 * cluster is needed. *@why gets a sentence when it is not a header that we understand. Free what is in
 * @header with vmb_image_header_clear() in both cases. */
gboolean vmb_image_header_parse(const guint8 *bytes, gsize length, VmbImageHeader *header,
                                char **why);
/* Reads and parses that of @fd. */
gboolean vmb_image_header_read(int fd, VmbImageHeader *header, char **why);
void vmb_image_header_clear(VmbImageHeader *header);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbImageHeader, vmb_image_header_clear)
