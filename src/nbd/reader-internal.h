/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the NBD reader share. */
#pragma once
#include "nbd/reader.h"

#include <libnbd.h>

/* A part of a read that is one NBD request. */
typedef struct VmbNbdRead VmbNbdRead;
typedef struct {
    GList link; /* in reader->queue, later in reader->answered */
    VmbNbdRead *read;
    guint8 *buffer;
    guint64 offset;
    guint32 length;
    gint64 cookie;
} VmbNbdPart;

/* What one vmb_nbd_reader_submit() asked for. */
struct VmbNbdRead {
    GList link; /* in reader->reads, later in reader->complete */
    VmbNbdReader *reader;
    VmbNbdDone done;
    gpointer item, user;
    GError *error; /* the first one of its parts */
    guint n_left;  /* parts without an answer */
    VmbNbdPart parts[];
};

/* The one block status request. */
typedef struct {
    gboolean pending;
    gint64 cookie;
    guint64 length;       /* asked for */
    GArray *base, *dirty; /* of VmbNbdRun: the answers */
    const char *wrong;    /* what is malformed in them */
} VmbNbdStatus;

struct VmbNbdReader {
    struct nbd_handle *nbd; /* NULL after a failure: libnbd then forgets all buffers */
    char *label, *socket, *export_name, *dirty_context;
    gboolean connected;
    guint64 size;
    gint64 timeout; /* microseconds */
    guint max_requests;
    guint32 max_request;
    GCancellable *cancel;
    int cancel_fd;

    GQueue queue;    /* parts not yet given to libnbd */
    GQueue answered; /* parts whose completion libnbd told, not yet looked at */
    guint n_issued;  /* parts that libnbd has, without the answered */
    GQueue reads;    /* reads with parts left */
    GQueue complete; /* reads whose callback is due */
    guint64 n_done;  /* callbacks made */
    VmbNbdStatus status;

    gint64 heard;     /* monotonic: of the last bytes from the server, or when waiting began */
    char *last_error; /* of libnbd, whose own is gone after its next call */
    GError *failure;  /* set once; the reader is of no use then */
};

/* connection.c */
gboolean vmb_nbd_connect(VmbNbdReader *r); /* FALSE: failure is set */

/* reader.c. The functions that fail set reader->failure. */
gboolean vmb_nbd_is_dead(VmbNbdReader *r);
/* Closes the connection and completes all reads with @error (taken), unless that happened before.
 * Returns FALSE. */
gboolean vmb_nbd_fail(VmbNbdReader *r, GError *error);
/* The same with "LABEL: WHAT: libnbd's last error". */
gboolean vmb_nbd_fail_here(VmbNbdReader *r, const char *what);
/* Copies the failure to @error; returns FALSE. */
gboolean vmb_nbd_tell(VmbNbdReader *r, GError **error);
/* To be called before a request: the timeout counts from here if nothing else is outstanding. */
void vmb_nbd_begin_waiting(VmbNbdReader *r);
/* Waits once for the server, @wake_fd, cancellation or the timeout, and lets libnbd do its part. */
gboolean vmb_nbd_poll(VmbNbdReader *r, int wake_fd, gboolean *woke);
/* One round: issues, polls, completes. */
gboolean vmb_nbd_step(VmbNbdReader *r, int wake_fd, gboolean *woke);

/* requests.c */
gboolean vmb_nbd_issue(VmbNbdReader *r);   /* gives queued parts to libnbd, as far as allowed */
void vmb_nbd_collect(VmbNbdReader *r);     /* answered parts -> complete reads */
void vmb_nbd_deliver(VmbNbdReader *r);     /* callbacks of the complete reads */
void vmb_nbd_drop_reads(VmbNbdReader *r, gboolean call); /* with the failure; or without a call */
