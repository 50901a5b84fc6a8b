/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One point on its way into another repository. Shared by the files of the story. */
#pragma once
#include "job/copy.h"
#include "util/progress.h"

typedef struct {
    VmbRepoDomain *to;
    GPtrArray *from_points, *to_points; /* all of the domain, on both sides */
    VmbPoint *point;                    /* of from_points, pinned */
    const char *name;                   /* the domain's */
    GCancellable *cancel;
} VmbCopyPoint;

/* Writes and publishes it. *@manifest: that of the new point. */
gboolean vmb_copy_point(const VmbCopyPoint *copy, VmbManifest **manifest, GError **error);
