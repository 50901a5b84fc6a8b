/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One domain's part of a prune or a forget: its points, what is to become of them, and what became.
 */
#pragma once
#include <gio/gio.h>
#include "job/fold.h"
#include "repo/retention.h"
#include "repo/summary.h"

typedef struct {
    char *id;
    gboolean unreadable; /* its manifest is damaged: no sequence and time */
    guint64 sequence;
    gint64 time_ns;
    gboolean is_protected; /* or nobody knows, as its state cannot be read */
    VmbRetentionVerdict verdict;
    char *why, *period; /* in words; of the rule, or NULL */
    guint64 frees;      /* bytes that dropping it alone would free; VMB_BYTES_UNKNOWN */
    gboolean dropped;   /* it is gone */
    GError *error;      /* why it is still there although nothing keeps it */
} VmbDropEntry;

typedef struct {
    char *uuid, *domain;             /* domain: its name; NULL if no point tells it */
    GPtrArray *points;               /* VmbDropEntry, in order, those that cannot be read last */
    guint n_kept, n_dropped, n_held; /* held: to be dropped, but still there */
    GPtrArray *folds;                /* VmbFolded: what became of the data of dropped points */
    guint n_checkpoints;             /* that libvirt may still have, and the next backup deletes */
    guint n_deferred;                /* folds that are left to a later prune */
    guint64 freed;                   /* bytes, by folding */
    guint64 frees;                   /* of those to be dropped, as far as it is known */
    GError *error;                   /* VMB_ERROR_LOCKED: somebody else is at it */
} VmbDropResult;

VmbDropResult *vmb_drop_result_new(const char *uuid);
void vmb_drop_result_free(VmbDropResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDropResult, vmb_drop_result_free)

/* Forgets the points, for another decision. */
void vmb_drop_result_reset(VmbDropResult *result);
/* Name or UUID, for messages. */
const char *vmb_drop_result_name(const VmbDropResult *result);
/* Looks it up for a domain whose points were not read. */
void vmb_drop_result_find_name(VmbDropResult *result, VmbRepoDomain *domain);
/* Takes the name from the newest of @summaries that has one. */
void vmb_drop_result_set_name(VmbDropResult *result, const GPtrArray *summaries);
/* Appends a point and counts it by @verdict; the caller fills in the words. */
VmbDropEntry *vmb_drop_result_add(VmbDropResult *result, const VmbSummary *summary, guint64 frees,
                                  const VmbRetentionVerdict *verdict);

/* Under the domain's maintenance lock: hides all points of @result that are not kept, and notes
 * what became of each. @even_protected: also those that are protected. Errors: VMB_ERROR_CANCELLED;
 * what keeps all of it from being done. */
gboolean vmb_drop_hide(VmbRepoDomain *domain, VmbDropResult *result, gboolean even_protected,
                       GCancellable *cancel, GError **error);

/* Whether there is something for vmb_drop_fold(). */
gboolean vmb_drop_is_fold_due(VmbRepoDomain *domain, const GPtrArray *summaries,
                              const VmbDropResult *result);
/* Under the same lock: folds and removes what is hidden, by this run or an earlier one. The writer
 * lock must not be held by the caller. @summaries: as they were before. Errors: as
 * vmb_fold_domain(), and the first of a single fold. */
gboolean vmb_drop_fold(VmbRepoDomain *domain, const GPtrArray *summaries, VmbDropResult *result,
                       GCancellable *cancel, GError **error);
