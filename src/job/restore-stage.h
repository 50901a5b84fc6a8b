/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Restored files stand under temporary names until all of them are whole. */
#pragma once
#include <glib.h>

typedef struct VmbRestoreStage VmbRestoreStage;

/* Makes @directory if it is absent (its parent must exist) and a hidden directory in it for the files in
 * the making. Errors: VMB_ERROR_FAILED. */
VmbRestoreStage *vmb_restore_stage_new(const char *directory, GError **error);
/* Takes everything back: the hidden directory, files that were published but not kept, and the directory
 * itself if it was made here. */
void vmb_restore_stage_free(VmbRestoreStage *stage);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRestoreStage, vmb_restore_stage_free)

const char *vmb_restore_stage_directory(VmbRestoreStage *stage); /* absolute */
/* Fails if a file of that name exists in the directory: nothing is overwritten. */
gboolean vmb_restore_stage_reserve(VmbRestoreStage *stage, const char *name, GError **error);
/* A new file for a reserved name, 0600, for reading and writing; the caller closes. */
int vmb_restore_stage_create(VmbRestoreStage *stage, const char *name, GError **error);
/* Syncs all files, moves them to their names, syncs the directory. */
gboolean vmb_restore_stage_publish(VmbRestoreStage *stage, GError **error);
/* From now on the files stay. */
void vmb_restore_stage_keep(VmbRestoreStage *stage);
