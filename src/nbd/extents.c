/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block status: asking for a range, checking the replies, merging two contexts. */
#include "nbd/extents.h"
#include "nbd/reader-internal.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

/* Lengths of the protocol have 32 bits; 3.5 GiB is a multiple of any block size below them. */
#define ASK_MAX (7u * 512u * 1024u * 1024u)
#define FLAG_DIRTY 1u /* bit 0 of qemu:dirty-bitmap:NAME (QEMU, docs/interop/nbd.txt) */

const char *
vmb_nbd_runs_parse(GArray *runs, const guint32 *entries, gsize n_entries, guint64 limit)
{
    guint64 sum = 0;
    if (n_entries == 0 || n_entries % 2 != 0)
        return "a reply without whole extents";
    for (gsize i = 0; i < n_entries; i += 2) {
        VmbNbdRun run = {.length = entries[i], .flags = entries[i + 1]};
        if (run.length == 0)
            return "an extent without length";
        if (sum >= limit)
            return "extents beyond the range that was asked for";
        run.length = MIN(run.length, limit - sum);
        sum += run.length;
        g_array_append_val(runs, run);
    }
    return NULL;
}

static void
append(GArray *extents, VmbNbdExtent extent)
{
    if (extents->len > 0) {
        VmbNbdExtent *last = &g_array_index(extents, VmbNbdExtent, extents->len - 1);
        if (last->dirty == extent.dirty && last->zero == extent.zero &&
            last->offset + last->length == extent.offset) {
            last->length += extent.length;
            return;
        }
    }
    g_array_append_val(extents, extent);
}

/* A place within the runs of one context. */
typedef struct {
    const GArray *runs;
    guint index;
    guint64 left; /* of the run at index */
} Cursor;

static Cursor
cursor_start(const GArray *runs)
{
    Cursor cursor = {.runs = runs};
    if (runs->len > 0)
        cursor.left = g_array_index(runs, VmbNbdRun, 0).length;
    return cursor;
}

static guint32
cursor_flags(const Cursor *cursor)
{
    return g_array_index(cursor->runs, VmbNbdRun, cursor->index).flags;
}

static void
cursor_advance(Cursor *cursor, guint64 length)
{
    cursor->left -= length;
    if (cursor->left == 0 && ++cursor->index < cursor->runs->len)
        cursor->left = g_array_index(cursor->runs, VmbNbdRun, cursor->index).length;
}

guint64
vmb_nbd_extents_merge(const GArray *base, const GArray *dirty, guint64 offset, GArray *extents)
{
    Cursor b = cursor_start(base);
    Cursor d = cursor_start(dirty != NULL ? dirty : base);
    guint64 told = 0;
    while (b.left > 0 && d.left > 0) {
        guint64 length = MIN(b.left, d.left);
        append(extents, (VmbNbdExtent){
                            .offset = offset + told,
                            .length = length,
                            .dirty = dirty == NULL || (cursor_flags(&d) & FLAG_DIRTY) != 0,
                            .zero = (cursor_flags(&b) & LIBNBD_STATE_ZERO) != 0,
                        });
        told += length;
        cursor_advance(&b, length);
        cursor_advance(&d, length);
    }
    return told;
}

/* libnbd calls this once per context and reply, within a call that drives the connection. */
static int
on_extents(void *user, const char *context, uint64_t offset, uint32_t *entries, size_t n_entries,
           int *error)
{
    VmbNbdReader *r = user;
    VmbNbdStatus *status = &r->status;
    GArray *runs = NULL;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0)
        runs = status->base;
    else if (r->dirty_context != NULL && strcmp(context, r->dirty_context) == 0)
        runs = status->dirty;
    if (runs == NULL)
        return 0;
    const char *wrong = runs->len > 0
                            ? "two replies for one context"
                            : vmb_nbd_runs_parse(runs, entries, n_entries, status->length);
    if (wrong == NULL)
        return 0;
    if (status->wrong == NULL)
        status->wrong = wrong;
    *error = EPROTO;
    return -1;
}

static int
on_complete(void *user, int *error)
{
    VmbNbdReader *r = user;
    r->status.pending = FALSE;
    return 0;
}

static gboolean
check_status(VmbNbdReader *r, guint64 offset)
{
    VmbNbdStatus *status = &r->status;
    int result = nbd_aio_command_completed(r->nbd, (uint64_t)status->cookie);
    if (status->wrong == NULL && result > 0 && status->base->len == 0)
        status->wrong = "no reply for base:allocation";
    if (status->wrong == NULL && result > 0 && r->dirty_context != NULL && status->dirty->len == 0)
        status->wrong = "no reply for the dirty bitmap";
    if (status->wrong != NULL)
        return vmb_nbd_fail(r, g_error_new(VMB_ERROR, VMB_ERROR_FAILED,
                                           "%s: bad answer of the NBD server to block status at "
                                           "offset %" G_GUINT64_FORMAT ": %s",
                                           r->label, offset, status->wrong));
    if (result <= 0)
        return vmb_nbd_fail(r, g_error_new(VMB_ERROR, VMB_ERROR_FAILED,
                                           "%s: the NBD server cannot tell the block status at "
                                           "offset %" G_GUINT64_FORMAT ": %s",
                                           r->label, offset, g_strerror(nbd_get_errno())));
    return TRUE;
}

/* One request; the answer is in status.base and status.dirty. Reads in flight go on meanwhile. */
static gboolean
ask(VmbNbdReader *r, guint64 offset, guint64 length)
{
    VmbNbdStatus *status = &r->status;
    g_array_set_size(status->base, 0);
    g_array_set_size(status->dirty, 0);
    status->wrong = NULL;
    status->length = length;
    vmb_nbd_begin_waiting(r);
    status->pending = TRUE;
    status->cookie = nbd_aio_block_status(
        r->nbd, length, offset, (nbd_extent_callback){.callback = on_extents, .user_data = r},
        (nbd_completion_callback){.callback = on_complete, .user_data = r}, 0);
    if (status->cookie < 0) {
        status->pending = FALSE;
        return vmb_nbd_fail_here(r, "cannot ask for the block status");
    }
    while (status->pending || vmb_nbd_is_dead(r)) {
        gboolean woke = FALSE;
        if (!vmb_nbd_step(r, -1, &woke))
            return FALSE;
    }
    return check_status(r, offset);
}

gboolean
vmb_nbd_reader_extents(VmbNbdReader *r, guint64 offset, guint64 length, GArray *extents,
                       GError **error)
{
    g_array_set_size(extents, 0);
    if (offset > r->size || length > r->size - offset)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: block status of %" G_GUINT64_FORMAT
                             " bytes at offset %" G_GUINT64_FORMAT " is beyond the disk's end",
                             r->label, length, offset);
    while (length > 0) {
        if (r->failure != NULL || !ask(r, offset, MIN(length, ASK_MAX)))
            return vmb_nbd_tell(r, error);
        const GArray *dirty = r->dirty_context != NULL ? r->status.dirty : NULL;
        guint64 told = vmb_nbd_extents_merge(r->status.base, dirty, offset, extents);
        g_assert(told > 0 && told <= length); /* by vmb_nbd_runs_parse() and check_status() */
        offset += told;
        length -= told;
    }
    return TRUE;
}
