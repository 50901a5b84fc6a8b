/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fault points: each action in a child of its own, for the variable is read once per process. */
#include "util/error.h"
#include "util/fault.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define POINT "journal-written"

static volatile sig_atomic_t n_signals;

static void
count_signal(int number)
{
    n_signals++;
}

/* What the child's exit status tells about vmb_fault_point(POINT). */
enum { WENT_ON = 10, FAILED, NO_SPACE, OTHER };

static int
pass_point(void)
{
    g_autoptr(GError) error = NULL;
    if (vmb_fault_point(POINT, &error))
        return WENT_ON + (n_signals > 0 ? 10 : 0);
    if (strstr(error->message, POINT) == NULL)
        return OTHER;
    return g_error_matches(error, VMB_ERROR, VMB_ERROR_FAILED)     ? FAILED
           : g_error_matches(error, VMB_ERROR, VMB_ERROR_NO_SPACE) ? NO_SPACE
                                                                   : OTHER;
}

static pid_t
start(const char *faults)
{
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid > 0)
        return pid;
    if (faults != NULL)
        g_setenv("VMBACKUP_TEST_FAIL_AT", faults, TRUE);
    else
        g_unsetenv("VMBACKUP_TEST_FAIL_AT");
    signal(SIGTERM, count_signal);
    signal(SIGINT, count_signal);
    _exit(pass_point());
}

static int
wait_for(pid_t pid, int options)
{
    int status = 0;
    g_assert_cmpint(waitpid(pid, &status, options), ==, pid);
    return status;
}

static void
check_exit(const char *faults, int expected)
{
    int status = wait_for(start(faults), 0);
    g_test_message("%s", faults != NULL ? faults : "(unset)");
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, expected);
}

static void
test_off(void)
{
    check_exit(NULL, WENT_ON);
    check_exit("", WENT_ON);
    check_exit("frozen=fail,published=kill", WENT_ON);
}

static void
test_errors(void)
{
    check_exit(POINT "=fail", FAILED);
    check_exit(POINT "=enospc", NO_SPACE);
    check_exit("frozen=kill," POINT "=fail,thawed=stop", FAILED);
    check_exit(POINT "=delay:1," POINT "=enospc", NO_SPACE);
}

static void
test_kill(void)
{
    static const char *const faults[] = {POINT, POINT "=kill", "thawed=fail," POINT};
    for (gsize i = 0; i < G_N_ELEMENTS(faults); i++) {
        int status = wait_for(start(faults[i]), 0);
        g_assert_true(WIFSIGNALED(status));
        g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
    }
}

static void
test_signals(void)
{
    check_exit(POINT "=term", WENT_ON + 10);
    check_exit(POINT "=int", WENT_ON + 10);
}

static void
test_delay(void)
{
    gint64 before = g_get_monotonic_time();
    check_exit(POINT "=delay:120", WENT_ON);
    g_assert_cmpint(g_get_monotonic_time() - before, >=, 120000);
}

static void
test_stop(void)
{
    pid_t pid = start(POINT "=stop");
    g_assert_true(WIFSTOPPED(wait_for(pid, WUNTRACED)));
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    g_assert_cmpint(WEXITSTATUS(wait_for(pid, 0)), ==, WENT_ON);
}

static void
test_wait(void)
{
    g_autofree char *directory = g_dir_make_tmp("vmb-fault-XXXXXX", NULL);
    g_autofree char *gate = g_build_filename(directory, "gate", NULL);
    g_autofree char *reached = g_strconcat(gate, ".reached", NULL);
    g_autofree char *faults = g_strconcat(POINT "=wait:", gate, NULL);
    pid_t pid = start(faults);
    gint64 deadline = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;
    while (!g_file_test(reached, G_FILE_TEST_EXISTS) && g_get_monotonic_time() < deadline)
        g_usleep(1000);
    g_assert_true(g_file_test(reached, G_FILE_TEST_EXISTS));
    g_assert_cmpint(waitpid(pid, NULL, WNOHANG), ==, 0); /* it waits */
    g_assert_true(g_file_set_contents(gate, "", 0, NULL));
    g_assert_cmpint(WEXITSTATUS(wait_for(pid, 0)), ==, WENT_ON);
    g_unlink(gate);
    g_unlink(reached);
    g_rmdir(directory);
}

/* A step that does not exist would make a test that injects nothing. */
static void
test_unknown(void)
{
    static const char *const faults[] = {"journal", "journal-written2=fail", "=fail",
                                         "frozen=fail,nonsense"};
    for (gsize i = 0; i < G_N_ELEMENTS(faults); i++)
        check_exit(faults[i], 2);
}

static void
test_table(void)
{
    const char *const *names = vmb_fault_points();
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_assert_true(g_strv_contains(names, POINT));
    for (; *names != NULL; names++) {
        g_assert_true(g_hash_table_add(seen, (gpointer)*names));
        g_assert_cmpuint(strcspn(*names, "=,"), ==, strlen(*names));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fault/off", test_off);
    g_test_add_func("/fault/errors", test_errors);
    g_test_add_func("/fault/kill", test_kill);
    g_test_add_func("/fault/signals", test_signals);
    g_test_add_func("/fault/delay", test_delay);
    g_test_add_func("/fault/stop", test_stop);
    g_test_add_func("/fault/wait", test_wait);
    g_test_add_func("/fault/unknown", test_unknown);
    g_test_add_func("/fault/table", test_table);
    return g_test_run();
}
