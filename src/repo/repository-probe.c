/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a filesystem must be able to do before a repository is made on it. */
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

static gboolean
check_mode(int fd, const char *path, GError **error)
{
    struct stat st;
    gboolean kept = vmb_fs_make_private(fd) == 0 && fstat(fd, &st) == 0 && (st.st_mode & 077) == 0;
    return kept ||
           vmb_error_set(error, VMB_ERROR_FAILED,
                         "%s: its filesystem does not keep the permissions of files (FAT and exFAT "
                         "do not, nor do some network mounts), but points hold all that is on the "
                         "guests' disks, and passwords of their configuration: nothing was made. "
                         "Choose another filesystem, such as ext4 or XFS", path);
}

static gboolean
check_lock(int fd, const char *path, GError **error)
{
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ||
           vmb_error_errno(error, errno,
                           "%s: its filesystem does not lock files, so that two runs could not be "
                           "kept from each other's points: nothing was made. Choose another "
                           "filesystem, or mount it with locks", path);
}

gboolean
vmb_repository_probe(int dir_fd, const char *path, GError **error)
{
    vmb_fs_unlink(dir_fd, VMB_REPOSITORY_PROBE, 0);
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(dir_fd, VMB_REPOSITORY_PROBE, O_RDWR | O_CREAT | O_EXCL, 0600, path,
                            error);
    if (fd < 0)
        return FALSE;
    gboolean able = check_mode(fd, path, error) && check_lock(fd, path, error);
    vmb_fs_unlink(dir_fd, VMB_REPOSITORY_PROBE, 0);
    return able;
}
