/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One disk of a retired point on its way into the point that builds on it. Shared by the files of the story. */
#pragma once
#include "image/fold.h"
#include "job/fold.h"
#include "repo/fold-record.h"
#include "util/progress.h"

typedef struct {
    VmbRepoDomain *domain;
    GCancellable *cancel;
    GPtrArray *points;
    VmbPoint *parent, *child;
    const VmbManifestDisk *parent_disk, *child_disk;
    char *label; /* "web01/20261121T020000Z disk vda", of the child */
    int points_fd, parent_dir, child_dir;
    int parent_image, parent_digests; /* the image for writing */
    int child_image, child_digests;
    GPtrArray *locks; /* shared ones on both points, while files are written */
    VmbFoldRecord *record;
    guint8 header[VMB_FOLD_HEADER]; /* append: what will be in force */
    GArray *damage; /* guint64 disk offsets: damaged blocks that the child will hold */
    VmbFolded *report;
    VmbProgress *progress;
} VmbFoldRun;

/* fold-write.c: brings the new files to disk, and the record to "ready". FALSE without @error: deferred. */
gboolean vmb_fold_write(VmbFoldRun *run, GError **error);
/* Takes back what was written and not switched. */
gboolean vmb_fold_roll_back(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error);

/* fold-commit.c: from "ready" on: switches, moves files, writes the manifest. FALSE without @error: somebody
 * uses one of the points, so nothing was changed. */
gboolean vmb_fold_commit(VmbFoldRun *run, gboolean *in_use, GError **error);
/* The rest, for a record whose switch has happened. */
gboolean vmb_fold_roll_forward(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error);

/* Opens points/ID of the domain. */
int vmb_fold_open_point(VmbRepoDomain *domain, const char *id, GError **error);
