/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files about checkpoints share. */
#pragma once
#include "virt/checkpoint.h"

typedef virDomainCheckpoint VmbVirCheckpoint;
static inline void
vmb_vir_checkpoint_free(VmbVirCheckpoint *checkpoint)
{
    virDomainCheckpointFree(checkpoint);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbVirCheckpoint, vmb_vir_checkpoint_free)

/* *@checkpoint is NULL if libvirt does not know the name. */
gboolean vmb_checkpoint_look_up(VmbDomain *domain, const char *name, VmbVirCheckpoint **checkpoint,
                                GError **error);

/* Targets (char *) of the record whose bitmap is there and consistent. The domain must be active.
 */
GPtrArray *vmb_checkpoint_good_targets(VmbDomain *domain, const char *name, GError **error);

/* Makes libvirt's record of the checkpoint one that has just @targets (char *). The order of
 * <parent>s is not kept: nothing depends on it. @flags:
 * VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE or 0. A failure leaves the record as it was, and
 * is VMB_ERROR_FAILED if it is about a bitmap. */
gboolean vmb_checkpoint_define(VmbDomain *domain, const char *name, gint64 time,
                               const GPtrArray *targets, unsigned int flags, GError **error);
