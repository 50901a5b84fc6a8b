/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Looks into the header of a disk's active image to learn whether it can hold dirty bitmaps. */
#pragma once
#include <glib.h>

typedef struct {
    gboolean bitmaps;   /* qcow2 of version 3 */
    guint32 cluster_size; /* bytes; 0 if it is no qcow2 */
    char *why;          /* a sentence when not; free with g_free() */
    char *data_file;    /* external data file's path as far as the header names one, or NULL; free with
                         * g_free() */
} VmbImageProbe;

/* Reads the first bytes of the qcow2 image at @path (docs/interop/qcow2.txt of QEMU), read-only and
 * without locks: QEMU has it open. Whatever is wrong ends in why, never in an error. */
void vmb_image_probe(const char *path, VmbImageProbe *probe);
