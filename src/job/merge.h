/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One image out of the newest layers of a chain, from blocks as they are stored. */
#pragma once
#include <gio/gio.h>
#include "repo/repository.h"
#include "util/progress.h"

typedef struct {
    const GArray *links; /* from vmb_repo_chain(), the newest first */
    guint n_layers;      /* so many of them are merged */
    const char *domain;  /* its name, for messages */
    const char *backing_file; /* for the header; NULL if no layer is left below: a full */
    int image_fd, digests_fd; /* empty files */
    gboolean keep_damage;     /* a damaged block becomes zero and is told; else it is an error */
    GCancellable *cancel;
    VmbProgress *progress; /* may be NULL; stored bytes of guest data as they pass */
} VmbMerge;

/* Writes image and digests, with the size of the newest layer, and fills in what @entry says of both files.
 * Nothing is compressed again; each block is checked against its digest, each digest file and each image's tables
 * against the manifests. *@damage (may be NULL unless keep_damage) gets the disk offsets (guint64) of damaged
 * blocks. No fsync. Errors: VMB_ERROR_DAMAGE; VMB_ERROR_FAILED if layers of different
 * sizes cannot be merged without what lies below. */
gboolean vmb_merge_layers(const VmbMerge *merge, VmbManifestDisk *entry, GArray *damage,
                          GError **error);
