/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads: split into requests, kept in flight, completed exactly once. */
#include "nbd/reader-internal.h"
#include "util/error.h"

#include <string.h>

#define READ_MAX (1024u * 1024u)

/* libnbd calls this within a call that drives the connection; it must not be called back from
 * here. It returns 0, for libnbd checks the length of the data only when the command is retired by
 * nbd_aio_command_completed(). */
static int
on_complete(void *user, int *error)
{
    VmbNbdPart *part = user;
    g_queue_push_tail_link(&part->read->reader->answered, &part->link);
    return 0;
}

gboolean
vmb_nbd_issue(VmbNbdReader *r)
{
    /* A connection that broke is left to the next wait, which knows the reason. */
    while (r->n_issued < r->max_requests && !g_queue_is_empty(&r->queue) && !vmb_nbd_is_dead(r)) {
        vmb_nbd_begin_waiting(r);
        VmbNbdPart *part = g_queue_pop_head_link(&r->queue)->data;
        r->n_issued++;
        part->cookie =
            nbd_aio_pread(r->nbd, part->buffer, part->length, part->offset,
                          (nbd_completion_callback){.callback = on_complete, .user_data = part}, 0);
        if (part->cookie < 0)
            return vmb_nbd_fail_here(r, "cannot send a read request");
    }
    return TRUE;
}

static void
finish_part(VmbNbdReader *r, VmbNbdPart *part)
{
    VmbNbdRead *read = part->read;
    if (--read->n_left > 0)
        return;
    g_queue_unlink(&r->reads, &read->link);
    g_queue_push_tail_link(&r->complete, &read->link);
}

void
vmb_nbd_collect(VmbNbdReader *r)
{
    for (GList *link; (link = g_queue_pop_head_link(&r->answered)) != NULL;) {
        VmbNbdPart *part = link->data;
        r->n_issued--;
        if (nbd_aio_command_completed(r->nbd, (uint64_t)part->cookie) <= 0) {
            int err = nbd_get_errno();
            /* A read that the end of the connection cut off gets that as its error, later. */
            if (vmb_nbd_is_dead(r))
                continue;
            if (part->read->error == NULL)
                vmb_error_errno(&part->read->error, err,
                                "%s: the NBD server cannot read %" G_GUINT32_FORMAT
                                " bytes at offset %" G_GUINT64_FORMAT,
                                r->label, part->length, part->offset);
        }
        finish_part(r, part);
    }
}

static void
complete(VmbNbdReader *r, VmbNbdRead *read, const GError *error)
{
    r->n_done++;
    read->done(read->item, error, read->user);
}

static void
read_free(VmbNbdRead *read)
{
    g_clear_error(&read->error);
    g_free(read);
}

void
vmb_nbd_deliver(VmbNbdReader *r)
{
    for (GList *link; (link = g_queue_pop_head_link(&r->complete)) != NULL;) {
        VmbNbdRead *read = link->data;
        complete(r, read, read->error);
        read_free(read);
    }
}

void
vmb_nbd_drop_reads(VmbNbdReader *r, gboolean call)
{
    g_queue_init(&r->queue);
    g_queue_init(&r->answered);
    r->n_issued = 0;
    if (call)
        vmb_nbd_deliver(r);
    GQueue *lists[] = {&r->complete, &r->reads};
    for (gsize i = 0; i < G_N_ELEMENTS(lists); i++)
        for (GList *link; (link = g_queue_pop_head_link(lists[i])) != NULL;) {
            VmbNbdRead *read = link->data;
            if (call)
                complete(r, read, r->failure);
            read_free(read);
        }
}

static VmbNbdRead *
read_new(VmbNbdReader *r, guint8 *buffer, guint64 offset, guint32 length)
{
    guint n = (length + r->max_request - 1) / r->max_request;
    VmbNbdRead *read = g_malloc0(sizeof *read + n * sizeof read->parts[0]);
    read->link.data = read;
    read->reader = r;
    read->n_left = n;
    for (guint i = 0; i < n; i++) {
        guint32 start = i * r->max_request;
        read->parts[i] = (VmbNbdPart){.read = read,
                                      .buffer = buffer + start,
                                      .offset = offset + start,
                                      .length = MIN(length - start, r->max_request)};
        read->parts[i].link.data = &read->parts[i];
    }
    return read;
}

gboolean
vmb_nbd_reader_submit(VmbNbdReader *r, void *buffer, guint64 offset, guint32 length,
                      VmbNbdDone done, gpointer item, gpointer user, GError **error)
{
    if (r->failure != NULL)
        return vmb_nbd_tell(r, error);
    if (length == 0 || length > READ_MAX || offset > r->size || length > r->size - offset)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: a read of %" G_GUINT32_FORMAT
                             " bytes at offset %" G_GUINT64_FORMAT
                             " is too long or beyond the disk's end",
                             r->label, length, offset);
    VmbNbdRead *read = read_new(r, buffer, offset, length);
    read->done = done;
    read->item = item;
    read->user = user;
    g_queue_push_tail_link(&r->reads, &read->link);
    for (guint i = 0; i < read->n_left; i++)
        g_queue_push_tail_link(&r->queue, &read->parts[i].link);
    vmb_nbd_issue(r); /* the next wait tells its failure */
    return TRUE;
}

gboolean
vmb_nbd_reader_has_room(VmbNbdReader *r)
{
    return r->n_issued + r->queue.length < r->max_requests;
}

guint
vmb_nbd_reader_in_flight(VmbNbdReader *r)
{
    return r->reads.length + r->complete.length;
}
