/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Points that stay as they are while somebody reads them: shared locks on them and on all they build on. */
#pragma once
#include "repo/lock.h"
#include "repo/repository.h"

typedef struct VmbPins VmbPins;
void vmb_pins_free(VmbPins *pins);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbPins, vmb_pins_free)

/* Appends to @wanted those of @points (all of the domain, retired ones too) that are to be pinned; borrowed. */
typedef gboolean (*VmbPinsChoose)(GPtrArray *points, GPtrArray *wanted, gpointer user,
                                  GError **error);

/* Reads the points of @domain and pins the chosen ones with the chains of all their disks, in one step, as
 * seen by whoever drops or folds points. *@points: all of the domain; to be read no more often
 * while the pins are held. A chain that is broken is pinned as far as it goes. On a read-only repository
 * without lock files nothing is locked. Errors: those of vmb_repo_domain_points() and of @choose;
 * VMB_ERROR_LOCKED if a point is being changed for more than a minute; VMB_ERROR_CANCELLED. */
VmbPins *vmb_pins_take(VmbRepoDomain *domain, VmbPinsChoose choose, gpointer user,
                       GCancellable *cancel, GPtrArray **points, GError **error);

/* The same for the point that a user names, as vmb_repository_find_point() finds it. *@point belongs to
 * *@points. */
VmbPins *vmb_pins_take_named(VmbRepository *repository, const char *text, GCancellable *cancel,
                             VmbPoint **point, GPtrArray **points, GError **error);

/* The same for what the next backup may build on: the newest point of each disk. */
VmbPins *vmb_pins_take_newest(VmbRepoDomain *domain, GCancellable *cancel, GPtrArray **points,
                              GError **error);

/* The lock under which relations between points change (@exclusive) or are read together with taking their
 * locks. To be held for moments. @wait_ns: how long to wait for it. */
VmbLock *vmb_pins_lock_structure(VmbRepoDomain *domain, gboolean exclusive, guint64 wait_ns,
                                 GCancellable *cancel, GError **error);
