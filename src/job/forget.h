/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a forget: points that a user names are dropped, or all of a domain. */
#pragma once
#include "job/drop.h"

typedef struct {
    const char *repository;
    const char *const *what; /* "DOMAIN/POINT", or "DOMAIN" with @all; NULL-terminated */
    gboolean all;            /* every point of the domains */
    gboolean force;          /* protected points as well, and the newest that can be restored */
    gboolean dry_run;        /* nothing is changed, no lock is taken */
    gboolean no_fold;        /* hide what is dropped, and leave its data for later */
    GCancellable *cancel;
} VmbForgetOptions;

/* Checks that all that is named may be dropped, then drops it and calls @done for each domain: its
 * result has the named points only. FALSE with @error if nothing was begun: VMB_ERROR_USAGE (a
 * domain without point and without @all, or the reverse), VMB_ERROR_DOMAIN for what is not there,
 * is protected or is the newest point that can be restored. With @all the domain's writer lock is
 * held, so that no backup builds on what is going: VMB_ERROR_LOCKED in the result while one runs.
 */
gboolean vmb_forget(const VmbForgetOptions *options,
                    void (*done)(const VmbDropResult *result, gpointer data), gpointer data,
                    GError **error);
