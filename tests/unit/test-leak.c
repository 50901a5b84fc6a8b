/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tests of the search for files that were left open. */
#include "util/leak.h"

#include <fcntl.h>
#include <glib.h>
#include <sys/socket.h>
#include <unistd.h>

static void
test_leaks(void)
{
    int pair[2];
    if (g_test_subprocess()) {
        g_setenv("VMBACKUP_TEST_LEAKS", "1", TRUE);
        g_assert_cmpint(open("/etc/passwd", O_RDONLY | O_CLOEXEC), >=, 0);
        vmb_leak_begin();
        g_assert_cmpint(open("/proc/self/maps", O_RDONLY | O_CLOEXEC), >=, 0);
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        close(pair[1]);
        int closed = open("/etc/group", O_RDONLY | O_CLOEXEC);
        close(closed);
        vmb_leak_end();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*leaked descriptor *: /proc/*/maps\n*leaked descriptor *: socket:*");
    g_test_trap_assert_stderr_unmatched("*/etc/*");
}

static void
test_silent(void)
{
    if (g_test_subprocess()) {
        vmb_leak_begin();
        g_assert_cmpint(open("/etc/passwd", O_RDONLY | O_CLOEXEC), >=, 0);
        vmb_leak_end();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr_unmatched("*leaked*");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/leak/leaks", test_leaks);
    g_test_add_func("/leak/silent", test_silent);
    return g_test_run();
}
