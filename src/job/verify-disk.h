/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying one image of a point with its digests, byte by byte or only its metadata. */
#pragma once
#include <gio/gio.h>
#include "repo/check.h"

typedef struct {
    VmbPoint *point;
    const VmbManifestDisk *disk;
    const char *domain;
    gboolean quick;        /* only tables and digests, and whether they agree; no data */
    GCancellable *cancel;
    guint64 *bytes;        /* raised by the bytes read */
    GPtrArray *findings;   /* what is wrong is appended, with its offset */
} VmbVerifyDisk;

/* Checks tables, padding, refcounts, each stored block and the digest file. FALSE only when it was
 * cancelled. */
gboolean vmb_verify_disk(const VmbVerifyDisk *job, GError **error);
