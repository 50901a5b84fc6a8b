/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes a whole disk to an NBD export, with several requests in flight. */
#include "nbd/writer.h"
#include "util/error.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <string.h>

#define SLOTS 8
/* Servers that write zeroes one by one must be able to answer in time. */
#define ZERO_STEP (64u * 1024u * 1024u)
#define TIMEOUT_US (120 * G_USEC_PER_SEC)
/* For bringing all that was written to disk. */
#define FLUSH_TIMEOUT_US (900 * G_USEC_PER_SEC)

/* A request that the server has not answered. */
typedef struct {
    VmbNbdWriter *writer;
    guint8 *buffer;
    gboolean busy;
} Slot;

struct VmbNbdWriter {
    struct nbd_handle *nbd;
    char *label;
    GCancellable *cancel;
    int cancel_fd;
    gboolean can_zero;
    Slot slots[SLOTS];
    guint n_busy;
    int failed; /* errno of the first request that failed */
    gint64 heard; /* monotonic time of the last answer */
    gint64 timeout;
    guint8 *zeroes; /* made if needed */
};

static gboolean
fail(VmbNbdWriter *w, GError **error)
{
    int err = nbd_get_errno();
    return vmb_error_set(error, err == ENOSPC ? VMB_ERROR_NO_SPACE : VMB_ERROR_FAILED, "%s: %s", w->label,
                         nbd_get_error());
}

/* ---- waiting ---- */

/* Waits once for the server, cancellation or the deadline. */
static gboolean
step(VmbNbdWriter *w, GError **error)
{
    unsigned direction = nbd_aio_get_direction(w->nbd);
    short events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                           ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
    struct pollfd fds[] = {{nbd_aio_get_fd(w->nbd), events, 0}, {w->cancel_fd, POLLIN, 0}};
    gint64 left = w->heard + w->timeout - g_get_monotonic_time();
    int n = poll(fds, G_N_ELEMENTS(fds), (int)CLAMP((left + 999) / 1000, 0, G_MAXINT));
    if (g_cancellable_is_cancelled(w->cancel))
        return vmb_error_set(error, VMB_ERROR_CANCELLED, "%s: interrupted", w->label);
    if (n == 0 && g_get_monotonic_time() >= w->heard + w->timeout)
        return vmb_error_set(error, VMB_ERROR_NO_PROGRESS, "%s: the NBD server does not answer", w->label);
    if (n <= 0)
        return TRUE;
    int result = 0;
    if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        w->heard = g_get_monotonic_time();
        result = nbd_aio_notify_read(w->nbd);
    } else if (fds[0].revents != 0 && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        result = nbd_aio_notify_write(w->nbd);
    }
    return result == 0 || fail(w, error);
}

static gboolean
is_closed(VmbNbdWriter *w)
{
    return nbd_aio_is_dead(w->nbd) != 0 || nbd_aio_is_closed(w->nbd) != 0;
}

/* Until at most @most requests are without an answer. */
static gboolean
wait_for_answers(VmbNbdWriter *w, guint most, GError **error)
{
    while (w->n_busy > most && w->failed == 0) {
        if (is_closed(w))
            return vmb_error_set(error, VMB_ERROR_FAILED, "%s: the NBD server closed the connection", w->label);
        if (!step(w, error))
            return FALSE;
    }
    return w->failed == 0 ||
           vmb_error_errno(error, w->failed, "%s: the NBD server cannot write", w->label);
}

/* ---- opening ---- */

static gboolean
connect_to(VmbNbdWriter *w, const char *uri, GError **error)
{
    w->nbd = nbd_create();
    w->heard = g_get_monotonic_time();
    w->timeout = TIMEOUT_US;
    if (w->nbd == NULL)
        return fail(w, error);
    if (nbd_aio_connect_uri(w->nbd, uri) < 0)
        return vmb_error_set(error, VMB_ERROR_USAGE, "%s: %s", w->label, nbd_get_error());
    while (!nbd_aio_is_ready(w->nbd)) {
        if (is_closed(w))
            return vmb_error_set(error, VMB_ERROR_USAGE, "%s: %s", w->label,
                                 nbd_get_error() != NULL ? nbd_get_error() : "the server closed the connection");
        if (!step(w, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_export(VmbNbdWriter *w, guint64 size, GError **error)
{
    gint64 room = nbd_get_size(w->nbd);
    if (nbd_is_read_only(w->nbd) != 0)
        return vmb_error_set(error, VMB_ERROR_USAGE, "%s: the export is read-only", w->label);
    if (room < 0 || (guint64)room < size)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "%s: the export has %" G_GINT64_FORMAT " bytes, but the disk %" G_GUINT64_FORMAT,
                             w->label, room, size);
    w->can_zero = nbd_can_zero(w->nbd) == 1;
    return TRUE;
}

VmbNbdWriter *
vmb_nbd_writer_open(const char *uri, guint64 size, const char *label, GCancellable *cancel,
                    GError **error)
{
    g_autoptr(VmbNbdWriter) w = g_new0(VmbNbdWriter, 1);
    w->label = g_strdup(label);
    w->cancel = cancel;
    w->cancel_fd = g_cancellable_get_fd(cancel);
    for (guint i = 0; i < SLOTS; i++)
        w->slots[i] = (Slot){.writer = w, .buffer = g_malloc(VMB_NBD_WRITE_MAX)};
    return connect_to(w, uri, error) && check_export(w, size, error) ? g_steal_pointer(&w) : NULL;
}

void
vmb_nbd_writer_free(VmbNbdWriter *w)
{
    if (w == NULL)
        return;
    nbd_close(w->nbd); /* forgets the buffers */
    if (w->cancel_fd >= 0)
        g_cancellable_release_fd(w->cancel);
    for (guint i = 0; i < SLOTS; i++)
        g_free(w->slots[i].buffer);
    g_free(w->zeroes);
    g_free(w->label);
    g_free(w);
}

/* ---- requests ---- */

static int
on_answer(void *user, int *error)
{
    Slot *slot = user;
    VmbNbdWriter *w = slot->writer;
    slot->busy = FALSE;
    w->n_busy--;
    if (*error != 0 && w->failed == 0)
        w->failed = *error;
    return 1; /* nobody else asks for it */
}

static Slot *
take_slot(VmbNbdWriter *w, GError **error)
{
    if (!wait_for_answers(w, SLOTS - 1, error))
        return NULL;
    if (w->n_busy == 0)
        w->heard = g_get_monotonic_time();
    for (guint i = 0; i < SLOTS; i++)
        if (!w->slots[i].busy) {
            w->slots[i].busy = TRUE;
            w->n_busy++;
            return &w->slots[i];
        }
    g_assert_not_reached();
}

static gboolean
issued(VmbNbdWriter *w, Slot *slot, gint64 cookie, GError **error)
{
    if (cookie >= 0)
        return TRUE;
    slot->busy = FALSE;
    w->n_busy--;
    return fail(w, error);
}

gboolean
vmb_nbd_writer_data(VmbNbdWriter *w, const void *data, guint64 offset, guint32 length, GError **error)
{
    g_return_val_if_fail(length <= VMB_NBD_WRITE_MAX, FALSE);
    Slot *slot = take_slot(w, error);
    if (slot == NULL)
        return FALSE;
    memcpy(slot->buffer, data, length);
    nbd_completion_callback done = {.callback = on_answer, .user_data = slot};
    return issued(w, slot, nbd_aio_pwrite(w->nbd, slot->buffer, length, offset, done, 0), error);
}

static gboolean
write_zeroes(VmbNbdWriter *w, guint64 offset, guint64 length, GError **error)
{
    if (w->zeroes == NULL)
        w->zeroes = g_malloc0(VMB_NBD_WRITE_MAX);
    while (length > 0) {
        guint32 n = (guint32)MIN(length, VMB_NBD_WRITE_MAX);
        if (!vmb_nbd_writer_data(w, w->zeroes, offset, n, error))
            return FALSE;
        offset += n;
        length -= n;
    }
    return TRUE;
}

gboolean
vmb_nbd_writer_zero(VmbNbdWriter *w, guint64 offset, guint64 length, GError **error)
{
    if (!w->can_zero)
        return write_zeroes(w, offset, length, error);
    while (length > 0) {
        guint64 n = MIN(length, ZERO_STEP);
        Slot *slot = take_slot(w, error);
        if (slot == NULL)
            return FALSE;
        nbd_completion_callback done = {.callback = on_answer, .user_data = slot};
        if (!issued(w, slot, nbd_aio_zero(w->nbd, n, offset, done, 0), error))
            return FALSE;
        offset += n;
        length -= n;
    }
    return TRUE;
}

gboolean
vmb_nbd_writer_finish(VmbNbdWriter *w, GError **error)
{
    if (!wait_for_answers(w, 0, error))
        return FALSE;
    if (nbd_can_flush(w->nbd) == 1) {
        w->timeout = FLUSH_TIMEOUT_US;
        Slot *slot = take_slot(w, error);
        nbd_completion_callback done = {.callback = on_answer, .user_data = slot};
        if (slot == NULL || !issued(w, slot, nbd_aio_flush(w->nbd, done, 0), error) ||
            !wait_for_answers(w, 0, error))
            return FALSE;
    }
    nbd_aio_disconnect(w->nbd, 0);
    return TRUE;
}
