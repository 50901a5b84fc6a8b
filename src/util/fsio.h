/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files: descriptors that close themselves, whole reads and writes, opening that stays below. The calls
 * that a dead filesystem may hold for ever carry a mark: util/stall.h. */
#pragma once
#include <glib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* A descriptor that is closed when it goes out of scope: `g_auto(VmbFd) fd = -1;`. */
typedef int VmbFd;
void vmb_fd_clear(VmbFd *fd);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbFd, vmb_fd_clear)

static inline int
vmb_fd_steal(VmbFd *fd)
{
    int value = *fd;
    *fd = -1;
    return value;
}

/* openat2() with RESOLVE_BENEATH, no symbolic links, O_CLOEXEC. @label names the directory in
 * messages. Returns the descriptor or -1. Errors: VMB_ERROR_FAILED; use errno for ENOENT. */
int vmb_fs_open_beneath(int dir_fd, const char *name, int flags, mode_t mode, const char *label,
                        GError **error);

/* Reads / writes exactly @length bytes at @offset, over short transfers and EINTR. A read past the
 * end of the file is VMB_ERROR_DAMAGE. @label names the file in messages. Thread-safe. */
gboolean vmb_fs_pread(int fd, void *buffer, gsize length, guint64 offset, const char *label,
                      GError **error);
gboolean vmb_fs_pwrite(int fd, const void *buffer, gsize length, guint64 offset,
                       const char *label, GError **error);

/* Reads a whole regular file of at most @limit bytes below @dir_fd; a NUL byte follows the content.
 * Free *@content with g_free(). Errors: VMB_ERROR_DAMAGE when it is too long or no regular file. */
gboolean vmb_fs_read_file(int dir_fd, const char *name, gsize limit, char **content, gsize *length,
                          GError **error);

/* Writes NAME below @dir_fd, mode 0600, so that it is whole and on disk or not there at all:
 * temporary file, fsync, rename, fsync of the directory. */
gboolean vmb_fs_write_file(int dir_fd, const char *name, const void *content, gsize length,
                           GError **error);

/* Raises the number of files that this process may have open to what it is allowed: for chains of hundreds of images. */
void vmb_fs_allow_many(void);

/* fsync() with a message that names @label. */
gboolean vmb_fs_sync(int fd, const char *label, GError **error);

/* Mode 0600 whatever the umask was. Returns what fchmod() returns, with errno. */
int vmb_fs_make_private(int fd);

/* unlinkat(), marked. Returns what it returns, with errno. */
int vmb_fs_unlink(int dir_fd, const char *name, int flags);

/* Deletes @name below @dir_fd with all that is in it; symbolic links are deleted, not followed.
 * An absent one is no error. */
gboolean vmb_fs_remove_tree(int dir_fd, const char *name, GError **error);

/* SHA-256 of all @length bytes of the file, by streaming; fails unless it has just that length. */
gboolean vmb_fs_digest(int fd, guint64 length, char **hex, const char *label, GError **error);

/* The first directory on the way up from @path (absolute) that exists: whose filesystem will be used. Free with
 * g_free(). */
char *vmb_fs_existing_parent(const char *path);

/* Free bytes (for unprivileged users) of the filesystem of @path. */
gboolean vmb_fs_free_space(const char *path, guint64 *bytes, GError **error);
/* The same, of an open file; @label: for messages. */
gboolean vmb_fs_free_space_fd(int fd, const char *label, guint64 *bytes, GError **error);
