/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a restore: a point becomes images and a domain in a directory. */
#pragma once
#include <gio/gio.h>
#include "repo/repository.h"

typedef enum { VMB_RESTORE_QCOW2, VMB_RESTORE_RAW } VmbRestoreFormat;

typedef struct {
    const char *repository;
    const char *point;           /* "DOMAIN/ID", as for vmb_repository_find_point() */
    const char *to;              /* directory; made if absent (its parent must exist) */
    VmbRestoreFormat format;
    const char *const *disks;    /* targets; NULL or empty: all of the point */
    const char *const *destinations; /* for each of disks: "-", an NBD URI or a block device, as for
                                  * vmb_destination_open(); then nothing else of the point is restored, and to and all
                                  * that goes with it mean nothing; NULL: they go to @to */
    const char *const *exclude;
    gboolean define, start;      /* start implies define */
    const char *uri;             /* for define */
    const char *name;            /* new name; NULL: as stored */
    gboolean keep_uuid, keep_mac;/* with a new name: do not make new ones */
    gboolean ignore_damage;      /* what cannot be read becomes zero, and the domain is not defined */
    gboolean force_define;       /* it is, all the same */
    GPtrArray *lost;             /* gets VmbRestoreLoss, also when the restore fails because of them; made with
                                  * vmb_restore_loss_free as its free function */
    const char *const *allow;    /* dangerous parts that are allowed; NULL: none */
    GCancellable *cancel;
} VmbRestoreOptions;

/* What cannot be restored. */
typedef struct {
    char *point;                 /* whose data or file is damaged */
    char *disk;                  /* target; NULL: another file */
    char *file;                  /* its name in the point; NULL: data of a disk */
    guint64 offset, length;      /* of the disk, bytes; 0 and 0: all that the point holds of it, which was restored
                                  * but cannot be verified */
} VmbRestoreLoss;
void vmb_restore_loss_free(VmbRestoreLoss *loss);

typedef struct {
    char *target, *path;         /* path of the restored file */
    guint64 size;                /* virtual bytes */
    guint64 written;             /* bytes of data written */
} VmbRestoredDisk;

typedef struct {
    char *domain, *uuid, *point;
    char *xml_path;              /* DIR/domain.xml */
    char *defined;               /* name under which it was defined, or NULL */
    gboolean started;
    GPtrArray *disks;            /* VmbRestoredDisk */
    GPtrArray *missing;          /* char *: disks that the point does not hold, with the reason */
    guint64 duration_ns;
} VmbRestoreResult;
void vmb_restore_result_free(VmbRestoreResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRestoreResult, vmb_restore_result_free)

/* NULL on error: then nothing stands under a final name in the directory and nothing was defined,
 * unless the error says so (a domain that was defined but did not start). */
VmbRestoreResult *vmb_restore(const VmbRestoreOptions *options, GError **error);
