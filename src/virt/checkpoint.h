/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Our checkpoints: naming, asking for, validating and deleting them. */
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

/* Whether each of @targets could be read incrementally from checkpoint @name: its bitmap is there
 * and consistent in the disk's present image. Harmless for guest, bitmaps and metadata; the domain
 * must be active. @usable: gboolean[n]. Errors: VMB_ERROR_NO_INCREMENTAL if libvirt does not know
 * the name. */
gboolean vmb_checkpoint_validate(VmbDomain *domain, const char *name, const char *const *targets,
                                 gboolean *usable, GError **error);

/* TRUE if @name has just the form of vmb_checkpoint_new_name() for this repository: "vmbackup-",
 * the first 8 digits of @repository_id (which may be no longer than these), "-" and 32 digits. */
gboolean vmb_checkpoint_is_ours(const char *name, const char *repository_id);

/* Deletes checkpoint and bitmaps; survives a restart of the daemon. An unknown name is success.
 * Where a bitmap is missing, the others and the record are deleted; at every instant the record
 * names what is left. Bitmaps of a shut-off domain are removed from its images by qemu-img. Errors:
 * VMB_ERROR_DOMAIN if bitmaps of a shut-off domain cannot be reached now, and then the record
 * stays; VMB_ERROR_FAILED. Fault points checkpoint-taken-apart, bitmap-removed, checkpoint-deleted.
 */
gboolean vmb_checkpoint_delete(VmbDomain *domain, const char *name, GError **error);

/* The same, and also the bitmaps of this name that no record of libvirt names, on all disks that
 * the domain has. *@found (may be NULL): there was anything. For names that are known to be ours.
 */
gboolean vmb_checkpoint_purge(VmbDomain *domain, const char *name, gboolean *found, GError **error);

/* Names (char *, each once) of all bitmaps that the domain's local images hold by their files.
 * Images that cannot be read are left out, and their targets are told in *@unread (char *; free
 * both). */
GPtrArray *vmb_checkpoint_stored_bitmaps(VmbDomain *domain, GPtrArray **unread, GError **error);
