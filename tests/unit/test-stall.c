/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tests of the marks that tell that a filesystem stands still. */
#include "util/stall.h"
#include "virt/guard-parent.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS G_GUINT64_CONSTANT(1000000)

static void
test_nothing(void)
{
    g_assert_cmpuint(vmb_io_standstill(), ==, 0);
    {
        g_auto(VmbIoMark) mark = vmb_io_mark();
        g_assert_cmpuint(mark, !=, 0);
    }
    g_assert_cmpuint(vmb_io_standstill(), ==, 0);
}

static void
test_standstill(void)
{
    VmbIoMark hanging = vmb_io_mark();
    g_usleep(30 * 1000);
    g_assert_cmpuint(vmb_io_standstill(), >=, 30 * MS);
    /* Another call returns: something moves. */
    VmbIoMark other = vmb_io_mark();
    g_assert_cmpuint(other, !=, hanging);
    g_assert_cmpuint(vmb_io_standstill(), >=, 30 * MS);
    vmb_io_mark_clear(&other);
    g_assert_cmpuint(vmb_io_standstill(), <, 30 * MS);
    g_usleep(10 * 1000);
    g_assert_cmpuint(vmb_io_standstill(), >=, 10 * MS);
    vmb_io_mark_clear(&hanging);
    g_assert_cmpuint(hanging, ==, 0);
    g_assert_cmpuint(vmb_io_standstill(), ==, 0);
}

static gpointer
mark_often(gpointer data)
{
    for (int i = 0; i < 20000; i++) {
        g_auto(VmbIoMark) mark = vmb_io_mark();
        g_assert_cmpuint(mark, !=, 0);
    }
    return NULL;
}

static void
test_threads(void)
{
    GThread *threads[8];
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("marks", mark_often, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    g_assert_cmpuint(vmb_io_standstill(), ==, 0);
}

/* More calls than places: those beyond are not seen, and harm nothing. */
static void
test_too_many(void)
{
    VmbIoMark marks[300];
    for (guint i = 0; i < G_N_ELEMENTS(marks); i++)
        marks[i] = vmb_io_mark();
    g_assert_cmpuint(marks[G_N_ELEMENTS(marks) - 1], ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(marks); i++)
        vmb_io_mark_clear(&marks[i]);
    g_assert_cmpuint(vmb_io_standstill(), ==, 0);
}

static void
test_patience(void)
{
    g_assert_cmpuint(vmb_io_patience(), ==, 60000 * MS);
    g_setenv("VMBACKUP_TEST_IO_PATIENCE_MS", "1500", TRUE);
    g_assert_cmpuint(vmb_io_patience(), ==, 1500 * MS);
    g_unsetenv("VMBACKUP_TEST_IO_PATIENCE_MS");
}

/* A killed process that is not yet waited for is what the guard sees of one whose threads hang. */
static void
test_parent(void)
{
    siginfo_t info;
    g_assert_false(vmb_guard_parent_is_killed(getpid()));
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    g_assert_cmpint(child, >, 0);
    g_assert_false(vmb_guard_parent_is_killed(child));
    kill(child, SIGKILL);
    g_assert_cmpint(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), ==, 0);
    g_assert_true(vmb_guard_parent_is_killed(child));
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_false(vmb_guard_parent_is_killed(child));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stall/nothing", test_nothing);
    g_test_add_func("/stall/standstill", test_standstill);
    g_test_add_func("/stall/threads", test_threads);
    g_test_add_func("/stall/too-many", test_too_many);
    g_test_add_func("/stall/patience", test_patience);
    g_test_add_func("/stall/parent", test_parent);
    return g_test_run();
}
