/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a filesystem must be able to do before a repository is made on it. */
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/mount.h"

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
check_lock(int dir_fd, int fd, const char *path, GError **error)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return vmb_error_errno(error, errno,
                               "%s: its filesystem does not lock files, so that two runs could not be "
                               "kept from each other's points: nothing was made. Choose another "
                               "filesystem, or mount it with locks", path);
    /* One that says yes to everybody. Shared, as readers do: over NFS that needs no right to write. */
    g_auto(VmbFd) other =
        vmb_fs_open_beneath(dir_fd, VMB_REPOSITORY_PROBE, O_RDONLY, 0, path, error);
    if (other < 0)
        return FALSE;
    if (flock(other, LOCK_SH | LOCK_NB) == 0)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: its filesystem grants the same lock twice, so that two runs could "
                             "not be kept from each other's points: nothing was made. Choose another "
                             "filesystem, or mount it with locks", path);
    return TRUE;
}

/* The repository is this host's alone then: vmb_place_look() records that. */
static void
tell_local_locks(int fd, const char *path)
{
    g_autoptr(VmbMount) mount = vmb_mount_of(fd);
    g_autofree char *option = mount != NULL ? vmb_mount_local_locks(mount) : NULL;
    if (option != NULL)
        vmb_warning("%s is mounted with '%s': other hosts do not see this one's locks, so the repository can be "
                    "written to by this host only", path, option);
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
    gboolean able = check_mode(fd, path, error) && check_lock(dir_fd, fd, path, error);
    if (able)
        tell_local_locks(fd, path);
    vmb_fs_unlink(dir_fd, VMB_REPOSITORY_PROBE, 0);
    return able;
}
