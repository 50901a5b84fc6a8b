/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host's directory for locks and sockets of running backups. */
#pragma once
#include <glib.h>

/* /run/vmbackup (root) or /run/user/UID/vmbackup, made if absent, mode 0711: QEMU's user must be
 * able to pass through to the directory of its socket, and nobody else to look around. Where there is no
 * /run/user/UID: $XDG_RUNTIME_DIR/vmbackup, or ~/.cache/vmbackup without that either. The test
 * variable VMBACKUP_TEST_RUN_DIR names another one. Free with g_free(); NULL on error. */
char *vmb_run_dir(GError **error);

/* Makes the directory @path and its missing parents, each with @mode whatever the umask. */
gboolean vmb_make_dirs(const char *path, guint mode, GError **error);
