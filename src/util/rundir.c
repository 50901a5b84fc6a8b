/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host's directory for locks and sockets of running backups. */
#include "util/rundir.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

gboolean
vmb_make_dirs(const char *path, guint mode, GError **error)
{
    g_autofree char *part = g_strdup(path);
    for (char *slash = part + 1;; slash++) {
        slash = strchr(slash, '/');
        if (slash != NULL)
            *slash = '\0';
        if (mkdir(part, mode) == 0) {
            if (chmod(part, mode) < 0)
                return vmb_error_errno(error, errno, "cannot set the mode of %s", part);
        } else if (errno != EEXIST) {
            return vmb_error_errno(error, errno, "cannot make the directory %s", part);
        }
        if (slash == NULL)
            return TRUE;
        *slash = '/';
    }
}

/* By its number and not by the environment: a cron job of the same user has no XDG_RUNTIME_DIR, and must meet
 * the same locks. */
static char *
user_dir(void)
{
    struct stat st;
    g_autofree char *path = g_strdup_printf("/run/user/%lu", (unsigned long)geteuid());
    if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid())
        return g_steal_pointer(&path);
    return g_strdup(g_get_user_runtime_dir());
}

char *
vmb_run_dir(GError **error)
{
    g_autofree char *path = g_strdup(g_getenv("VMBACKUP_TEST_RUN_DIR"));
    if (path == NULL && geteuid() == 0)
        path = g_strdup("/run/vmbackup");
    if (path == NULL) {
        g_autofree char *user = user_dir();
        path = g_build_filename(user, "vmbackup", NULL);
    }
    if (!vmb_make_dirs(path, 0711, error))
        return NULL;
    return g_steal_pointer(&path);
}
