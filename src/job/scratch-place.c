/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a directory may and can hold what QEMU must reach. */
#include "job/scratch-place.h"
#include "util/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The real path of the deepest directory on the way to @path that exists. Free with free(). */
static char *
real_parent(const char *path)
{
    g_autofree char *part = g_strdup(path);
    for (;;) {
        char *real = realpath(part, NULL);
        if (real != NULL || strcmp(part, "/") == 0 || strcmp(part, ".") == 0)
            return real;
        char *up = g_path_get_dirname(part);
        g_free(part);
        part = up;
    }
}

static gboolean
is_in(const char *path, const char *directory)
{
    gsize length = strlen(directory);
    return strncmp(path, directory, length) == 0 &&
           (path[length] == '\0' || path[length] == '/' || strcmp(directory, "/") == 0);
}

gboolean
vmb_scratch_place_outside(const char *path, const char *repository, GError **error)
{
    char *place = real_parent(path), *forbidden = realpath(repository, NULL);
    gboolean inside = place != NULL && forbidden != NULL && is_in(place, forbidden);
    free(place);
    free(forbidden);
    return !inside || vmb_error_set(error, VMB_ERROR_USAGE,
                                    "the scratch directory %s lies in the repository %s, where QEMU "
                                    "must never write; nothing was changed. Choose another place "
                                    "with --scratch-dir", path, repository);
}

static gboolean
may_pass(const char *directory, const struct stat *st, guint64 uid, guint64 gid)
{
    mode_t bit = st->st_uid == uid ? S_IXUSR : st->st_gid == gid ? S_IXGRP : S_IXOTH;
    return (st->st_mode & bit) != 0 ||
           getxattr(directory, "system.posix_acl_access", NULL, 0) > 0;
}

gboolean
vmb_scratch_place_passable(const char *path, guint64 uid, guint64 gid, GError **error)
{
    char *real = real_parent(path);
    g_autofree char *part = g_strdup(real);
    struct stat st;
    free(real);
    while (part != NULL && uid != 0 && stat(part, &st) == 0) {
        if (S_ISDIR(st.st_mode) && !may_pass(part, &st, uid, gid))
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "QEMU's user (number %" G_GUINT64_FORMAT ") cannot pass through %s "
                                 "on the way to %s; nothing was changed. `chmod o+x %s` lets it pass, "
                                 "or choose another place with --scratch-dir", uid, part, path, part);
        if (strcmp(part, "/") == 0)
            return TRUE;
        char *up = g_path_get_dirname(part);
        g_free(part);
        part = up;
    }
    return TRUE;
}

gboolean
vmb_scratch_place_check(const char *path, const char *repository, guint64 uid, guint64 gid,
                        GError **error)
{
    gboolean known = geteuid() == 0 && uid != G_MAXUINT64;
    return (repository == NULL || vmb_scratch_place_outside(path, repository, error)) &&
           (!known || vmb_scratch_place_passable(path, uid, gid, error));
}
