/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where users other than root have their locks: in one place, whatever the environment says. */
#include "util/rundir.h"
#include "util/error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOME_USER 65534

/* In a process of its own: as another user than root, with @runtime as XDG_RUNTIME_DIR. */
static gboolean
is_run_dir(const char *runtime, const char *expected)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        g_autoptr(GError) error = NULL;
        if (geteuid() == 0 && setuid(SOME_USER) < 0)
            _exit(2);
        g_unsetenv("VMBACKUP_TEST_RUN_DIR");
        g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
        g_autofree char *path = vmb_run_dir(&error);
        _exit(g_strcmp0(path, expected) == 0 ? 0 : 1);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void
test_user(void)
{
    struct stat st;
    uid_t uid = geteuid() == 0 ? SOME_USER : geteuid();
    g_autofree char *runtime = g_dir_make_tmp("vmbackup-rundir-XXXXXX", NULL);
    g_autofree char *system = g_strdup_printf("/run/user/%lu", (unsigned long)uid);
    gboolean made = stat(system, &st) == 0 && st.st_uid == uid;
    g_autofree char *below = g_build_filename(runtime, "vmbackup", NULL);
    g_autofree char *expected = g_build_filename(made ? system : runtime, "vmbackup", NULL);
    g_assert_cmpint(g_chmod(runtime, 0777), ==, 0);
    g_assert_true(is_run_dir(runtime, expected));
    g_rmdir(below);
    g_rmdir(runtime);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rundir/user", test_user);
    return g_test_run();
}
