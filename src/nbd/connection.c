/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Connecting to an NBD server and checking what was negotiated. */
#include "nbd/reader-internal.h"
#include "util/error.h"

#include <string.h>

static gboolean refuse(VmbNbdReader *r, const char *format, ...) G_GNUC_PRINTF(2, 3);
static gboolean
refuse(VmbNbdReader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    return vmb_nbd_fail(r, g_error_new(VMB_ERROR, VMB_ERROR_FAILED, "%s: NBD export '%s' at %s: %s",
                                       r->label, r->export_name, r->socket, why));
}

static gboolean
prepare(VmbNbdReader *r)
{
    r->nbd = nbd_create();
    if (r->nbd == NULL || nbd_set_export_name(r->nbd, r->export_name) < 0 ||
        nbd_add_meta_context(r->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        (r->dirty_context != NULL && nbd_add_meta_context(r->nbd, r->dirty_context) < 0))
        return refuse(r, "%s", nbd_get_error());
    /* A reply that leaves a gap fails when it is retired; clearing each buffer before is lost time.
     */
    nbd_set_pread_initialize(r->nbd, false);
    return TRUE;
}

static gboolean
check_context(VmbNbdReader *r, const char *context)
{
    if (nbd_can_meta_context(r->nbd, context) == 1)
        return TRUE;
    return refuse(r,
                  "the server does not offer the context '%s', so that nobody knows which blocks "
                  "changed or are zero",
                  context);
}

/* Requests are no longer than the server allows and multiples of what it asks for. */
static gboolean
limit_requests(VmbNbdReader *r)
{
    gint64 least = nbd_get_block_size(r->nbd, LIBNBD_SIZE_MINIMUM);
    gint64 most = nbd_get_block_size(r->nbd, LIBNBD_SIZE_MAXIMUM);
    if (least <= 0)
        least = 1;
    if (least > 65536 || (least & (least - 1)) != 0)
        return refuse(r, "its smallest request is %" G_GINT64_FORMAT " bytes", least);
    if (most > 0 && most < r->max_request)
        r->max_request = (guint32)most;
    r->max_request -= r->max_request % (guint32)least;
    if (r->max_request == 0)
        return refuse(r,
                      "its requests have at least %" G_GINT64_FORMAT
                      " bytes, but at most %" G_GINT64_FORMAT,
                      least, most);
    return TRUE;
}

static gboolean
check_negotiated(VmbNbdReader *r)
{
    if (nbd_get_structured_replies_negotiated(r->nbd) != 1)
        return refuse(r, "the server is too old: it offers no structured replies, and so cannot "
                         "tell which blocks changed or are zero");
    if (!check_context(r, LIBNBD_CONTEXT_BASE_ALLOCATION) ||
        (r->dirty_context != NULL && !check_context(r, r->dirty_context)))
        return FALSE;
    gint64 size = nbd_get_size(r->nbd);
    if (size < 0)
        return refuse(r, "%s", nbd_get_error());
    r->size = (guint64)size;
    return limit_requests(r);
}

gboolean
vmb_nbd_connect(VmbNbdReader *r)
{
    if (!prepare(r))
        return FALSE;
    vmb_nbd_begin_waiting(r);
    if (nbd_aio_connect_unix(r->nbd, r->socket) < 0)
        return refuse(r, "%s", nbd_get_error());
    while (!nbd_aio_is_ready(r->nbd)) {
        gboolean woke = FALSE;
        if (vmb_nbd_is_dead(r))
            return refuse(r, "%s",
                          r->last_error != NULL ? r->last_error
                                                : "the server closed the connection");
        if (!vmb_nbd_poll(r, -1, &woke))
            return FALSE;
    }
    r->connected = TRUE;
    return check_negotiated(r);
}
