/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Blocks that differ, told as ranges: those of one kind that touch are one. */
#include "job/change-ranges.h"
#include "block/chunk.h"

gboolean
vmb_change_ranges_end(VmbChangeRanges *ranges, GError **error)
{
    guint64 offset = ranges->start, length = ranges->end - ranges->start;
    if (length == 0)
        return TRUE;
    ranges->start = ranges->end;
    *(ranges->zero ? &ranges->view->zero : &ranges->view->data) += length;
    return ranges->emit == NULL ||
           ranges->emit(offset, length, ranges->zero, ranges->user, error);
}

gboolean
vmb_change_ranges_add(VmbChangeRanges *ranges, guint64 offset, gboolean zero, GError **error)
{
    gboolean follows =
        ranges->end > ranges->start && ranges->end == offset && ranges->zero == zero;
    if (!follows && !vmb_change_ranges_end(ranges, error))
        return FALSE;
    if (!follows)
        ranges->start = offset;
    ranges->end = MIN(offset + VMB_BLOCK_SIZE, ranges->view->size);
    ranges->zero = zero;
    return TRUE;
}
