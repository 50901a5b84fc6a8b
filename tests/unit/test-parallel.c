/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Doing the same to many things: each once, all done at the end, so many at a time. */
#include "util/parallel.h"

typedef struct {
    gint done[100];
    gint running, most;
} Seen;

static void
work(gpointer item, gpointer user)
{
    Seen *seen = user;
    gint now = g_atomic_int_add(&seen->running, 1) + 1, most = g_atomic_int_get(&seen->most);
    while (now > most && !g_atomic_int_compare_and_exchange(&seen->most, most, now))
        most = g_atomic_int_get(&seen->most);
    g_usleep(200);
    g_atomic_int_inc(&seen->done[GPOINTER_TO_INT(item)]);
    g_atomic_int_add(&seen->running, -1);
}

static void
test_each_once(void)
{
    static const guint threads[] = {0, 1, 2, 7, 200};
    for (guint t = 0; t < G_N_ELEMENTS(threads); t++)
        for (gint n = 0; n <= 100; n += n < 4 ? 1 : 32) {
            Seen seen = {.running = 0};
            g_autoptr(GPtrArray) items = g_ptr_array_new();
            for (gint i = 0; i < n; i++)
                g_ptr_array_add(items, GINT_TO_POINTER(i));
            vmb_parallel_run(items, threads[t], work, &seen);
            for (gint i = 0; i < n; i++)
                g_assert_cmpint(seen.done[i], ==, 1);
            g_assert_cmpint(seen.running, ==, 0);
            g_assert_cmpint(seen.most, <=, (gint)MAX(threads[t], 1));
        }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/parallel/each-once", test_each_once);
    return g_test_run();
}
