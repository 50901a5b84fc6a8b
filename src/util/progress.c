/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a job tells of its progress: counters that any thread adds to and a view reads. */
#include "util/progress.h"
#include "util/units.h"

struct VmbProgress {
    VmbProgressState state;
};

static GMutex lock; /* guards the list and all states: updates are per chunk, so it is cold */
static GList *all;

VmbProgress *
vmb_progress_new(const char *label)
{
    VmbProgress *progress = g_new0(VmbProgress, 1);
    progress->state.label = g_strdup(label);
    progress->state.phase = "starting";
    progress->state.started_ns = vmb_units_monotonic();
    g_mutex_lock(&lock);
    all = g_list_append(all, progress);
    g_mutex_unlock(&lock);
    return progress;
}

void
vmb_progress_free(VmbProgress *progress)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&lock);
    all = g_list_remove(all, progress);
    g_mutex_unlock(&lock);
    g_free(progress->state.label);
    g_free(progress);
}

void
vmb_progress_phase(VmbProgress *progress, const char *phase)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&lock);
    progress->state.phase = phase;
    g_mutex_unlock(&lock);
}

void
vmb_progress_add_total(VmbProgress *progress, guint64 bytes)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&lock);
    progress->state.total += bytes;
    g_mutex_unlock(&lock);
}

void
vmb_progress_advance(VmbProgress *progress, guint64 done, guint64 moved)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&lock);
    progress->state.done += done;
    progress->state.moved += moved;
    g_mutex_unlock(&lock);
}

void
vmb_progress_foreach(void (*visit)(const VmbProgressState *, gpointer), gpointer data)
{
    g_mutex_lock(&lock);
    for (GList *l = all; l != NULL; l = l->next)
        visit(&((VmbProgress *)l->data)->state, data);
    g_mutex_unlock(&lock);
}
