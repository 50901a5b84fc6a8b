/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shows how far the jobs are: a bar on a terminal, a line now and then elsewhere. */
#pragma once
#include <glib.h>

typedef struct VmbProgressView VmbProgressView;

/* Starts a thread that shows the live VmbProgress objects on standard error. One at a time. Returns
 * NULL (which free takes) when the log level says that nobody wants to see it. The test variable
 * VMBACKUP_TEST_PROGRESS_MS is the time between two lines in milliseconds, instead of 30 s. */
VmbProgressView *vmb_progress_view_start(void);
void vmb_progress_view_free(VmbProgressView *view);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbProgressView, vmb_progress_view_free)

/* What the jobs do together at one moment. */
typedef struct {
    guint n;             /* jobs at work */
    char *label;         /* of the only one, cleaned; "3 jobs" otherwise */
    const char *phase;   /* of the first one */
    guint64 done, total; /* bytes; total 0: one of them does not know yet */
    guint64 moved;       /* bytes */
} VmbProgressSum;
void vmb_progress_sum_clear(VmbProgressSum *sum);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbProgressSum, vmb_progress_sum_clear)
void vmb_progress_sum_read(VmbProgressSum *sum);

/* Rates in bytes per second, smoothed over some seconds. Zero-initialise. */
typedef struct {
    guint n;
    guint64 done, moved, at_ns; /* at the last update */
    double done_rate, moved_rate;
} VmbProgressRate;
void vmb_progress_rate_update(VmbProgressRate *rate, const VmbProgressSum *sum, guint64 now_ns);

/* The line for a terminal, at most @width cells; and for a log. Free with g_free(). */
char *vmb_progress_bar(const VmbProgressSum *sum, const VmbProgressRate *rate, guint width);
char *vmb_progress_line(const VmbProgressSum *sum, const VmbProgressRate *rate);
