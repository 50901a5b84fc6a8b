/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backup does with each block, by what bitmap, allocation and the parent's map say. */
#include "job/disk-backup.h"
#include "nbd/reader.h"
#include "util/units.h"

#include <string.h>

/* Blocks that [offset, offset + length) touches (outward) or covers (inward, where the end of the disk
 * completes the last block), as indexes into the window. */
static void
outward(guint64 window, guint64 offset, guint64 length, guint *first, guint *end)
{
    *first = (guint)((offset - window) / VMB_BLOCK_SIZE);
    *end = (guint)((offset - window + length + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE);
}

static void
inward(guint64 window, guint64 size, guint64 offset, guint64 length, guint *first, guint *end)
{
    guint64 stop = offset + length;
    *first = (guint)((offset - window + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE);
    if (stop == size)
        stop = vmb_round_up(stop, VMB_BLOCK_SIZE);
    *end = (guint)((stop - window) / VMB_BLOCK_SIZE);
}

enum { DIRTY = 1, ZERO = 2 };

static void
mark_extents(guint64 offset, guint n_blocks, guint64 size, const GArray *extents, guint8 *marks)
{
    memset(marks, 0, n_blocks);
    for (guint i = 0; i < extents->len; i++) {
        VmbNbdExtent extent = g_array_index(extents, VmbNbdExtent, i);
        guint first, end;
        /* The query may span several windows. */
        guint64 start = MAX(extent.offset, offset);
        guint64 stop = MIN(extent.offset + extent.length,
                           MIN(size, offset + (guint64)n_blocks * VMB_BLOCK_SIZE));
        if (start >= stop)
            continue;
        if (extent.dirty) {
            outward(offset, start, stop - start, &first, &end);
            for (guint b = first; b < MIN(end, n_blocks); b++)
                marks[b] |= DIRTY;
        }
        if (extent.zero) {
            inward(offset, size, start, stop - start, &first, &end);
            for (guint b = first; b < MIN(end, n_blocks); b++)
                marks[b] |= ZERO;
        }
    }
}

/* Zero extents that touch must count as one: each block needs to be covered by their union. */
static GArray *
join_zeroes(const GArray *extents)
{
    GArray *joined = g_array_sized_new(FALSE, FALSE, sizeof(VmbNbdExtent), extents->len);
    for (guint i = 0; i < extents->len; i++) {
        VmbNbdExtent extent = g_array_index(extents, VmbNbdExtent, i);
        VmbNbdExtent *last =
            joined->len > 0 ? &g_array_index(joined, VmbNbdExtent, joined->len - 1) : NULL;
        if (last != NULL && last->zero && extent.zero &&
            last->offset + last->length == extent.offset) {
            last->length += extent.length;
            last->dirty = FALSE;
        } else if (extent.zero) {
            g_array_append_val(joined, extent);
        }
    }
    for (guint i = 0; i < joined->len; i++)
        g_array_index(joined, VmbNbdExtent, i).dirty = FALSE;
    return joined;
}

/* Most windows of a large disk are one extent in which nothing has happened. */
static gboolean
is_idle(guint64 offset, guint64 end, const GArray *extents, guint64 dirty_from,
        guint64 suspect_from, const VmbChainWindow *parent)
{
    if (extents->len != 1)
        return FALSE;
    const VmbNbdExtent *extent = &g_array_index(extents, VmbNbdExtent, 0);
    if (extent->offset > offset || extent->offset + extent->length < end)
        return FALSE;
    if (parent == NULL)
        return extent->zero;
    if (extent->dirty || end > dirty_from)
        return FALSE;
    return extent->zero ? parent->empty : end <= suspect_from;
}

gboolean
vmb_disk_backup_plan(guint64 offset, guint n_blocks, guint64 size, const GArray *extents,
                     guint64 dirty_from, guint64 suspect_from, const VmbChainWindow *parent,
                     guint8 *actions, guint64 *contradicted_blocks)
{
    guint64 window_end = MIN(size, offset + (guint64)n_blocks * VMB_BLOCK_SIZE);
    if (is_idle(offset, window_end, extents, dirty_from, suspect_from, parent)) {
        gboolean zero = g_array_index(extents, VmbNbdExtent, 0).zero;
        memset(actions, zero ? VMB_ACTION_SKIP : VMB_ACTION_TRUST, n_blocks);
        return FALSE;
    }
    g_autoptr(GArray) zeroes = join_zeroes(extents);
    g_autofree guint8 *zero_marks = g_malloc(n_blocks);
    mark_extents(offset, n_blocks, size, extents, actions);
    mark_extents(offset, n_blocks, size, zeroes, zero_marks);
    for (guint b = 0; b < n_blocks; b++) {
        guint64 end = offset + ((guint64)b + 1) * VMB_BLOCK_SIZE;
        gboolean dirty = (actions[b] & DIRTY) != 0 || end > dirty_from;
        gboolean zero = (zero_marks[b] & ZERO) != 0;
        if (parent == NULL) {
            actions[b] = zero ? VMB_ACTION_SKIP : VMB_ACTION_READ;
        } else if (dirty) {
            actions[b] = zero ? VMB_ACTION_ZERO : VMB_ACTION_READ;
        } else {
            gboolean holds_data = b < parent->n_blocks &&
                                  (parent->blocks[b].kind == VMB_BLOCK_PLAIN ||
                                   parent->blocks[b].kind == VMB_BLOCK_COMPRESSED);
            gboolean suspect = end > suspect_from;
            actions[b] = !zero        ? (suspect ? VMB_ACTION_READ : VMB_ACTION_TRUST)
                         : holds_data ? VMB_ACTION_VANISHED
                                      : VMB_ACTION_SKIP;
            *contradicted_blocks += zero && holds_data ? 1 : 0;
        }
    }
    return TRUE;
}

void
vmb_disk_backup_survey(guint64 offset, guint n_blocks, guint64 size, const GArray *extents,
                       guint64 unit, guint64 *suspect_from)
{
    if (size <= offset)
        return;
    guint unit_blocks = (guint)(unit / VMB_BLOCK_SIZE);
    guint n = (guint)MIN(n_blocks, (size - offset + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE);
    g_autoptr(GArray) zeroes = join_zeroes(extents);
    g_autofree guint8 *dirty = g_malloc(n);
    g_autofree guint8 *zero = g_malloc(n);
    mark_extents(offset, n, size, extents, dirty);
    mark_extents(offset, n, size, zeroes, zero);
    for (guint first = 0; first < n; first += unit_blocks) {
        gboolean any_dirty = FALSE, any_kept = FALSE;
        for (guint b = first; b < MIN(first + unit_blocks, n); b++) {
            any_dirty |= (dirty[b] & DIRTY) != 0;
            any_kept |= (dirty[b] & DIRTY) == 0 && (zero[b] & ZERO) == 0;
        }
        if (any_kept && (!any_dirty || *suspect_from == G_MAXUINT64))
            *suspect_from = offset + (guint64)first * VMB_BLOCK_SIZE;
    }
}
