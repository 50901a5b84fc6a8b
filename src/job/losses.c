/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which ranges of a disk cannot be read, in memory that does not grow with their number. */
#include "job/losses.h"

VmbLosses *
vmb_losses_new(void)
{
    VmbLosses *losses = g_new0(VmbLosses, 1);
    losses->ranges = g_array_new(FALSE, FALSE, sizeof(VmbLostRange));
    return losses;
}

void
vmb_losses_free(VmbLosses *losses)
{
    if (losses == NULL)
        return;
    g_array_unref(losses->ranges);
    g_free(losses);
}

/* Makes the last range longer, if the new one follows it. */
static gboolean
extend(VmbLosses *losses, guint64 offset, guint64 length, guint layer, VmbLoss loss)
{
    if (losses->ranges->len == 0 || losses->rest != losses->rest_end)
        return FALSE;
    VmbLostRange *last = &g_array_index(losses->ranges, VmbLostRange, losses->ranges->len - 1);
    if (last->offset + last->length != offset || last->layer != layer || last->loss != loss)
        return FALSE;
    last->length += length;
    return TRUE;
}

void
vmb_losses_add(VmbLosses *losses, guint64 offset, guint64 length, guint layer, VmbLoss loss)
{
    losses->bytes += length;
    if (extend(losses, offset, length, layer, loss))
        return;
    if (losses->ranges->len < VMB_LOSSES_MAX) {
        VmbLostRange range = {offset, length, layer, loss};
        g_array_append_val(losses->ranges, range);
        losses->count++;
        return;
    }
    if (losses->rest == losses->rest_end)
        losses->rest = offset;
    else if (losses->rest_end == offset)
        losses->count--; /* it is part of the one before */
    losses->count++;
    losses->rest_end = offset + length;
}
