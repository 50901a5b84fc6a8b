/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands of the user's: environment, status, and their end with us. */
#include "util/shell.h"
#include "util/units.h"

#include <glib/gstdio.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>

static const char *const none[] = {NULL};

static void
test_status(void)
{
    static const struct {
        const char *command, *says;
        int status;
    } cases[] = {
        {"true", NULL, 0},
        {"exit 3", "ended with status 3", 3},
        {"kill -9 $$", "was ended by signal 9", 137},
        {"/does/not/exist 2>/dev/null", "ended with status 127", 127},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        int status = -1;
        g_autoptr(VmbShell) shell = vmb_shell_start(cases[i].command, none, &error);
        g_assert_no_error(error);
        struct pollfd end = {vmb_shell_fd(shell), POLLIN, 0};
        g_assert_cmpint(poll(&end, 1, 10000), ==, 1);
        g_autofree char *says = vmb_shell_wait(shell, &status);
        g_assert_cmpstr(says, ==, cases[i].says);
        g_assert_cmpint(status, ==, cases[i].status);
    }
}

static void
test_environment(void)
{
    const char *const variables[] = {"VMBACKUP_URI=nbd://x/y?a=b", "VMBACKUP_EMPTY=", "PATH_OF=1", NULL};
    g_autoptr(GError) error = NULL;
    g_setenv("LISTEN_FDS", "1", TRUE);
    g_setenv("NOTIFY_SOCKET", "/x", TRUE);
    g_autoptr(VmbShell) shell = vmb_shell_start(
        "[ \"$VMBACKUP_URI\" = 'nbd://x/y?a=b' ] && [ \"${VMBACKUP_EMPTY-no}\" = '' ] && [ -n \"$PATH\" ] && "
        "[ -z \"$LISTEN_FDS$NOTIFY_SOCKET\" ]", variables, &error);
    g_assert_no_error(error);
    g_assert_null(vmb_shell_wait(shell, NULL));
    g_unsetenv("LISTEN_FDS");
    g_unsetenv("NOTIFY_SOCKET");
}

static void
test_end(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "vmbackup-test-shell-XXXXXX", NULL);
    g_assert_nonnull(g_mkdtemp(path));
    g_autofree char *file = g_build_filename(path, "ended", NULL);
    g_autofree char *begun = g_build_filename(path, "begun", NULL);
    g_autofree char *command = g_strdup_printf(
        "trap 'touch %s; exit 0' TERM; touch %s; while :; do sleep 0.05; done", file, begun);
    VmbShell *shell = vmb_shell_start(command, none, &error);
    g_assert_no_error(error);
    for (int i = 0; i < 200 && !g_file_test(begun, G_FILE_TEST_EXISTS); i++)
        g_usleep(50000);
    guint64 start = vmb_units_monotonic();
    vmb_shell_free(shell);
    g_assert_cmpuint(vmb_units_monotonic() - start, <, G_GUINT64_CONSTANT(8000000000));
    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS));
    g_unlink(file);
    g_unlink(begun);
    g_rmdir(path);
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shell/status", test_status);
    g_test_add_func("/shell/environment", test_environment);
    g_test_add_func("/shell/end", test_end);
    return g_test_run();
}
