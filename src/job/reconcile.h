/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Undoing what a run that died has left behind, by its journal and nothing else. */
#pragma once
#include "repo/journal.h"
#include "repo/repository.h"
#include "virt/domain.h"

/* Under the domain's locks. Reads the journal of a dead run; ends its job, thaws or resumes the guest,
 * removes its directories, deletes its checkpoint unless a published point names it; then clears the
 * journal. What cannot be undone now stays in *@stale (a strv of checkpoint names, or NULL) for the next
 * journal, and is a reason. Errors: only what forbids a backup, such as a job that does not end. */
gboolean vmb_reconcile(VmbRepoDomain *repo_domain, VmbDomain *domain, GPtrArray *points,
                       GPtrArray *reasons, char ***stale, GError **error);

/* Deletes checkpoints that no disk's newest point needs: those which manifests of @points name, apart
 * from the newest one of each disk in @live_ids (NULL-terminated identities of the disks that the domain
 * has). Names that could not be deleted are appended to @failed (char *) and become reasons. */
void vmb_reconcile_retire(VmbDomain *domain, GPtrArray *points, const char *const *live_ids,
                          GPtrArray *reasons, GPtrArray *failed);
