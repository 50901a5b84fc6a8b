/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Doing the same to many things with several threads. */
#pragma once
#include <glib.h>

/* Calls @work once for each element of @items, in their order, with @n_threads at a time (at least one),
 * and returns when all are done. The threads are joined, so that what libraries keep for each thread is
 * gone as well; a GThreadPool's live on. */
void vmb_parallel_run(GPtrArray *items, guint n_threads, void (*work)(gpointer item, gpointer user),
                      gpointer user);
