/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much of an image another one above it hides. */
#include "image/overlap.h"
#include "image/qcow2-format.h"

gboolean
vmb_overlap_bytes(VmbQcow2Reader *above, VmbQcow2Reader *below, guint64 *bytes, GError **error)
{
    g_autofree VmbQcow2Entry *high = g_new(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    g_autofree VmbQcow2Entry *low = g_new(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    guint64 size = MIN(vmb_qcow2_reader_size(above), vmb_qcow2_reader_size(below));
    *bytes = 0;
    for (guint64 index = 0; index < vmb_qcow2_l1_entries(size); index++) {
        gboolean any_high = FALSE, any_low = FALSE;
        if (!vmb_qcow2_reader_table(above, index, high, &any_high, error) ||
            (any_high && !vmb_qcow2_reader_table(below, index, low, &any_low, error)))
            return FALSE;
        for (guint i = 0; any_high && any_low && i < VMB_QCOW2_L2_ENTRIES; i++)
            if (high[i].kind != VMB_BLOCK_ABSENT)
                *bytes += low[i].length;
    }
    return TRUE;
}
