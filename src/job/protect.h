/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a mark: points are protected from being dropped, or get tags. */
#pragma once
#include <gio/gio.h>
#include "repo/state.h"

typedef enum { VMB_PROTECT_KEEP, VMB_PROTECT_ON, VMB_PROTECT_OFF } VmbProtection;

typedef struct {
    const char *repository;
    const char *const *what;   /* "DOMAIN/POINT", NULL-terminated */
    VmbProtection protection;  /* VMB_PROTECT_KEEP: as it is */
    const char *const *tags;   /* to add, NULL-terminated; NULL: none */
    const char *const *untags; /* to take away, likewise; of a tag in both, adding counts */
    GCancellable *cancel;
} VmbProtectOptions;

/* What became of one point. */
typedef struct {
    char *domain, *uuid, *point;
    VmbPointState state; /* as it is now */
    GError *error;       /* nothing was changed; NULL: done */
} VmbProtectResult;
void vmb_protect_result_free(VmbProtectResult *result);

/* Marks all that are named, or none if one of them is not there. GPtrArray of VmbProtectResult,
 * each point once. Errors: VMB_ERROR_USAGE for what is no tag; those of vmb_repository_find_point()
 * and vmb_repository_check_writable(); VMB_ERROR_CANCELLED. */
GPtrArray *vmb_protect(const VmbProtectOptions *options, GError **error);
