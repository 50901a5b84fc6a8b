/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a backup: one domain, and several of them side by side. */
#pragma once
#include <gio/gio.h>
#include "repo/repository.h"
#include "virt/quiesce.h"

/* A chain grows to so many images before the next point begins a new one. QEMU opens more, but
 * libvirt refuses more than 200, and every layer costs time and memory at a restore. */
#define VMB_MAX_CHAIN 60
#define VMB_MAX_CHAIN_LIMIT 200

typedef enum { VMB_WANT_AUTO, VMB_WANT_FULL, VMB_WANT_INCREMENTAL } VmbWantedLevel;

typedef struct {
    const char *repository;      /* path */
    const char *uri;             /* NULL: libvirt's default */
    VmbWantedLevel level;
    guint max_chain;             /* images of a disk's chain before a full is made of it; 0: a default */
    gboolean no_compare;         /* a disk without a usable bitmap is stored in full */
    VmbQuiesceMode quiesce;
    guint64 freeze_timeout_ns;   /* budget; at most 60 s */
    const char *const *disks;    /* targets, NULL-terminated; NULL or empty: all */
    const char *const *exclude;  /* targets, NULL-terminated; NULL: none */
    int compress_level;          /* VMB_COMPRESS_NONE or zstd's level */
    const char *const *peers;    /* libvirt URIs of other hosts that may run the domain; NULL: none */
    const char *scratch_dir;     /* NULL: vmb_scratch_default_dir() */
    const char *const *tags;     /* of the new point, NULL-terminated; NULL: none */
    guint64 lock_wait_ns;
    GCancellable *cancel;
} VmbBackupOptions;

/* Where a disk of the point came from, in bytes of the disk. */
typedef struct {
    char *target;
    guint64 read;   /* from the guest, or from its image if it is shut off */
    guint64 copied; /* from the disk's chain in the repository, as it is stored there */
    guint64 healed; /* damaged in the chain; part of what was read */
} VmbBackupDisk;

/* What became of one domain. */
typedef struct {
    char *domain;          /* as the user named it, or the domain's name once known */
    char *uuid;            /* NULL if it was not found */
    VmbManifest *manifest; /* of the published point, or NULL */
    GPtrArray *disks;      /* VmbBackupDisk, of those that were read; as complete as the manifest */
    GPtrArray *reasons;    /* VmbReason; also on failure */
    GError *error;         /* NULL on success; it may be set beside a published point (a thaw that was
                            * never confirmed, a checkpoint that is in doubt) */
    guint64 duration_ns;
} VmbBackupResult;
VmbBackupResult *vmb_backup_result_new(const char *domain);
void vmb_backup_result_free(VmbBackupResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbBackupResult, vmb_backup_result_free)

/* Backs up one domain, all nine steps. Always returns a result. */
VmbBackupResult *vmb_backup_domain(const VmbBackupOptions *options, const char *domain);

/* Backs up several, at most @jobs at a time; @done (may be NULL) is called once for each, in the order
 * of their ends, never twice at once. Domains that were not begun when @options->cancel came get a
 * VMB_ERROR_CANCELLED result. */
void vmb_backup_domains(const VmbBackupOptions *options, const char *const *domains, guint jobs,
                        void (*done)(const VmbBackupResult *result, gpointer data), gpointer data);

/* Names of all domains, or of the active ones. GPtrArray of char *. */
GPtrArray *vmb_backup_all_domains(const char *uri, gboolean active_only, GError **error);

/* The domains that @names (NULL-terminated) mean, each once and as it was named first: by name or by UUID is
 * the same. What cannot be looked up stays, and is told by its own backup. GPtrArray of char *. */
GPtrArray *vmb_backup_distinct_domains(const char *uri, const char *const *names);
