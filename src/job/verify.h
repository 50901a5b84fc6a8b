/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a verification: everything of a point is read back and compared with its digests. */
#pragma once
#include <gio/gio.h>
#include "repo/check.h"

typedef struct {
    const char *repository;
    const char *const *what;  /* "DOMAIN", or "DOMAIN/POINT" with all points that it builds
                               * on; NULL or empty: everything */
    guint jobs;               /* points at a time; 0: one (each uses all processors) */
    GCancellable *cancel;
} VmbVerifyOptions;

typedef struct {
    char *domain, *uuid, *point;
    guint64 bytes;            /* stored bytes read */
    GPtrArray *findings;      /* VmbFinding; empty: whole */
    GError *error;            /* the point could not be read at all for another reason than damage */
} VmbVerifyResult;
void vmb_verify_result_free(VmbVerifyResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbVerifyResult, vmb_verify_result_free)

/* Calls @done for each point, never twice at once, in the order of their ends. FALSE with @error only if
 * it could not begin (no repository, unknown domain) or was cancelled. A point whose parent is damaged is
 * itself reported whole, with a finding that says that it cannot be restored. The result is also written
 * to the points' state.json where the repository is writable. */
gboolean vmb_verify(const VmbVerifyOptions *options,
                    void (*done)(const VmbVerifyResult *result, gpointer data), gpointer data,
                    GError **error);
