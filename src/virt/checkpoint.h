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

/* Whether each of @targets could be read incrementally from checkpoint @name: its bitmap is there and
 * consistent in the disk's present image. Harmless for guest, bitmaps and metadata; the domain must be
 * active. @usable: gboolean[n]. Errors: VMB_ERROR_NO_INCREMENTAL if libvirt does not know the name. */
gboolean vmb_checkpoint_validate(VmbDomain *domain, const char *name, const char *const *targets,
                                 gboolean *usable, GError **error);

/* Deletes checkpoint and bitmaps; survives a restart of the daemon. An unknown name is success. Where a
 * bitmap is missing, the other disks' bitmaps and then the record are deleted. For a shut-off domain it
 * is VMB_ERROR_DOMAIN and nothing is done: its bitmaps could not be deleted, and would be orphans. */
gboolean vmb_checkpoint_delete(VmbDomain *domain, const char *name, GError **error);
