/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flock()-based locks that die with the process. */
#pragma once
#include <gio/gio.h>

typedef struct VmbLock VmbLock;

/* Locks @name below @dir_fd (created empty, 0600, when absent and @exclusive; a reader of a
 * read-only repository goes on without a lock file). Tries until @wait_ns has passed (0: once) or
 * @cancel. Errors: VMB_ERROR_LOCKED naming @what and what to do; VMB_ERROR_CANCELLED;
 * VMB_ERROR_FAILED. */
VmbLock *vmb_lock_take(int dir_fd, const char *name, gboolean exclusive, guint64 wait_ns,
                       const char *what, GCancellable *cancel, GError **error);
void vmb_lock_free(VmbLock *lock);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbLock, vmb_lock_free)

/* The host-wide lock of a domain UUID below /run/vmbackup (root) or $XDG_RUNTIME_DIR/vmbackup. */
VmbLock *vmb_lock_take_host(const char *uuid, guint64 wait_ns, const char *what,
                            GCancellable *cancel, GError **error);

/* Who holds the lock @name below @dir_fd, without touching it: a process number, 0 if it is free or nobody can
 * tell (another host, another PID namespace). A hint for reports, nothing to decide by. */
gint64 vmb_lock_holder(int dir_fd, const char *name);
