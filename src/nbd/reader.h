/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads one NBD export asynchronously: extents by window, data with several requests in flight. */
#pragma once
#include <gio/gio.h>

typedef struct VmbNbdReader VmbNbdReader;

typedef struct {
    const char *socket;         /* path of a UNIX socket */
    const char *export_name;
    const char *dirty_context;  /* "qemu:dirty-bitmap:NAME"; NULL: everything counts as dirty */
    const char *label;          /* names domain and disk in errors */
    guint64 timeout_ns;         /* no reply for so long is VMB_ERROR_NO_PROGRESS; 0: 60 s */
    guint max_requests;         /* requests in flight; 0: the measured default */
    guint32 max_request;        /* bytes; 0: the measured default; <= 1 MiB */
    GCancellable *cancel;       /* checked while waiting; may be NULL; borrowed */
} VmbNbdOptions;

/* Connects, checks the negotiated contexts and size (a missing context is an error, never a silent
 * full). Errors: VMB_ERROR_FAILED, _NO_PROGRESS, _CANCELLED. */
VmbNbdReader *vmb_nbd_reader_open(const VmbNbdOptions *options, GError **error);
/* Reads in flight are forgotten without a call; their buffers are not touched any more. */
void vmb_nbd_reader_free(VmbNbdReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbNbdReader, vmb_nbd_reader_free)

guint64 vmb_nbd_reader_size(VmbNbdReader *reader); /* bytes, as exported */
/* Of the connection; with nothing in flight it becomes readable when the server has gone. */
int vmb_nbd_reader_fd(VmbNbdReader *reader);

typedef struct {
    guint64 offset, length; /* bytes */
    gboolean dirty;         /* by the dirty context; TRUE without one */
    gboolean zero;          /* base:allocation says that it reads as zero */
} VmbNbdExtent;

/* Extents of [offset, offset + length), complete, ascending, without gap or overlap, the boundaries
 * of both contexts merged and equal neighbours joined. A hole that is not zero is not `zero`. Loops
 * over short replies; a last extent that goes beyond the range is cut; every other irregularity
 * (no progress, a context left out, ...) is an error. Reads in flight go on, and their callbacks are
 * made, meanwhile. @extents: a GArray of VmbNbdExtent, emptied first. Errors: as for wait. */
gboolean vmb_nbd_reader_extents(VmbNbdReader *reader, guint64 offset, guint64 length,
                                GArray *extents, GError **error);

/* Called in the thread that runs the reader, once per submitted read. @error is NULL on success and
 * owned by the reader. */
typedef void (*VmbNbdDone)(gpointer item, const GError *error, gpointer user);

/* Queues a read of at most 1 MiB into @buffer, split as the limits ask, valid until @done. TRUE:
 * @done is called exactly once, as a rule from a later call. FALSE (the reader failed before, or the
 * range is wrong): it is not called. */
gboolean vmb_nbd_reader_submit(VmbNbdReader *reader, void *buffer, guint64 offset, guint32 length,
                               VmbNbdDone done, gpointer item, gpointer user, GError **error);
/* TRUE while another request may be submitted without going over max_requests. */
gboolean vmb_nbd_reader_has_room(VmbNbdReader *reader);
guint vmb_nbd_reader_in_flight(VmbNbdReader *reader);

/* Drives the connection until at least one thing happened: a completion, @wake_fd (or -1) readable,
 * cancellation, or the timeout (also when nothing is in flight and only @wake_fd is waited for).
 * Errors as for open; after an error every read in flight has been completed with it, and the
 * reader can only be freed. A read that fails alone is no error of this function. */
gboolean vmb_nbd_reader_wait(VmbNbdReader *reader, int wake_fd, GError **error);

/* Waits for all reads in flight. */
gboolean vmb_nbd_reader_drain(VmbNbdReader *reader, GError **error);
