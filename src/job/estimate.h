/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backup would need, before it is made: by what libvirt says, and by earlier points if there
 * are any. */
#pragma once
#include <gio/gio.h>
#include "job/measure.h"
#include "virt/domain.h"

typedef struct {
    char *target;
    guint64 size;      /* of the disk */
    guint64 allocated; /* bytes that its images take now, all layers together; at most @size */
    guint64 full_most; /* bytes that a full takes if nothing of that can be compressed */
    VmbLevel level;    /* of the next backup */
    VmbMethod method;
    VmbReasonCode reason; /* VMB_N_REASONS: none */
    double ratio;         /* guest data per stored byte in earlier points; 0: not known */
    guint64 full_likely;  /* bytes of a full at that ratio; VMB_BYTES_UNKNOWN */
    guint64 daily;        /* bytes that earlier points have added per day; VMB_BYTES_UNKNOWN */
    guint64 need;         /* bytes to have free for the next backup */
} VmbEstimateDisk;

typedef struct {
    char *domain; /* name, or as the user named it */
    char *uuid;   /* NULL if it was not found */
    gboolean offline;
    guint n_points;        /* that the repository holds of it */
    GPtrArray *disks;      /* VmbEstimateDisk */
    guint64 scratch_need;  /* bytes beside the reserve; 0: shut off, so that none is needed */
    guint64 scratch_worst; /* if the guest overwrites all while it runs */
    GError *error;         /* why there is no estimate */
} VmbEstimate;

typedef struct {
    const char *uri;         /* NULL: libvirt's default */
    const char *repository;  /* where it will be, even if there is none yet; NULL: nobody knows */
    const char *scratch_dir; /* NULL: the default */
    const char *const *domains; /* NULL or empty: all */
    GCancellable *cancel;
} VmbEstimateOptions;

typedef struct {
    GPtrArray *domains; /* VmbEstimate */
    char *repository;   /* directory whose free space counts; NULL: not known */
    guint64 free_bytes; /* there */
    char *scratch;      /* likewise */
    guint64 scratch_free, scratch_reserve;
    guint64 need;         /* of all domains */
    guint64 full_most;    /* of all domains */
    guint64 scratch_need; /* of the domain that needs most */
    gboolean fits, scratch_fits;
} VmbEstimates;
void vmb_estimates_free(VmbEstimates *estimates);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbEstimates, vmb_estimates_free)

/* Changes nothing. Errors: VMB_ERROR_LIBVIRT; VMB_ERROR_DAMAGE and others of vmb_repository_open(),
 * but none if there is no repository yet; VMB_ERROR_CANCELLED. */
VmbEstimates *vmb_estimate(const VmbEstimateOptions *options, GError **error);

/* Bytes of image and digests of a disk of @size bytes that holds @data bytes which cannot be
 * compressed, in clusters of 64 KiB. Pure. */
guint64 vmb_estimate_full(guint64 size, guint64 data);
