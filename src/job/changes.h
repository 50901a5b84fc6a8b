/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What differs between two points of a domain: by digests, so that it does not matter what lies between them. */
#pragma once
#include <gio/gio.h>
#include "repo/repository.h"

/* One disk of the newer point. */
typedef struct {
    const char *target, *id; /* as the newer point names them; borrowed */
    guint64 size;            /* bytes, as a guest sees them; */
    guint64 since_size;      /* in the older point; 0 if that does not hold the disk */
    gboolean is_new;         /* the older point does not hold it: it is compared with zeroes */
    guint64 data, zero;      /* bytes that differ, and now are data or zero; set by vmb_changes_read() */
} VmbChangedDisk;

/* Two points, opened and kept as they are. */
typedef struct VmbChanges VmbChanges;

/* @older, @newer: "DOMAIN/POINT" of one domain; in any order of time. @disks: targets in the newer point
 * (NULL-terminated; NULL or empty: all). Errors: as of vmb_repository_find_point(); VMB_ERROR_USAGE for two domains, and
 * for a disk that the newer point does not hold; VMB_ERROR_DAMAGE for digests that are not what the manifests
 * say: then nobody can tell what has changed. */
VmbChanges *vmb_changes_open(VmbRepository *repository, const char *older, const char *newer,
                             const char *const *disks, GCancellable *cancel, GError **error);
void vmb_changes_free(VmbChanges *changes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbChanges, vmb_changes_free)

const VmbPoint *vmb_changes_older(const VmbChanges *changes);
const VmbPoint *vmb_changes_newer(const VmbChanges *changes);
guint vmb_changes_n_disks(const VmbChanges *changes);
const VmbChangedDisk *vmb_changes_disk(const VmbChanges *changes, guint index);
/* Targets (char *) of disks that only the older point holds; borrowed. */
const GPtrArray *vmb_changes_gone(const VmbChanges *changes);

/* A range of the newer state, bytes, multiples of VMB_BLOCK_SIZE but for the end of the disk. FALSE with an error stops. */
typedef gboolean (*VmbChangesEmit)(guint64 offset, guint64 length, gboolean zero, gpointer user,
                                   GError **error);

/* The ranges of disk @index that differ, ascending, those of one kind that touch as one. In each block of 64 KiB of
 * them at least one byte differs, and nowhere else does any. What one of the two does not have, because it is shorter,
 * reads as zero there, up to the end of the newer one. To be called once for each disk. Errors:
 * VMB_ERROR_DAMAGE, VMB_ERROR_CANCELLED, those of @emit. */
gboolean vmb_changes_read(VmbChanges *changes, guint index, VmbChangesEmit emit, gpointer user,
                          GError **error);

/* What differs between a point and the running domain at this moment. */
typedef struct {
    const char *repository;
    const char *uri;          /* NULL: libvirt's default */
    const char *domain;       /* name or UUID, for libvirt and the repository */
    const char *point;        /* without domain */
    const char *const *disks; /* targets; NULL or empty: all */
    const char *scratch_dir;  /* NULL: the default */
    guint64 lock_wait_ns;
    GCancellable *cancel;
    gpointer user;
    /* A disk and all its ranges, in this order, as of vmb_changes_read(); after the job has ended. */
    void (*begin)(const VmbChangedDisk *disk, gpointer user);
    VmbChangesEmit emit;
    void (*end)(const VmbChangedDisk *disk, gpointer user);
} VmbChangesLive;

/* A job of the domain shows one moment, as for a backup, without a freeze. Where a bitmap since the point can be relied
 * upon only what it names is read, else all that the disk holds; what is read is compared by digests. Afterwards *@since
 * (id of the point), *@name and *@uuid are those of domain and point; free with g_free(). *@gone: targets (char *) of disks that only the point holds. Errors: as of vmb_changes_open() and
 * vmb_export_live(). */
gboolean vmb_changes_live(const VmbChangesLive *options, char **since, char **name, char **uuid,
                          GPtrArray **gone, GError **error);
