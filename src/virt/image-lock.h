/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether some process could be writing to an image, by QEMU's locks and by the kernel. */
#pragma once
#include <glib.h>

/* *@who is NULL if nobody writes to the file or block device at @path, else words for who does: the
 * holder of one of QEMU's locks (block/file-posix.c of QEMU: byte 100 + n is locked by who has the
 * permission n, 200 + n by who shares it with nobody), or any other process that has it open for
 * writing, where the file system can tell. Holds up nobody for more than some microseconds. Free *@who
 * with g_free(). Errors: VMB_ERROR_FAILED if it cannot be opened or asked. */
gboolean vmb_image_writer(const char *path, char **who, GError **error);

/* TRUE if the file's system and owner let us hold leases on it. */
gboolean vmb_image_has_leases(const char *path);
