/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Says in a directory that the files of a restore are being moved there, and which. */
#pragma once
#include <glib.h>

/* A file that people can read; while it stands, the files that it lists may not be all. It is locked by
 * the restore that lives. */
#define VMB_RESTORE_MARKER "RESTORE-INCOMPLETE.txt"

typedef struct VmbRestoreMarker VmbRestoreMarker;
/* Writes it to @directory_fd, on disk when this returns. @from_fd: the directory that the files @names (char *)
 * are still in. Errors: VMB_ERROR_FAILED, VMB_ERROR_LOCKED if another restore is at it. */
VmbRestoreMarker *vmb_restore_marker_new(int directory_fd, const char *directory, int from_fd,
                                         const GPtrArray *names, GError **error);
/* Removes it: all are there, or all are gone. */
void vmb_restore_marker_free(VmbRestoreMarker *marker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRestoreMarker, vmb_restore_marker_free)

/* Removes what a restore that died has moved to @directory, and its marker. Files that were changed since
 * then are in use: VMB_ERROR_FAILED names them, and nothing is removed. Nothing to do is no error. */
gboolean vmb_restore_marker_undo(int directory_fd, const char *directory, GError **error);
