/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a release: a domain loses every trace of a repository. */
#pragma once
#include <gio/gio.h>

typedef struct {
    const char *uri;        /* NULL: libvirt's default */
    const char *repository; /* path; NULL with repository_id */
    const char
        *repository_id; /* of one that is gone: 8 or 32 hexadecimal digits; NULL with repository */
    const char *domain; /* name or UUID */
    const GPtrArray *consumers; /* char *: only these and their checkpoints; empty: everything */
    gboolean dry_run;   /* only look; takes no locks */
    GCancellable *cancel;
} VmbReleaseOptions;

typedef struct {
    char *name;
    gboolean recorded; /* libvirt knew it */
    gboolean stored;   /* an image had a bitmap of that name */
    GError *error; /* why something of it is still there; NULL: it is gone (dry run: it would be) */
} VmbReleasedCheckpoint;

typedef struct {
    char *domain, *uuid;
    char *repository_id;    /* its first 8 digits */
    gboolean gone;          /* libvirt does not know the domain: only leftovers on this host went */
    GPtrArray *checkpoints; /* VmbReleasedCheckpoint */
    GPtrArray *consumers;   /* char *: those that are forgotten (dry run: would be) */
    GPtrArray *reasons;     /* VmbReason: what else was undone */
    GPtrArray *unread;      /* char *: targets of disks whose images could not be looked into */
} VmbRelease;
void vmb_release_free(VmbRelease *release);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRelease, vmb_release_free)

/* Undoes dead runs as the next backup would, then deletes all checkpoints and bitmaps of the
 * repository, needed ones too; points stay, and the next backup compares. With consumers, only what
 * belongs to these. Nothing of other repositories or programs is touched. Errors: VMB_ERROR_USAGE for an id of another form,
 * VMB_ERROR_LOCKED while a backup of the domain runs, VMB_ERROR_DOMAIN if neither libvirt nor the
 * repository knows the domain, or it has no such consumer, VMB_ERROR_NO_REPOSITORY. */
VmbRelease *vmb_release_domain(const VmbReleaseOptions *options, GError **error);
