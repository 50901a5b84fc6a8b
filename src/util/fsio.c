/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files: descriptors that close themselves, whole reads and writes, opening that stays below. */
#include "util/fsio.h"
#include "util/error.h"
#include "util/stall.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

void
vmb_fd_clear(VmbFd *fd)
{
    if (*fd >= 0) {
        g_auto(VmbIoMark) mark = vmb_io_mark();
        close(*fd);
    }
    *fd = -1;
}

int
vmb_fs_open_beneath(int dir_fd, const char *name, int flags, mode_t mode, const char *label,
                    GError **error)
{
    struct open_how how = {
        .flags = (guint64)(flags | O_CLOEXEC | O_NOFOLLOW),
        .mode = flags & (O_CREAT | O_TMPFILE) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    int fd;
    g_auto(VmbIoMark) mark = vmb_io_mark();
    do
        fd = (int)syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    if (fd < 0) {
        int err = errno;
        vmb_error_errno(error, err, "cannot open %s%s%s", label, label[0] != '\0' ? "/" : "", name);
        errno = err;
    }
    return fd;
}

gboolean
vmb_fs_pread(int fd, void *buffer, gsize length, guint64 offset, const char *label, GError **error)
{
    gsize done = 0;
    while (done < length) {
        g_auto(VmbIoMark) mark = vmb_io_mark();
        ssize_t n = pread(fd, (char *)buffer + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vmb_error_errno(error, errno, "%s: cannot read at offset %" G_GUINT64_FORMAT,
                                   label, offset + done);
        if (n == 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: ends at offset %" G_GUINT64_FORMAT
                                 ", but more was expected",
                                 label, offset + done);
        done += (gsize)n;
    }
    return TRUE;
}

gboolean
vmb_fs_pwrite(int fd, const void *buffer, gsize length, guint64 offset, const char *label,
              GError **error)
{
    gsize done = 0;
    while (done < length) {
        g_auto(VmbIoMark) mark = vmb_io_mark();
        ssize_t n = pwrite(fd, (const char *)buffer + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vmb_error_errno(error, errno, "%s: cannot write at offset %" G_GUINT64_FORMAT,
                                   label, offset + done);
        done += (gsize)n;
    }
    return TRUE;
}

int
vmb_fs_make_private(int fd)
{
    g_auto(VmbIoMark) mark = vmb_io_mark();
    return fchmod(fd, 0600);
}

int
vmb_fs_unlink(int dir_fd, const char *name, int flags)
{
    g_auto(VmbIoMark) mark = vmb_io_mark();
    return unlinkat(dir_fd, name, flags);
}

gboolean
vmb_fs_read_file(int dir_fd, const char *name, gsize limit, char **content, gsize *length,
                 GError **error)
{
    g_auto(VmbFd) fd = vmb_fs_open_beneath(dir_fd, name, O_RDONLY | O_NONBLOCK, 0, "", error);
    struct stat st;
    if (fd < 0)
        return FALSE;
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "cannot stat %s", name);
    if (!S_ISREG(st.st_mode) || (guint64)st.st_size > limit)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "%s is no regular file of at most %zu bytes",
                             name, limit);
    g_autofree char *text = g_malloc((gsize)st.st_size + 1);
    if (!vmb_fs_pread(fd, text, (gsize)st.st_size, 0, name, error))
        return FALSE;
    text[st.st_size] = '\0';
    *content = g_steal_pointer(&text);
    *length = (gsize)st.st_size;
    return TRUE;
}

static int
rename_beside(int dir_fd, const char *from, const char *to)
{
    g_auto(VmbIoMark) mark = vmb_io_mark();
    return renameat(dir_fd, from, dir_fd, to);
}

gboolean
vmb_fs_write_file(int dir_fd, const char *name, const void *content, gsize length, GError **error)
{
    g_autofree char *temporary = g_strdup_printf(".%s.new", name);
    if (vmb_fs_unlink(dir_fd, temporary, 0) < 0 && errno != ENOENT)
        return vmb_error_errno(error, errno, "cannot remove %s", temporary);
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL, 0600, "", error);
    if (fd < 0)
        return FALSE;
    /* The umask may have taken bits away. */
    if (vmb_fs_make_private(fd) < 0) {
        int err = errno;
        vmb_fs_unlink(dir_fd, temporary, 0);
        return vmb_error_errno(error, err, "cannot set the mode of %s", name);
    }
    if (!vmb_fs_pwrite(fd, content, length, 0, name, error) || !vmb_fs_sync(fd, name, error)) {
        vmb_fs_unlink(dir_fd, temporary, 0);
        return FALSE;
    }
    if (rename_beside(dir_fd, temporary, name) < 0) {
        int err = errno;
        vmb_fs_unlink(dir_fd, temporary, 0);
        return vmb_error_errno(error, err, "cannot rename %s", name);
    }
    return vmb_fs_sync(dir_fd, "directory", error);
}

void
vmb_fs_allow_many(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

gboolean
vmb_fs_sync(int fd, const char *label, GError **error)
{
    g_auto(VmbIoMark) mark = vmb_io_mark();
    if (fsync(fd) < 0)
        return vmb_error_errno(error, errno, "%s: cannot bring it to disk (fsync)", label);
    return TRUE;
}

static gboolean
remove_content(int dir_fd, GError **error)
{
    int copy = dup(dir_fd);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    if (dir == NULL) {
        int err = errno;
        if (copy >= 0)
            close(copy);
        return vmb_error_errno(error, err, "cannot read a directory");
    }
    gboolean ok = TRUE;
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            ok = vmb_fs_remove_tree(dir_fd, entry->d_name, error);
    closedir(dir);
    return ok;
}

gboolean
vmb_fs_remove_tree(int dir_fd, const char *name, GError **error)
{
    if (vmb_fs_unlink(dir_fd, name, 0) == 0 || errno == ENOENT)
        return TRUE;
    if (errno != EISDIR && errno != EPERM)
        return vmb_error_errno(error, errno, "cannot remove %s", name);
    g_auto(VmbFd) fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return vmb_error_errno(error, errno, "cannot open %s", name);
    if (!remove_content(fd, error))
        return FALSE;
    if (vmb_fs_unlink(dir_fd, name, AT_REMOVEDIR) < 0)
        return vmb_error_errno(error, errno, "cannot remove directory %s", name);
    return TRUE;
}

gboolean
vmb_fs_digest(int fd, guint64 length, char **hex, const char *label, GError **error)
{
    enum { STEP = 1024 * 1024 };
    struct stat st;
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s: cannot stat it", label);
    if ((guint64)st.st_size != length)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: has %" G_GUINT64_FORMAT " bytes, but the manifest says %"
                             G_GUINT64_FORMAT, label, (guint64)st.st_size, length);
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree guchar *buffer = g_malloc(STEP);
    for (guint64 offset = 0; offset < length;) {
        gsize step = (gsize)MIN(length - offset, STEP);
        if (!vmb_fs_pread(fd, buffer, step, offset, label, error))
            return FALSE;
        g_checksum_update(sum, buffer, (gssize)step);
        offset += step;
    }
    *hex = g_strdup(g_checksum_get_string(sum));
    return TRUE;
}

char *
vmb_fs_existing_parent(const char *path)
{
    char *parent = g_strdup(path);
    while (!g_file_test(parent, G_FILE_TEST_IS_DIR)) {
        char *up = g_path_get_dirname(parent);
        g_free(parent);
        parent = up;
    }
    return parent;
}

static guint64
free_bytes(const struct statvfs *fs)
{
    guint64 bytes;
    return g_uint64_checked_mul(&bytes, (guint64)fs->f_bavail, (guint64)fs->f_frsize)
               ? bytes
               : G_MAXUINT64;
}

gboolean
vmb_fs_free_space(const char *path, guint64 *bytes, GError **error)
{
    struct statvfs fs;
    if (statvfs(path, &fs) < 0)
        return vmb_error_errno(error, errno, "cannot ask for the free space of %s", path);
    *bytes = free_bytes(&fs);
    return TRUE;
}

gboolean
vmb_fs_free_space_fd(int fd, const char *label, guint64 *bytes, GError **error)
{
    struct statvfs fs;
    if (fstatvfs(fd, &fs) < 0)
        return vmb_error_errno(error, errno, "cannot ask for the free space of %s", label);
    *bytes = free_bytes(&fs);
    return TRUE;
}
