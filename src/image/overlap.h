/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much of an image another one above it hides. */
#pragma once
#include "image/qcow2-reader.h"

/* Stored bytes of blocks of @below that @above hides: with data, with zeroes, or because it ends before them;
 * for frames an upper bound. Reads tables, no data. Errors: VMB_ERROR_DAMAGE. */
gboolean vmb_overlap_bytes(VmbQcow2Reader *above, VmbQcow2Reader *below, guint64 *bytes,
                           GError **error);
