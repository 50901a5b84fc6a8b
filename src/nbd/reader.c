/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads one NBD export asynchronously: life of the reader, waiting, and what ends it. */
#include "nbd/extents.h"
#include "nbd/reader-internal.h"
#include "util/error.h"

#include <errno.h>
#include <poll.h>

/* In flight at once: 1 MiB. Longer requests cost QEMU twice the processor time (it maps a new buffer
 * for each), shorter ones more round trips; more of them win nothing here, and keep the guest's own
 * requests waiting. From tests/bench/run sweep. */
#define REQUESTS_DEFAULT 4
#define REQUEST_DEFAULT (256u * 1024u)
#define REQUEST_MAX (1024u * 1024u)
#define TIMEOUT_DEFAULT_NS G_GUINT64_CONSTANT(60000000000)

gboolean
vmb_nbd_is_dead(VmbNbdReader *r)
{
    return nbd_aio_is_dead(r->nbd) != 0 || nbd_aio_is_closed(r->nbd) != 0;
}

gboolean
vmb_nbd_fail(VmbNbdReader *r, GError *error)
{
    if (r->failure != NULL) {
        g_error_free(error);
        return FALSE;
    }
    r->failure = error;
    r->status.pending = FALSE;
    nbd_close(g_steal_pointer(&r->nbd));
    vmb_nbd_drop_reads(r, TRUE);
    return FALSE;
}

gboolean
vmb_nbd_fail_here(VmbNbdReader *r, const char *what)
{
    const char *why = nbd_get_error();
    return vmb_nbd_fail(r, g_error_new(VMB_ERROR, VMB_ERROR_FAILED, "%s: %s: %s", r->label, what,
                                       why != NULL ? why : "unknown error"));
}

gboolean
vmb_nbd_tell(VmbNbdReader *r, GError **error)
{
    if (error != NULL)
        *error = g_error_copy(r->failure);
    return FALSE;
}

static gboolean
is_waiting(VmbNbdReader *r)
{
    return r->n_issued > 0 || r->status.pending;
}

void
vmb_nbd_begin_waiting(VmbNbdReader *r)
{
    if (!is_waiting(r))
        r->heard = g_get_monotonic_time();
}

static gboolean
fail_dead(VmbNbdReader *r)
{
    return vmb_nbd_fail(
        r, g_error_new(VMB_ERROR, VMB_ERROR_FAILED,
                       "%s: the connection to the NBD server at %s is lost: %s", r->label,
                       r->socket, r->last_error != NULL ? r->last_error : "the server closed it"));
}

static gboolean
fail_cancelled(VmbNbdReader *r)
{
    return vmb_nbd_fail(r,
                        g_error_new(VMB_ERROR, VMB_ERROR_CANCELLED, "%s: interrupted", r->label));
}

static gboolean
fail_timeout(VmbNbdReader *r)
{
    const char *what = "nothing more is read, because what was read is not taken";
    if (!r->connected)
        what = "the NBD server does not complete the handshake";
    else if (is_waiting(r))
        what = "the NBD server does not answer";
    return vmb_nbd_fail(r, g_error_new(VMB_ERROR, VMB_ERROR_NO_PROGRESS, "%s: %s (for %.1f s; %s)",
                                       r->label, what, (double)r->timeout / G_USEC_PER_SEC,
                                       r->socket));
}

/* Lets libnbd handle what poll() told. Its errors show as a dead connection. */
static void
notify(VmbNbdReader *r, short events)
{
    unsigned direction = nbd_aio_get_direction(r->nbd);
    int result = 0;
    if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        r->heard = g_get_monotonic_time();
        result = nbd_aio_notify_read(r->nbd);
    } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        result = nbd_aio_notify_write(r->nbd);
    if (result < 0) {
        g_free(r->last_error);
        r->last_error = g_strdup(nbd_get_error());
    }
}

static short
wanted_events(VmbNbdReader *r)
{
    unsigned direction = nbd_aio_get_direction(r->nbd);
    return (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                   ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
}

gboolean
vmb_nbd_poll(VmbNbdReader *r, int wake_fd, gboolean *woke)
{
    struct pollfd fds[] = {
        {.fd = nbd_aio_get_fd(r->nbd), .events = wanted_events(r)},
        {.fd = r->cancel_fd, .events = POLLIN},
        {.fd = wake_fd, .events = POLLIN},
    };
    gint64 left = r->heard + r->timeout - g_get_monotonic_time();
    int ms = (int)CLAMP((left + 999) / 1000, 0, G_MAXINT);
    int n = poll(fds, G_N_ELEMENTS(fds), ms);
    if (g_cancellable_is_cancelled(r->cancel))
        return fail_cancelled(r);
    if (n < 0 && errno != EINTR)
        return vmb_nbd_fail(r, g_error_new(VMB_ERROR, VMB_ERROR_FAILED, "%s: cannot wait: %s",
                                           r->label, g_strerror(errno)));
    if (n == 0 && g_get_monotonic_time() >= r->heard + r->timeout)
        return fail_timeout(r);
    if (n <= 0)
        return TRUE;
    *woke = fds[2].revents != 0;
    if (fds[0].revents != 0)
        notify(r, fds[0].revents);
    return TRUE;
}

gboolean
vmb_nbd_step(VmbNbdReader *r, int wake_fd, gboolean *woke)
{
    if (r->failure != NULL || !vmb_nbd_issue(r))
        return FALSE;
    if (g_queue_is_empty(&r->answered) && !vmb_nbd_is_dead(r) && !vmb_nbd_poll(r, wake_fd, woke))
        return FALSE;
    vmb_nbd_collect(r);
    gboolean dead = vmb_nbd_is_dead(r);
    vmb_nbd_deliver(r);
    return dead ? fail_dead(r) : r->failure == NULL;
}

gboolean
vmb_nbd_reader_wait(VmbNbdReader *r, int wake_fd, GError **error)
{
    if (r->failure != NULL)
        return vmb_nbd_tell(r, error);
    if (vmb_nbd_reader_in_flight(r) == 0) {
        if (wake_fd < 0)
            return vmb_error_set(error, VMB_ERROR_FAILED, "%s: nothing to wait for", r->label);
        vmb_nbd_begin_waiting(r);
    }
    guint64 before = r->n_done;
    gboolean woke = FALSE;
    while (r->n_done == before && !woke)
        if (!vmb_nbd_step(r, wake_fd, &woke))
            return vmb_nbd_tell(r, error);
    return TRUE;
}

gboolean
vmb_nbd_reader_drain(VmbNbdReader *r, GError **error)
{
    if (r->failure != NULL)
        return vmb_nbd_tell(r, error);
    while (vmb_nbd_reader_in_flight(r) > 0)
        if (!vmb_nbd_reader_wait(r, -1, error))
            return FALSE;
    return TRUE;
}

guint64
vmb_nbd_reader_size(VmbNbdReader *r)
{
    return r->size;
}

int
vmb_nbd_reader_fd(VmbNbdReader *r)
{
    return r->nbd != NULL ? nbd_aio_get_fd(r->nbd) : -1;
}

static VmbNbdReader *
reader_new(const VmbNbdOptions *options)
{
    VmbNbdReader *r = g_new0(VmbNbdReader, 1);
    guint64 timeout_ns = options->timeout_ns != 0 ? options->timeout_ns : TIMEOUT_DEFAULT_NS;
    guint32 request = options->max_request != 0 ? options->max_request : REQUEST_DEFAULT;
    r->label = g_strdup(options->label);
    r->socket = g_strdup(options->socket);
    r->export_name = g_strdup(options->export_name);
    r->dirty_context = g_strdup(options->dirty_context);
    r->timeout = (gint64)MAX(timeout_ns / 1000, 1);
    r->max_requests = options->max_requests != 0 ? options->max_requests : REQUESTS_DEFAULT;
    r->max_request = MIN(request, REQUEST_MAX);
    r->cancel = options->cancel;
    r->cancel_fd = g_cancellable_get_fd(options->cancel);
    r->status.base = g_array_new(FALSE, FALSE, sizeof(VmbNbdRun));
    r->status.dirty = g_array_new(FALSE, FALSE, sizeof(VmbNbdRun));
    return r;
}

VmbNbdReader *
vmb_nbd_reader_open(const VmbNbdOptions *options, GError **error)
{
    g_autoptr(VmbNbdReader) r = reader_new(options);
    if (g_cancellable_is_cancelled(r->cancel))
        fail_cancelled(r);
    if (r->failure != NULL || !vmb_nbd_connect(r)) {
        vmb_nbd_tell(r, error);
        return NULL;
    }
    return g_steal_pointer(&r);
}

void
vmb_nbd_reader_free(VmbNbdReader *r)
{
    if (r == NULL)
        return;
    /* Polite, so that the server logs no lost client; it does not wait. */
    if (r->nbd != NULL && r->connected && !is_waiting(r) && !vmb_nbd_is_dead(r))
        nbd_aio_disconnect(r->nbd, 0);
    nbd_close(r->nbd);
    vmb_nbd_drop_reads(r, FALSE);
    if (r->cancel_fd >= 0)
        g_cancellable_release_fd(r->cancel);
    g_array_unref(r->status.base);
    g_array_unref(r->status.dirty);
    g_clear_error(&r->failure);
    g_free(r->last_error);
    g_free(r->dirty_context);
    g_free(r->export_name);
    g_free(r->socket);
    g_free(r->label);
    g_free(r);
}
