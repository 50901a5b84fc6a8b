/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checkpoints that only a point names which is about to go: somebody must still know of them. */
#pragma once
#include "repo/repository.h"

/* Names of checkpoints that libvirt may still have for @point, because it is the newest state of a disk, and that
 * no other of @points names, go to the domain's journal, from which the next backup deletes them. On disk when it
 * returns. Errors: VMB_ERROR_LOCKED while a backup runs. */
gboolean vmb_fold_note_orphans(VmbRepoDomain *domain, GPtrArray *points, const VmbPoint *point,
                               GError **error);
