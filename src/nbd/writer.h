/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes a whole disk to an NBD export, with several requests in flight. */
#pragma once
#include <gio/gio.h>

typedef struct VmbNbdWriter VmbNbdWriter;

/* A request may have so many bytes. */
#define VMB_NBD_WRITE_MAX (1024u * 1024u)

/* Connects to @uri (NBD project, doc/uri.md) and checks that the export may be written and has room for @size bytes. No
 * answer for 120 s (900 s while it brings all to its storage) is VMB_ERROR_NO_PROGRESS. @label: for messages. Errors: VMB_ERROR_USAGE for what is no
 * such URI or export; VMB_ERROR_FAILED, _NO_SPACE, _CANCELLED. */
VmbNbdWriter *vmb_nbd_writer_open(const char *uri, guint64 size, const char *label,
                                  GCancellable *cancel, GError **error);
void vmb_nbd_writer_free(VmbNbdWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbNbdWriter, vmb_nbd_writer_free)

/* Takes a copy of @data, at most VMB_NBD_WRITE_MAX bytes. What goes wrong may show at a later call. */
gboolean vmb_nbd_writer_data(VmbNbdWriter *writer, const void *data, guint64 offset, guint32 length,
                             GError **error);
/* Any length; written as zeroes where the server has no request for that. */
gboolean vmb_nbd_writer_zero(VmbNbdWriter *writer, guint64 offset, guint64 length, GError **error);
/* Waits for all answers, and lets the server bring what was written to its storage. */
gboolean vmb_nbd_writer_finish(VmbNbdWriter *writer, GError **error);
