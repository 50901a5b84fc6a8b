/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The text of state.json, for the two places that write it. */
#pragma once
#include "repo/state.h"

#define VMB_STATE_FORMAT 1

/* Sealed; @base (may be NULL) holds members of an earlier state that are kept. Free with g_free().
 */
char *vmb_point_state_text(VmbJson *base, const VmbPointState *state);
