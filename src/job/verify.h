/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a verification: points are read back and compared with their digests. */
#pragma once
#include <gio/gio.h>
#include "job/verify-select.h"
#include "repo/check.h"

typedef struct {
    const char *repository;
    const char *const *what;  /* "DOMAIN", or "DOMAIN/POINT" with all points that it builds
                               * on; NULL or empty: everything */
    gboolean quick;           /* structure, sizes and digests of metadata; no data is read */
    guint sample;             /* VMB_VERIFY_ALL, or so many millionths of the stored bytes, the longest
                               * unverified first */
    guint64 older_than_ns;    /* only points whose last full verification is older; 0: all */
    guint jobs;               /* points at a time; 0: one (each uses all processors) */
    GCancellable *cancel;
} VmbVerifyOptions;

typedef struct {
    char *domain, *uuid, *point;
    gboolean retired;         /* no point any more, but others need some of its data */
    guint64 bytes;            /* stored bytes read */
    GPtrArray *findings;      /* VmbFinding; empty: whole */
    GPtrArray *advice;        /* char *: what to do about the findings, a sentence each */
    GError *error;            /* the point could not be read at all for another reason than damage */
} VmbVerifyResult;
void vmb_verify_result_free(VmbVerifyResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbVerifyResult, vmb_verify_result_free)

/* All that could have been read. */
typedef struct {
    guint points;
    guint64 bytes;
} VmbVerifyTotal;

/* Calls @done for each point, never twice at once, in the order of their ends. FALSE with @error only if
 * it could not begin (no repository, unknown domain) or was cancelled. A point whose parent is damaged is
 * itself reported whole, unless it cannot be restored at all; the parent's findings name it. Points are
 * locked, with what they build on, while they are read, some at a time; one that is removed before its turn
 * is left out. The result is also written to the points' state.json where the repository is writable. */
gboolean vmb_verify(const VmbVerifyOptions *options,
                    void (*done)(const VmbVerifyResult *result, gpointer data), gpointer data,
                    VmbVerifyTotal *total, GError **error);
