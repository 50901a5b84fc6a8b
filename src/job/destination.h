/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a restored disk goes if not into a file: a stream, a block device, an NBD export. */
#pragma once
#include <gio/gio.h>

typedef struct VmbDestination VmbDestination;

/* @text: "-" (standard output), an NBD URI, or the path of a block device, which must be nobody else's and have room for
 * @size bytes. @label: names domain and disk. Nothing is written yet. Errors: VMB_ERROR_USAGE and others. */
VmbDestination *vmb_destination_open(const char *text, guint64 size, const char *label,
                                     GCancellable *cancel, GError **error);
void vmb_destination_free(VmbDestination *destination);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDestination, vmb_destination_free)

/* The next @length bytes of the disk; offsets follow each other without gaps. @data is NULL for zeroes, of any length; else at
 * most 1 MiB. Errors: VMB_ERROR_FAILED, VMB_ERROR_NO_SPACE, VMB_ERROR_CANCELLED. */
gboolean vmb_destination_write(VmbDestination *destination, const void *data, guint64 offset,
                               guint64 length, GError **error);
/* Brings it to disk. */
gboolean vmb_destination_finish(VmbDestination *destination, GError **error);
