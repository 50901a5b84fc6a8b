/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dropping points: hiding them at once, and removing them when nobody needs them any more. */
#pragma once
#include "repo/pins.h"

/* One process at a time drops and folds points of a domain. Errors: VMB_ERROR_LOCKED. */
VmbLock *vmb_maintenance_lock(VmbRepoDomain *domain, guint64 wait_ns, GCancellable *cancel,
                              GError **error);

/* Hides the point; on disk when it returns. Under the maintenance lock. Waits for readers that are just looking
 * up points. One that is retired already is fine. */
gboolean vmb_point_retire(VmbRepoDomain *domain, VmbPoint *point, GError **error);

/* Removes a retired point with all its files. Under the maintenance lock; nothing may build on it. It is gone at
 * once when it is renamed; a kill leaves what the next call of vmb_trash_remove() deletes. Errors:
 * VMB_ERROR_LOCKED if somebody reads it. */
gboolean vmb_point_remove(VmbRepoDomain *domain, VmbPoint *point, GError **error);

/* Deletes what calls of vmb_point_remove() have left. */
gboolean vmb_trash_remove(VmbRepoDomain *domain, GError **error);
