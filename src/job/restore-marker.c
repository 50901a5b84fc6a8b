/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Says in a directory that the files of a restore are being moved there, and which. */
#include "job/restore-marker.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#define TEXT                                                                                       \
    "# A restore by vmbackup was moving these files here when it was interrupted: they may not be\n" \
    "# all, and domain.xml comes last. Restore to this directory again, which removes them first.\n"
#define LIMIT (1024 * 1024)

struct VmbRestoreMarker {
    int directory_fd; /* borrowed */
    char *directory;
    int fd; /* keeps the lock */
};

/* One line: what tells that a file is the one, and is as it was. */
static char *
describe(const struct stat *st, const char *name)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %" G_GINT64_FORMAT
                           ".%09ld %s\n", (guint64)st->st_ino, (guint64)st->st_size,
                           (gint64)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, name);
}

static gboolean
write_list(int fd, int from_fd, const GPtrArray *names, GError **error)
{
    g_autoptr(GString) text = g_string_new(TEXT);
    for (guint i = 0; i < names->len; i++) {
        struct stat st;
        const char *name = names->pdata[i];
        if (fstatat(from_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return vmb_error_errno(error, errno, "cannot look at %s", name);
        g_autofree char *line = describe(&st, name);
        g_string_append(text, line);
    }
    return vmb_fs_pwrite(fd, text->str, text->len, 0, VMB_RESTORE_MARKER, error) &&
           vmb_fs_sync(fd, VMB_RESTORE_MARKER, error);
}

VmbRestoreMarker *
vmb_restore_marker_new(int directory_fd, const char *directory, int from_fd,
                       const GPtrArray *names, GError **error)
{
    int fd = vmb_fs_open_beneath(directory_fd, VMB_RESTORE_MARKER, O_RDWR | O_CREAT | O_EXCL, 0600,
                                 directory, error);
    if (fd < 0)
        return NULL;
    g_autoptr(VmbRestoreMarker) marker = g_new0(VmbRestoreMarker, 1);
    marker->directory_fd = directory_fd;
    marker->directory = g_strdup(directory);
    marker->fd = fd;
    /* Without locks the next restore takes this one for a dead one: but it finds a busy directory. */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        vmb_debug("%s cannot be locked: %s", VMB_RESTORE_MARKER, g_strerror(errno));
    if (!write_list(fd, from_fd, names, error) || !vmb_fs_sync(directory_fd, directory, error))
        return NULL;
    return g_steal_pointer(&marker);
}

void
vmb_restore_marker_free(VmbRestoreMarker *marker)
{
    if (marker == NULL)
        return;
    if (vmb_fs_unlink(marker->directory_fd, VMB_RESTORE_MARKER, 0) < 0)
        vmb_warning("cannot remove %s/" VMB_RESTORE_MARKER ": %s", marker->directory,
                    g_strerror(errno));
    vmb_fd_clear(&marker->fd);
    g_free(marker->directory);
    g_free(marker);
}

/* ---- after a restore that died ---- */

/* The name at the end of a line, or NULL. */
static const char *
name_in(const char *line)
{
    const char *last = line[0] != '#' ? strrchr(line, ' ') : NULL;
    return last != NULL && last[1] != '\0' && strchr(last + 1, '/') == NULL ? last + 1 : NULL;
}

/* *@mine: a file of that name is there, as the restore left it. */
static gboolean
check_file(int directory_fd, const char *directory, const char *line, gboolean *mine,
           GError **error)
{
    struct stat st;
    const char *name = name_in(line);
    *mine = FALSE;
    if (name == NULL || fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return TRUE;
    g_autofree char *now = describe(&st, name);
    *mine = S_ISREG(st.st_mode) && strncmp(now, line, strlen(line)) == 0 &&
            strlen(now) == strlen(line) + 1;
    return *mine ||
           vmb_error_set(error, VMB_ERROR_FAILED,
                         "%s holds a part of an interrupted restore, and %s was changed since: "
                         "nothing was removed or restored. Choose an empty directory, or remove "
                         "what %s/" VMB_RESTORE_MARKER " lists", directory, name, directory);
}

static gboolean
undo_listed(int directory_fd, const char *directory, char **lines, gboolean really, GError **error)
{
    for (guint i = 0; lines[i] != NULL; i++) {
        gboolean mine = FALSE;
        if (!check_file(directory_fd, directory, lines[i], &mine, error))
            return FALSE;
        if (mine && really && vmb_fs_unlink(directory_fd, name_in(lines[i]), 0) < 0)
            return vmb_error_errno(error, errno, "cannot remove %s/%s", directory,
                                   name_in(lines[i]));
    }
    return TRUE;
}

gboolean
vmb_restore_marker_undo(int directory_fd, const char *directory, GError **error)
{
    gsize length = 0;
    g_autofree char *text = NULL;
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(directory_fd, VMB_RESTORE_MARKER, O_RDWR | O_NONBLOCK, 0, "", NULL);
    if (fd < 0)
        return TRUE;
    /* Over NFS only who may write can lock exclusively. */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return vmb_error_set(error, VMB_ERROR_LOCKED,
                             "another restore is moving its files to %s at this moment", directory);
    if (!vmb_fs_read_file(directory_fd, VMB_RESTORE_MARKER, LIMIT, &text, &length, error))
        return FALSE;
    vmb_notice("removing what an interrupted restore has left in %s", directory);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    if (!undo_listed(directory_fd, directory, lines, FALSE, error) ||
        !undo_listed(directory_fd, directory, lines, TRUE, error))
        return FALSE;
    return vmb_fs_unlink(directory_fd, VMB_RESTORE_MARKER, 0) == 0 ||
           vmb_error_errno(error, errno, "cannot remove %s/" VMB_RESTORE_MARKER, directory);
}
