/* SPDX-License-Identifier: GPL-2.0-or-later */
/* state.json of a point: the part that may change after publishing. */
#pragma once
#include "repo/repository.h"

typedef struct {
    gint64 verified_ns;  /* end of the last verification; 0: never */
    char *verify_result; /* "ok", "damaged" or NULL */
} VmbPointState;

void vmb_point_state_clear(VmbPointState *state);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbPointState, vmb_point_state_clear)
/* A missing file reads as "never verified"; vmb_check_point() tells of it. Members that this
 * version does not know are kept by a rewrite. Errors: VMB_ERROR_DAMAGE, also when writing over a
 * damaged one; VMB_ERROR_NO_REPOSITORY for a newer format; VMB_ERROR_FAILED. */
gboolean vmb_point_state_read(VmbPoint *point, VmbPointState *state, GError **error);
gboolean vmb_point_state_write(VmbPoint *point, const VmbPointState *state, GError **error);
