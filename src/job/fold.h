/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What becomes of dropped points: their data is folded into the points that build on it, then they are removed. */
#pragma once
#include <gio/gio.h>
#include "repo/retire.h"

/* What became of one disk of a retired point, or (disk NULL) of the point itself. */
typedef struct {
    char *domain, *point; /* the retired point */
    char *disk;           /* target, or NULL */
    char *child;          /* the point that took the disk's data up; NULL: none needed it */
    char *mode;           /* "append", "clone", "rewrite"; NULL: nothing was written */
    guint64 copied;       /* stored bytes that were written */
    guint64 freed;        /* bytes that the files are smaller together */
    guint checkpoints;    /* names that the journal got, as libvirt may still have them */
    char *deferred;       /* why it was left for another time, or NULL */
    GError *error;        /* why it cannot be done, or NULL; everything reads as before */
} VmbFolded;
void vmb_folded_free(VmbFolded *folded);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbFolded, vmb_folded_free)

typedef struct {
    GCancellable *cancel;
    void (*done)(const VmbFolded *folded, gpointer data); /* may be NULL */
    gpointer data;
} VmbFoldDomainOptions;

/* Under the domain's maintenance lock: finishes or undoes what a dead run has left, then removes retired points
 * that nothing builds on, and folds the others, the oldest first; tells of each. What is in use is
 * deferred, and all of it while some point cannot be read, for nobody knows what that builds on. The
 * child reads the same at each instant, whatever stops this. FALSE with @error only if it could not be begun or was
 * cancelled. */
gboolean vmb_fold_domain(VmbRepoDomain *domain, const VmbFoldDomainOptions *options,
                         GError **error);

/* The first part of that alone: what a dead run has left is finished or undone, and nothing is begun. What is in use
 * is deferred. */
gboolean vmb_fold_tidy(VmbRepoDomain *domain, const VmbFoldDomainOptions *options, GError **error);

/* Whether a run that died has left something for vmb_fold_tidy(). */
gboolean vmb_fold_has_leftover(VmbRepoDomain *domain);
