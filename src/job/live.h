/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of an export of a running domain: one moment of its disks, served by its own QEMU. */
#pragma once
#include "job/backup.h"
#include "job/serve.h"

/* One disk of the moment, for a visitor of this process. */
typedef struct {
    const char *target, *id;
    guint64 size;        /* bytes, whole sectors */
    const char *context; /* that tells what has changed since the point; NULL: everything may have */
} VmbLiveDisk;

typedef struct {
    const char *domain, *uuid;
    const char *socket; /* of QEMU's NBD server; exports by target */
    const VmbLiveDisk *disks;
    guint n_disks;
    GCancellable *stop; /* also cancelled when scratch space runs out, and so on */
} VmbLiveView;

typedef struct {
    const char *repository;   /* for the locks and the journal; nothing is stored in it but consumers */
    const char *uri;          /* NULL: libvirt's default */
    const char *domain;
    const char *const *disks; /* targets, NULL-terminated; NULL or empty: all */
    const char *since;        /* the newest point (of all disks that are served), or NULL */
    const char *consumer;     /* name, or NULL; needs a command */
    VmbQuiesceMode quiesce;
    guint64 freeze_timeout_ns;
    const char *scratch_dir;  /* NULL: the default */
    guint64 lock_wait_ns;
    VmbServeAddress address;  /* without TLS */
    const char *command;
    gboolean (*visit)(const VmbLiveView *view, gpointer user, GError **error); /* instead of all serving: reads the disks
                               * itself; contexts are of those disks alone whose bitmap since @since can be relied upon */
    GCancellable *cancel;
    VmbServeReady ready;
    gpointer user;            /* of ready */
} VmbLiveOptions;

/* The rules of a backup apply: locks, journal, freeze, guard, scratch space, and rollback at any end. With a consumer that
 * command says whether it has succeeded: then its checkpoint is the new one, and else the old one as before. Errors: as
 * of vmb_backup_domain() and vmb_serve(); VMB_ERROR_NO_INCREMENTAL if no bitmap tells what has changed since @since. */
gboolean vmb_export_live(const VmbLiveOptions *options, int *status, GError **error);
