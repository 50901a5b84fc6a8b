/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A qcow2 image without any data that holds a bitmap: what QEMU can serve beside the image below it. */
#pragma once
#include <glib.h>

typedef struct VmbBitmapImage VmbBitmapImage;

/* @fd: an empty file, borrowed. @size: of the disk, bytes, a multiple of 512. @name: of the bitmap, at most 1023 bytes. The
 * header names no backing file: who opens it says what lies below. A bit stands for 64 KiB. Source: docs/interop/qcow2.txt of
 * QEMU, "Bitmaps extension". */
VmbBitmapImage *vmb_bitmap_image_new(int fd, guint64 size, const char *name, const char *label);
void vmb_bitmap_image_free(VmbBitmapImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbBitmapImage, vmb_bitmap_image_free)

/* Sets the bits of a range of the disk in bytes, whole blocks but at the end of the disk; ranges must ascend. */
gboolean vmb_bitmap_image_set(VmbBitmapImage *image, guint64 offset, guint64 length, GError **error);
/* Writes what is left of the bitmap, then all tables and the header; no fsync. Memory: 8 bytes for each 32 GiB of the disk. */
gboolean vmb_bitmap_image_finish(VmbBitmapImage *image, GError **error);
