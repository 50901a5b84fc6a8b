/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much of an image another one above it hides. */
#include "image/overlap.h"
#include "image/qcow2-format.h"

gboolean
vmb_overlap_bytes(VmbQcow2Reader *above, VmbQcow2Reader *below, guint64 *bytes, GError **error)
{
    g_autofree VmbQcow2Entry *high = g_new(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    g_autofree VmbQcow2Entry *low = g_new(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    guint64 end = vmb_qcow2_reader_size(above), size = vmb_qcow2_reader_size(below);
    *bytes = 0;
    for (guint64 index = 0; index < vmb_qcow2_l1_entries(size); index++) {
        guint64 first = index * VMB_QCOW2_L2_SPAN;
        gboolean any_high = FALSE, any_low = FALSE, behind = end < first + VMB_QCOW2_L2_SPAN;
        if (first < end && !vmb_qcow2_reader_table(above, index, high, &any_high, error))
            return FALSE;
        if ((any_high || behind) && !vmb_qcow2_reader_table(below, index, low, &any_low, error))
            return FALSE;
        for (guint i = 0; any_low && i < VMB_QCOW2_L2_ENTRIES; i++)
            if (first + (guint64)i * VMB_BLOCK_SIZE >= end ||
                (any_high && high[i].kind != VMB_BLOCK_ABSENT))
                *bytes += low[i].length;
    }
    return TRUE;
}
