/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The dirty bitmaps that qcow2 images hold: listing them from the file, and removing one from an
 * image that nobody has open. */
#pragma once
#include <glib.h>

typedef struct {
    char *name;
    gboolean in_use; /* not written back since it was loaded: normal while QEMU runs, else broken */
} VmbImageBitmap;
void vmb_image_bitmap_free(VmbImageBitmap *bitmap);

/* The bitmap directory of the qcow2 image at @path (docs/interop/qcow2.txt of QEMU), read without
 * locks and without following anything: a GPtrArray of VmbImageBitmap, empty if there is none. Of
 * an image that QEMU has open it lists what was stored, not what is new in memory. Errors:
 * VMB_ERROR_FAILED if the file cannot be read or is none; VMB_ERROR_DAMAGE if the
 * directory makes no sense. */
GPtrArray *vmb_image_bitmaps_read(const char *path, GError **error);
/* TRUE if @bitmaps has one of this name. */
gboolean vmb_image_bitmaps_have(const GPtrArray *bitmaps, const char *name);

/* The local qcow2 files of a disk's chain: @path and, as far as headers name absolute paths or such
 * beside the image, what is below it. GPtrArray of char *. Nothing but headers is read. */
GPtrArray *vmb_image_bitmaps_chain(const char *path);

/* Fails, without having changed anything, when another process has the image open. A domain that is
 * started at this moment waits for it (see virt/image-edit.h); only where the file system knows no
 * leases it is done by `qemu-img bitmap --remove`, whose lock would make that start fail. The image
 * must not belong to a running domain. */
gboolean vmb_image_bitmap_remove(const char *path, const char *name, GError **error);
