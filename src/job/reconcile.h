/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Undoing what a run that died has left behind, by its journal and nothing else. */
#pragma once
#include "repo/journal.h"
#include "repo/repository.h"
#include "virt/domain.h"

/* Under the domain's locks. Reads the journal of a dead run; ends its job, thaws or resumes the
 * guest, removes its directories, deletes its checkpoint and its bitmaps unless a point names it;
 * then clears the journal. What cannot be undone now stays in *@stale (names and paths, or NULL)
 * for the next journal, and is a reason; while the guest could not be released, the journal stays
 * as well. Each step may be killed and is done again by the next call. A guest that QEMU paused for
 * an I/O error is only resumed when it ran before and our job was active then, or our scratch space
 * is full. The journal of a run on another host is set aside for that one. Errors: only what
 * forbids a backup, such as a job that does not end. Fault points reconcile-*. */
gboolean vmb_reconcile(VmbRepoDomain *repo_domain, VmbDomain *domain, GPtrArray *points,
                       GPtrArray *reasons, char ***stale, GError **error);

/* The same for a domain that libvirt at @uri does not know any more: job, guest and checkpoints
 * went with it; its directories are removed. The journal of a run at another libvirt or host stays,
 * which is a reason. @name: for messages. */
gboolean vmb_reconcile_gone(VmbRepoDomain *repo_domain, const char *uri, const char *name,
                            GPtrArray *reasons, GError **error);

/* Deletes checkpoints that no disk's newest point needs: those which manifests of @points name,
 * apart from the newest one of each disk in @live_ids (NULL-terminated identities of the disks that
 * the domain has; NULL: of all disks that points hold), as far as libvirt has a record of them or
 * an image a bitmap. Names that could not be deleted are appended to @failed (char *) and become
 * reasons. Returns how many were deleted. */
guint vmb_reconcile_retire(VmbDomain *domain, GPtrArray *points, const char *const *live_ids,
                           GPtrArray *reasons, GPtrArray *failed);
