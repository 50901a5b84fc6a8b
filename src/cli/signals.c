/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Turns SIGINT, SIGTERM and SIGHUP into one cancellation that lets everything be undone. */
#include "cli/signals.h"
#include "util/log.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static int pipe_fds[2] = {-1, -1};
static volatile gint caught;
static GCancellable *cancel;

/* Only what a signal handler may do: the rest happens in a thread at the other end of the pipe. */
static void
on_signal(int number)
{
    int saved = errno;
    guint8 byte = (guint8)number;
    ssize_t ignored = write(pipe_fds[1], &byte, 1);
    (void)ignored;
    errno = saved;
}

static gpointer
watch(gpointer data)
{
    guint8 number = 0;
    for (;;) {
        ssize_t n = read(pipe_fds[0], &number, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n != 1)
            return NULL;
        if (g_atomic_int_compare_and_exchange(&caught, 0, number)) {
            vmb_warning("%s: stopping, and undoing what is not finished", strsignal(number));
            g_cancellable_cancel(cancel);
        } else {
            vmb_warning("%s: the clean-up is under way; please let it end", strsignal(number));
        }
    }
}

GCancellable *
vmb_signals_install(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    if (cancel != NULL)
        return cancel;
    cancel = g_cancellable_new();
    signal(SIGPIPE, SIG_IGN);
    g_autoptr(GError) error = NULL;
    if (!g_unix_open_pipe(pipe_fds, FD_CLOEXEC, &error) ||
        !g_unix_set_fd_nonblocking(pipe_fds[1], TRUE, &error))
        g_error("cannot watch signals: %s", error->message);
    g_thread_unref(g_thread_new("signals", watch, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(numbers); i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
        sigaction(numbers[i], NULL, &old);
        if (numbers[i] == SIGHUP && old.sa_handler == SIG_IGN)
            continue;
        sigaction(numbers[i], &action, NULL);
    }
    return cancel;
}

int
vmb_signals_caught(void)
{
    return g_atomic_int_get(&caught);
}
