/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thread that ends the backup job when the repository's filesystem hangs. */
#pragma once
#include "virt/domain.h"

/* Filesystem calls cannot be given up: while one hangs, the thread that made it can neither end the job
 * nor roll back. So this one does, and the rest of the run fails when, and if, the call returns. */
typedef struct VmbTargetWatch VmbTargetWatch;

/* To be started before the job. @socket: of the job, which tells it from others. When a call has hung
 * for vmb_io_patience(), or for a few seconds after @stop, the job is ended, @stop is cancelled, and
 * standard error says so. */
VmbTargetWatch *vmb_target_watch_start(VmbDomain *domain, const char *socket, GCancellable *stop);
/* TRUE with @error (VMB_ERROR_NO_PROGRESS) set if a call hung for so long. */
gboolean vmb_target_watch_fired(VmbTargetWatch *watch, GError **error);
/* To be called once the job has ended. */
void vmb_target_watch_free(VmbTargetWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbTargetWatch, vmb_target_watch_free)
