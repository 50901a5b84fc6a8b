/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One domain, one point, one disk on their way into another repository. Shared by the files of the story. */
#pragma once
#include "job/copy.h"
#include "util/progress.h"

/* What is wanted of a domain: all points, or some. */
typedef struct {
    char *uuid;
    GHashTable *ids; /* NULL: all */
} VmbCopyWanted;

typedef struct {
    const VmbCopyOptions *options;
    VmbRepository *from, *to;
    void (*done)(const VmbCopyResult *result, gpointer data);
    gpointer data;
    GMutex lock;   /* of done() */
    gint no_space; /* atomic: the other repository is full, nothing more is begun */
} VmbCopy;

/* Tells of it; safe from several threads. */
void vmb_copy_tell(VmbCopy *copy, const VmbCopyResult *result);
VmbCopyResult *vmb_copy_result_new(const char *domain, const char *uuid, const char *point);

/* copy-domain.c: copies what is wanted of one domain and tells of each point. FALSE with @error: nothing was begun,
 * or it was cancelled. */
gboolean vmb_copy_domain(VmbCopy *copy, const VmbCopyWanted *wanted, GError **error);

/* copy-base.c: on what of the other repository the copy of a disk is put. */
typedef struct {
    GArray *links;  /* the disk's chain where it comes from, from vmb_repo_chain() */
    guint n_layers; /* so many of them become one */
    VmbPoint *parent; /* borrowed from the other repository's points; NULL: the copy is a full */
    const VmbManifestDisk *parent_disk;
    GArray *below;      /* the chain of @parent there, from vmb_repo_chain() */
    guint n_between;    /* so many layers of it are newer than the point that both chains have */
    gboolean at_limit;  /* a full because the chain there would get too long */
    char *why;          /* why a full, where one might wonder; or NULL */
} VmbCopyBase;
void vmb_copy_base_free(VmbCopyBase *base);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbCopyBase, vmb_copy_base_free)

/* Looks only at manifests and states. Chains stay linear: what is there has at most one child. @links is taken. */
VmbCopyBase *vmb_copy_base_find(GArray *links, GPtrArray *to_points, guint max_chain);
/* With both chains pinned: looks into the images there, and falls back to a full where what is there cannot be
 * built upon. Errors: VMB_ERROR_CANCELLED. */
gboolean vmb_copy_base_check(VmbCopyBase *base, const char *domain, GCancellable *cancel,
                             GError **error);

/* The same point, copied or not. */
gboolean vmb_copy_is_same(const VmbManifest *a, const VmbManifest *b);

/* copy-point.c */
typedef struct {
    VmbRepoDomain *to;
    GPtrArray *from_points; /* all of the domain */
    VmbPoint *point;        /* of from_points, pinned */
    const char *name;       /* the domain's */
    const char *to_path;    /* of the other repository */
    guint max_chain;
    GCancellable *cancel;
} VmbCopyPoint;

/* Writes and publishes it. *@manifest: that of the new point. */
gboolean vmb_copy_point(const VmbCopyPoint *copy, VmbManifest **manifest, GError **error);
