/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Doing the same to many things with several threads. */
#include "util/parallel.h"

typedef struct {
    GPtrArray *items;
    gint next;
    void (*work)(gpointer, gpointer);
    gpointer user;
} Run;

static gpointer
take_items(gpointer data)
{
    Run *run = data;
    for (;;) {
        guint i = (guint)g_atomic_int_add(&run->next, 1);
        if (i >= run->items->len)
            return NULL;
        run->work(run->items->pdata[i], run->user);
    }
}

void
vmb_parallel_run(GPtrArray *items, guint n_threads, void (*work)(gpointer item, gpointer user),
                 gpointer user)
{
    Run run = {items, 0, work, user};
    guint n = MIN(MAX(n_threads, 1), items->len) - (items->len > 0 ? 1 : 0);
    g_autofree GThread **threads = g_new0(GThread *, n + 1);
    for (guint i = 0; i < n; i++)
        threads[i] = g_thread_try_new("parallel", take_items, &run, NULL);
    /* Where no thread can be had, this one does the rest. */
    take_items(&run);
    for (guint i = 0; i < n; i++)
        if (threads[i] != NULL)
            g_thread_join(threads[i]);
}
