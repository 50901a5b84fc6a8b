/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Restored files stand under temporary names until all of them are whole. */
#pragma once
#include <glib.h>

typedef struct VmbRestoreStage VmbRestoreStage;

/* Makes a hidden directory for the files in the making: in @directory, or beside it if that is absent (its
 * parent must exist). Removes what a restore to @directory that died has left. Errors: VMB_ERROR_FAILED;
 * VMB_ERROR_LOCKED while another one moves its files there. */
VmbRestoreStage *vmb_restore_stage_new(const char *directory, GError **error);
/* Takes everything back: the hidden directory, files that were published but not kept, and the directory
 * itself if it was made here. */
void vmb_restore_stage_free(VmbRestoreStage *stage);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRestoreStage, vmb_restore_stage_free)

const char *vmb_restore_stage_directory(VmbRestoreStage *stage); /* absolute */
/* Free bytes where the files will be. */
gboolean vmb_restore_stage_free_space(VmbRestoreStage *stage, guint64 *bytes, GError **error);
/* Fails if a file of that name exists in the directory: nothing is overwritten. */
gboolean vmb_restore_stage_reserve(VmbRestoreStage *stage, const char *name, GError **error);
/* A new file for a reserved name, 0600, for reading and writing; the caller closes. */
int vmb_restore_stage_create(VmbRestoreStage *stage, const char *name, GError **error);
/* Syncs all files; gives the directory its name, or moves them to theirs in their order, and while that is
 * under way VMB_RESTORE_MARKER (job/restore-marker.h) stands beside them. Syncs the directory. */
gboolean vmb_restore_stage_publish(VmbRestoreStage *stage, GError **error);
/* From now on the files stay. */
void vmb_restore_stage_keep(VmbRestoreStage *stage);
