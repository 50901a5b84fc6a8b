/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Programs that run beside us: their descriptors, their last words, and that they end with us. */
#include "util/child.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

static VmbChild *
shell(const char *script, const int *fds, guint n_fds, gboolean listening, int end_signal)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    VmbChildSpec spec = {argv, fds, n_fds, listening, end_signal};
    g_autoptr(GError) error = NULL;
    VmbChild *child = vmb_child_start(&spec, &error);
    g_assert_no_error(error);
    return child;
}

static void
test_end(void)
{
    g_autoptr(VmbChild) good = shell("exit 0", NULL, 0, FALSE, SIGKILL);
    g_assert_true(vmb_child_wait(good, 10000));
    g_assert_true(vmb_child_wait(good, 0));
    g_autoptr(VmbChild) bad = shell("echo first >&2; echo second >&2; exit 3", NULL, 0, FALSE,
                                    SIGKILL);
    g_assert_false(vmb_child_wait(bad, 10000));
    g_autofree char *words = vmb_child_complaint(bad);
    g_assert_cmpstr(words, ==, "first");
    g_autoptr(VmbChild) silent = shell("exit 3", NULL, 0, FALSE, SIGKILL);
    g_assert_false(vmb_child_wait(silent, 10000));
    g_autofree char *status = vmb_child_complaint(silent);
    g_assert_cmpstr(status, ==, "sh ended with status 3");
    g_autoptr(VmbChild) hanging = shell("exec sleep 600", NULL, 0, FALSE, SIGTERM);
    g_assert_false(vmb_child_wait(hanging, 10));
    g_autofree char *ended = vmb_child_complaint(hanging);
    g_assert_cmpstr(ended, ==, "sh was ended by signal 15");
}

static void
test_absent(void)
{
    const char *const argv[] = {"no-such-program", NULL};
    VmbChildSpec spec = {.argv = argv, .end_signal = SIGKILL};
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_child_start(&spec, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

/* The second descriptor has a number that the first one is to get. */
static void
test_descriptors(void)
{
    int out[2], other[2];
    char bytes[64] = {0};
    g_assert_cmpint(pipe2(out, O_CLOEXEC), ==, 0);
    g_assert_cmpint(pipe2(other, O_CLOEXEC), ==, 0);
    int fds[] = {out[1], other[1]};
    g_autoptr(VmbChild) child = shell("echo \"$LISTEN_FDS $((LISTEN_PID - $$))\" >&3; echo b >&4",
                                      fds, 2, TRUE, SIGKILL);
    close(out[1]);
    close(other[1]);
    g_assert_true(vmb_child_wait(child, 10000));
    g_assert_cmpint(read(out[0], bytes, sizeof bytes - 1), >, 0);
    g_assert_cmpstr(bytes, ==, "2 0\n");
    memset(bytes, 0, sizeof bytes);
    g_assert_cmpint(read(other[0], bytes, sizeof bytes - 1), >, 0);
    g_assert_cmpstr(bytes, ==, "b\n");
    /* Nothing else of ours is open there. */
    g_assert_cmpint(read(out[0], bytes, 1), ==, 0);
    close(out[0]);
    close(other[0]);
}

/* A program of its own starts a child and is killed. */
static void
test_dies_with_us(void)
{
    int out[2];
    char byte;
    g_assert_cmpint(pipe2(out, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        const char *const argv[] = {"sh", "-c", "echo >&3; exec sleep 600", NULL};
        VmbChildSpec spec = {argv, &out[1], 1, FALSE, SIGKILL};
        close(out[0]);
        _exit(vmb_child_start(&spec, NULL) != NULL && pause() ? 0 : 1);
    }
    close(out[1]);
    g_assert_cmpint(read(out[0], &byte, 1), ==, 1);
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    /* Nobody holds the other end any more. */
    g_assert_cmpint(read(out[0], &byte, 1), ==, 0);
    close(out[0]);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/child/end", test_end);
    g_test_add_func("/child/absent", test_absent);
    g_test_add_func("/child/descriptors", test_descriptors);
    g_test_add_func("/child/dies-with-us", test_dies_with_us);
    return g_test_run();
}
