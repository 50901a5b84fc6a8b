/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the program's exit status says, and the word for each kind of error. */
#pragma once
#include "util/error.h"

enum {
    VMB_EXIT_OK = 0,
    VMB_EXIT_FAILED = 1,
    VMB_EXIT_USAGE = 2,
    VMB_EXIT_PARTIAL = 3,
    VMB_EXIT_DAMAGE = 4,
    VMB_EXIT_NO_REPOSITORY = 10,
    VMB_EXIT_LOCKED = 11,
    VMB_EXIT_LIBVIRT = 20,
    VMB_EXIT_DOMAIN = 21,
    VMB_EXIT_QUIESCE = 22,
    VMB_EXIT_NO_INCREMENTAL = 23,
    VMB_EXIT_SIGNAL = 128, /* plus the signal's number */
};

/* Status for @error; NULL is VMB_EXIT_OK. A cancelled one counts the signal that came, if one came.
 */
int vmb_exit_status(const GError *error);

/* "no-repository", "locked"...: the code of @error in JSON. */
const char *vmb_error_name(const GError *error);

/* Status of several results together: all good, all bad (their common status, or VMB_EXIT_FAILED if
 * they differ), or some of each. Add each one to a VmbExitTally that was set to zero. */
typedef struct {
    guint n_ok, n_failed;
    int status;         /* of the failed ones so far; VMB_EXIT_FAILED if they differ */
    gboolean cancelled; /* a signal came before all was done */
} VmbExitTally;
void vmb_exit_tally_add(VmbExitTally *tally, const GError *error);
int vmb_exit_tally_status(const VmbExitTally *tally);
