/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads what a fold has copied back, before anything depends on it. */
#pragma once
#include "image/fold.h"

/* Reads each block that the child of @options stores back from the parent's image through the tables of @header (a
 * cluster), and all tables and digests with it. Blocks that do not match their digest are appended to
 * @result->damage if the child itself does not have them otherwise. Errors: VMB_ERROR_DAMAGE;
 * VMB_ERROR_FAILED if the copy is not what was copied. */
gboolean vmb_fold_check(const VmbFoldOptions *options, const guint8 *header, VmbFoldResult *result,
                        GError **error);
