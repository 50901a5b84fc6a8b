/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Our checkpoints: asking for, validating and deleting them. */
#pragma once
#include "virt/domain.h"

/* "vmbackup-<first 8 digits of the repository id>-<32 random digits>". Free with g_free(). */
char *vmb_checkpoint_new_name(const char *repository_id);

/* Names (char *) of all checkpoints of the domain. */
GPtrArray *vmb_checkpoint_list(VmbDomain *domain, GError **error);
gboolean vmb_checkpoint_exists(VmbDomain *domain, const char *name, gboolean *exists,
                               GError **error);
/* Targets (char *) whose bitmap the checkpoint holds by its XML. */
GPtrArray *vmb_checkpoint_targets(VmbDomain *domain, const char *name, GError **error);

/* Whether each of @targets could be read incrementally from checkpoint @name: a redefinition with
 * VALIDATE, disk by disk (LIBVIRT: error VIR_ERR_CHECKPOINT_INCONSISTENT -> not usable). It changes
 * nothing for the guest. @usable: gboolean[n]. */
gboolean vmb_checkpoint_validate(VmbDomain *domain, const char *name, const char *const *targets,
                                 gboolean *usable, GError **error);

/* Deletes checkpoint and bitmaps. An unknown name is success. A checkpoint whose bitmap is missing is
 * deleted as metadata only; so is one of a shut-off domain only if @metadata_only_when_off. */
gboolean vmb_checkpoint_delete(VmbDomain *domain, const char *name, GError **error);
