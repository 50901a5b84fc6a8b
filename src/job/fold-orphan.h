/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checkpoints that only a point names which is about to go: somebody must still know of them. */
#pragma once
#include "repo/repository.h"

/* Names of checkpoints (char *) that libvirt may still have by what @points tell, all of the
 * domain: those of the newest point of each disk; and those before, if a run has published its
 * point and has not, or not yet, deleted them. Free with g_hash_table_unref(). */
GHashTable *vmb_fold_live_checkpoints(VmbRepoDomain *domain, const GPtrArray *points);

/* Those of @live that @point names, and no other of @points, go to the domain's journal, from which
 * the next backup deletes them; *@n is their number. On disk when it returns. Errors:
 * VMB_ERROR_LOCKED while a backup runs. */
gboolean vmb_fold_note_orphans(VmbRepoDomain *domain, GHashTable *live, const GPtrArray *points,
                               const VmbPoint *point, guint *n, GError **error);
