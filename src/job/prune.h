/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a prune: a policy decides, domain by domain, and what it does not keep is dropped.
 */
#pragma once
#include "job/drop.h"

typedef struct {
    const char *repository;
    const char *const *domains; /* names or UUIDs, NULL-terminated; NULL or empty: all */
    VmbRetentionPolicy policy;
    GTimeZone *zone;  /* whose calendar counts */
    gboolean dry_run; /* only decide: nothing is changed, no lock is taken */
    gboolean no_fold; /* hide what is dropped, and leave its data for later */
    GCancellable *cancel;
} VmbPruneOptions;

/* Calls @done for each domain. The newest point that can be restored, protected ones, those whose
 * state or manifest cannot be read and those of the future stay, whatever the policy says: see
 * repo/retention.h. FALSE with @error if it could not begin: VMB_ERROR_USAGE for a policy that asks
 * for nothing, no repository, one that cannot be written, an unknown domain. */
gboolean vmb_prune(const VmbPruneOptions *options,
                   void (*done)(const VmbDropResult *result, gpointer data), gpointer data,
                   GError **error);
