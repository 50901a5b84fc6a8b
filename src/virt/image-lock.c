/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether some process could be writing to an image, by QEMU's locks and by the kernel. */
#include "virt/image-lock.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/vfs.h>

/* Bytes of those permissions with which an image can change: BLK_PERM_WRITE, _WRITE_UNCHANGED and
 * _RESIZE; and who shares consistent reading with nobody is about to make the image inconsistent. */
static const struct {
    off_t byte;
    const char *who;
} locks[] = {
    {101, "a QEMU that may write to it"},
    {102, "a QEMU job that rewrites it"},
    {103, "a QEMU that may resize it"},
    {200, "a QEMU job that makes it inconsistent meanwhile"},
};

static gboolean
ask_locks(int fd, const char *path, char **who, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(locks); i++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = locks[i].byte,
                             .l_len = 1};
        if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
            return vmb_error_errno(error, errno, "cannot ask for the locks on %s", path);
        if (lock.l_type != F_UNLCK) {
            *who = g_strdup(locks[i].who);
            return TRUE;
        }
    }
    return TRUE;
}

/* There a lease depends on what the server has delegated: a refusal says nothing of other processes. */
static gboolean
is_remote(const struct statfs *fs)
{
    static const guint32 remote[] = {0x6969 /* NFS */, 0x517b /* SMB */, 0xff534d42 /* CIFS */,
                                     0xfe534d42 /* SMB2 */};
    for (gsize i = 0; i < G_N_ELEMENTS(remote); i++)
        if ((guint32)fs->f_type == remote[i])
            return TRUE;
    return FALSE;
}

/* A read lease is granted only when nobody has the file open for writing. While we hold it, who opens it
 * for writing waits; so it is given back at once. Not all file systems have leases, and they are for the
 * file's owner and the administrator: without an answer QEMU's locks must do. */
static int
try_lease(int fd)
{
    struct statfs fs;
    /* Who waits makes the kernel signal us, by default with one that kills. */
    if (fstatfs(fd, &fs) < 0 || is_remote(&fs))
        return ENOLCK;
    if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
        return errno;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return 0;
}

/* Mounted, part of a volume group, or otherwise claimed by the kernel. */
static gboolean
is_claimed(const char *path)
{
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_EXCL);
    return fd < 0 && errno == EBUSY;
}

gboolean
vmb_image_writer(const char *path, char **who, GError **error)
{
    struct stat st;
    *who = NULL;
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "cannot open %s", path);
    if (!ask_locks(fd, path, who, error))
        return FALSE;
    if (*who == NULL && S_ISREG(st.st_mode) && try_lease(fd) == EAGAIN)
        *who = g_strdup("another process that has it open for writing");
    if (*who == NULL && S_ISBLK(st.st_mode) && is_claimed(path))
        *who = g_strdup("this host, which has mounted it or uses it for another device");
    return TRUE;
}

gboolean
vmb_image_has_leases(const char *path)
{
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int problem = fd >= 0 ? try_lease(fd) : errno;
    return problem == 0 || problem == EAGAIN;
}
