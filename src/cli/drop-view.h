/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What prune and forget tell: domains and points, what was to become of them, and what became. */
#pragma once
#include "cli/command.h"
#include "cli/exit-status.h"
#include "job/drop.h"

typedef struct {
    const VmbCommand *command;
    GTimeZone *zone; /* in which times are told */
    gboolean json, dry_run;
    gboolean all; /* a line for each point, those that are kept, too */
    VmbExitTally tally;
    guint kept, dropped, held, checkpoints, deferred;
    guint64 frees, freed;
} VmbDropView;

/* Tells of one domain and counts it; @data: the view. */
void vmb_drop_view_domain(const VmbDropResult *result, gpointer data);

/* The last line of --json. @error: nothing could begin. Returns the exit status. */
int vmb_drop_view_end(VmbDropView *view, const GError *error);
