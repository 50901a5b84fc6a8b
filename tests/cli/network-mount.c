/* SPDX-License-Identifier: GPL-2.0-or-later */
/* To be preloaded: locks as they are on a network filesystem. Like NFS in Linux (nfs_flock() of fs/nfs/file.c) it locks
 * exclusively only what is open for writing and shares only what is open for reading, and directories it locks for
 * this host alone: here, not at all. VMBACKUP_TEST_MOUNTINFO names a file to be read in the place of
 * /proc/self/mountinfo; with it all filesystems are of the type that NFS has. With VMBACKUP_TEST_LOCKS=all every lock is
 * granted. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

static int
is_refused(int fd, int operation)
{
    int mode = fcntl(fd, F_GETFL) & O_ACCMODE;
    return ((operation & LOCK_EX) != 0 && mode == O_RDONLY) ||
           ((operation & LOCK_SH) != 0 && mode == O_WRONLY);
}

int
flock(int fd, int operation)
{
    int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    const char *locks = getenv("VMBACKUP_TEST_LOCKS");
    struct stat st;
    if (locks != NULL && strcmp(locks, "all") == 0)
        return 0;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    if (is_refused(fd, operation)) {
        errno = EBADF;
        return -1;
    }
    return real(fd, operation);
}

int
fstatfs(int fd, struct statfs *buffer)
{
    int (*real)(int, struct statfs *) = (int (*)(int, struct statfs *))dlsym(RTLD_NEXT, "fstatfs");
    int result = real(fd, buffer);
    if (result == 0 && getenv("VMBACKUP_TEST_MOUNTINFO") != NULL)
        buffer->f_type = 0x6969;
    return result;
}

int
open(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    const char *other = getenv("VMBACKUP_TEST_MOUNTINFO");
    mode_t mode = 0;
    if ((flags & (O_CREAT | O_TMPFILE)) != 0) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return real(other != NULL && strcmp(path, "/proc/self/mountinfo") == 0 ? other : path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int fstatfs64(int fd, struct statfs64 *buffer) __attribute__((alias("fstatfs")));
