/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying one image of a point with its digests, byte by byte. */
#pragma once
#include <gio/gio.h>
#include "repo/check.h"

/* Checks tables, padding, refcounts, each stored block and the digest file of @disk in @point; what is
 * wrong is appended to @findings with its offset. *@bytes is raised by the bytes read. FALSE only when it
 * was cancelled. */
gboolean vmb_verify_disk(VmbPoint *point, const VmbManifestDisk *disk, const char *domain,
                         GCancellable *cancel, guint64 *bytes, GPtrArray *findings, GError **error);
