/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points show what is damaged in one of them. */
#pragma once
#include <gio/gio.h>
#include "repo/check.h"

/* TRUE if it says that content of the disk @target is damaged. */
gboolean vmb_verify_is_damage(const VmbFinding *finding, const char *target);

/* Fills affected of all @findings that say that @disk of the point @id is damaged: the visible points whose chains of that disk
 * pass through it and, if the finding has a range, in which no newer layer hides all of it. Reads maps of
 * newer points, which it pins meanwhile; where that is not possible a point counts as affected. Call it in one
 * thread at a time for each domain. */
void vmb_verify_affected(VmbRepoDomain *domain, const char *id, const VmbManifestDisk *disk,
                         GPtrArray *findings, GCancellable *cancel);
