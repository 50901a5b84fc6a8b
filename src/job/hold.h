/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A domain that nobody else backs up meanwhile: the locks of a backup, without one. */
#pragma once
#include "repo/lock.h"
#include "repo/repository.h"

typedef struct {
    VmbLock *host_lock, *lock;
    VmbRepoDomain *repo_domain; /* NULL: no repository was given, or it does not hold the domain */
} VmbHold;
void vmb_hold_clear(VmbHold *hold);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbHold, vmb_hold_clear)

/* Takes the host-wide lock of the domain @uuid and its writer lock in @repository (NULL: none),
 * without waiting. @name: for messages. Errors: VMB_ERROR_LOCKED while a backup runs. */
gboolean vmb_hold_take(VmbHold *hold, VmbRepository *repository, const char *uuid, const char *name,
                       GCancellable *cancel, GError **error);
