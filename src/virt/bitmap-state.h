/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a persistent dirty bitmap of a qcow2 image that no QEMU has open can be relied upon. */
#pragma once
#include <glib.h>

typedef struct {
    gboolean present; /* a bitmap of that name is in the image */
    gboolean usable;  /* and it was saved in good order, records, and fits the image */
    gboolean clean;   /* and it says that nothing has changed */
    char *why;        /* a sentence when it is not usable; free with g_free() */
} VmbBitmapState;

/* Looks for the bitmap @name in the image at @path, read-only and without locks. Nothing of the file is
 * trusted; whatever is wrong ends in why. QEMU's own rules (docs/interop/qcow2.txt, "Bitmaps
 * extension"): a bitmap that is marked in use was not saved by the QEMU that wrote to the image last. */
void vmb_bitmap_state_read(const char *path, const char *name, VmbBitmapState *state);
