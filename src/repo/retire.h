/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dropping points: hiding them at once, and removing them when nobody needs them any more. */
#pragma once
#include "repo/pins.h"

/* One process at a time drops and folds points of a domain. Errors: VMB_ERROR_LOCKED. */
VmbLock *vmb_maintenance_lock(VmbRepoDomain *domain, guint64 wait_ns, GCancellable *cancel,
                              GError **error);

/* Hides the point; on disk when it returns. Under the maintenance lock. Waits for readers that are just looking
 * up points, and for those who protect one. One that is retired already is fine. Errors: unless
 * @even_protected, VMB_ERROR_DOMAIN for a protected point, and VMB_ERROR_DAMAGE if its state cannot be read. */
gboolean vmb_point_retire(VmbRepoDomain *domain, VmbPoint *point, gboolean even_protected,
                          GError **error);

/* Removes a retired point with all its files. Under the maintenance lock; none of @known, the domain's points when
 * they were read last, may build on it. It is gone at once when it is renamed; a kill leaves what the next call
 * of vmb_trash_remove() deletes. Errors: VMB_ERROR_LOCKED if somebody reads it, or if a point that was
 * published since builds on it. */
gboolean vmb_point_remove(VmbRepoDomain *domain, VmbPoint *point, const GPtrArray *known,
                          GError **error);

/* Deletes what calls of vmb_point_remove() have left. */
gboolean vmb_trash_remove(VmbRepoDomain *domain, GError **error);
