/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The digests of an image into which another one was folded: those of both, the newer ones first. */
#pragma once
#include "image/fold.h"

/* Merges the digest files of @options into its digests_out, and fills in the digests of @result. @full: the
 * result has no backing file, and needs no explicit zeroes. Streams. */
gboolean vmb_fold_digests(const VmbFoldOptions *options, gboolean full, VmbFoldResult *result,
                          GError **error);
