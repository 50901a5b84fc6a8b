/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a copy: points of one repository become points of another one. */
#pragma once
#include <gio/gio.h>
#include "repo/repository.h"

typedef struct {
    const char *from, *to;   /* paths of repositories */
    const char *const *what; /* "DOMAIN" or "DOMAIN/POINT"; NULL or empty: everything */
    gboolean older;          /* points that are older than the newest one there as well */
    guint max_chain; /* images of a disk's chain there before a full is made of it; 0: a default */
    guint jobs;      /* domains at the same time */
    GCancellable *cancel;
} VmbCopyOptions;

typedef enum {
    VMB_COPY_DONE,
    VMB_COPY_PRESENT, /* it is there already, or was and has been dropped but not removed */
    VMB_COPY_OLDER,   /* older than what the other repository has had: dropped there, perhaps */
    VMB_COPY_DROPPED, /* where it comes from, since it was looked up */
    VMB_COPY_FAILED,
} VmbCopyOutcome;

typedef struct {
    char *domain, *uuid, *point; /* point NULL: the domain as a whole */
    VmbCopyOutcome outcome;
    guint64 bytes;         /* of the new point's files */
    VmbManifest *manifest; /* of the new point, or NULL */
    GError *error;
} VmbCopyResult;
void vmb_copy_result_free(VmbCopyResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbCopyResult, vmb_copy_result_free)

/* Calls @done for each point in turn, from one thread at a time. What the other repository has of a disk's chain
 * is built upon; what lies between is merged, as it is stored, and checked on the way. A point is whole there or it
 * is not there. Nothing more is begun when the other repository is full. FALSE with @error only if nothing could
 * begin, or it was cancelled. */
gboolean vmb_copy(const VmbCopyOptions *options,
                  void (*done)(const VmbCopyResult *result, gpointer data), gpointer data,
                  GError **error);
