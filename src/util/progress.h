/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a job tells of its progress: counters that any thread adds to and a view reads. */
#pragma once
#include <glib.h>

typedef struct VmbProgress VmbProgress;

typedef struct {
    char *label;        /* "web01", cleaned by whoever shows it */
    const char *phase;  /* "reading", "syncing", ... a literal */
    guint64 done;       /* bytes handled of @total */
    guint64 total;      /* bytes expected; 0 while unknown */
    guint64 moved;      /* bytes really read or written, for the rate */
    guint64 started_ns; /* monotonic */
} VmbProgressState;

/* One per domain or disk at work; registered in a global list until freed. */
VmbProgress *vmb_progress_new(const char *label);
void vmb_progress_free(VmbProgress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbProgress, vmb_progress_free)

void vmb_progress_phase(VmbProgress *progress, const char *phase); /* @phase: a literal */
void vmb_progress_add_total(VmbProgress *progress, guint64 bytes);
void vmb_progress_advance(VmbProgress *progress, guint64 done, guint64 moved); /* NULL is allowed */

/* Calls @visit for each live progress under the list's lock. */
void vmb_progress_foreach(void (*visit)(const VmbProgressState *, gpointer), gpointer data);
