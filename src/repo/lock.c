/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flock()-based locks that die with the process. */
#include "repo/lock.h"
#include "repo/directory.h"
#include "util/error.h"
#include "util/rundir.h"
#include "util/text.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sysmacros.h>

#define RETRY_MS 100 /* flock() cannot wait with a deadline */

struct VmbLock {
    int fd; /* -1: a reader of a repository without lock file */
};

void
vmb_lock_free(VmbLock *lock)
{
    if (lock == NULL)
        return;
    vmb_fd_clear(&lock->fd);
    g_free(lock);
}

/* -1 with errno, or a descriptor of the regular file. */
static int
open_file(int dir_fd, const char *name, gboolean exclusive, const char *what, GError **error)
{
    struct stat st;
    g_auto(VmbFd) fd = -1;
    int flags = (exclusive ? O_RDWR : O_RDONLY) | O_NONBLOCK;
    fd = vmb_fs_open_beneath(dir_fd, name, flags, 0, what, NULL);
    while (fd < 0 && errno == ENOENT && exclusive) {
        fd = vmb_fs_open_beneath(dir_fd, name, flags | O_CREAT | O_EXCL, 0600, what, NULL);
        if (fd >= 0 && fchmod(fd, 0600) < 0) {
            vmb_error_errno(error, errno, "cannot set the mode of the lock of %s", what);
            return -1;
        }
        if (fd < 0 && errno == EEXIST)
            fd = vmb_fs_open_beneath(dir_fd, name, flags, 0, what, NULL);
    }
    if (fd < 0) {
        int err = errno;
        vmb_error_errno(error, err, "cannot open the lock of %s", what);
        errno = err;
        return -1;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "the lock of %s is no regular file", what);
        errno = EINVAL;
        return -1;
    }
    return vmb_fd_steal(&fd);
}

/* The process that /proc/locks names for the file, or 0. A hint for a message, nothing more. */
static gint64
find_holder(int fd)
{
    struct stat st;
    char line[256];
    gint64 holder = 0;
    g_autofree char *file = NULL;
    FILE *locks = fopen("/proc/locks", "re");
    if (locks == NULL)
        return 0;
    if (fstat(fd, &st) == 0)
        file = g_strdup_printf(" %02x:%02x:%" G_GUINT64_FORMAT " ", major(st.st_dev),
                               minor(st.st_dev), (guint64)st.st_ino);
    while (file != NULL && holder == 0 && fgets(line, sizeof line, locks) != NULL) {
        long pid = 0;
        if (strstr(line, file) != NULL && strstr(line, "->") == NULL &&
            sscanf(line, "%*d: FLOCK %*s %*s %ld", &pid) == 1 && pid > 0)
            holder = pid;
    }
    fclose(locks);
    return holder;
}

static gboolean
fail_locked(int fd, const char *what, GError **error)
{
    gint64 pid = find_holder(fd);
    g_autofree char *holder =
        pid > 0 ? g_strdup_printf(" (process %" G_GINT64_FORMAT ")", pid) : g_strdup("");
    return vmb_error_set(
        error, VMB_ERROR_LOCKED,
        "%s is in use by another run%s: nothing was changed; try again when it has "
        "ended",
        what, holder);
}

/* Sleeps until @cancel or the next attempt, whichever comes first. */
static void
wait_a_little(guint64 remaining_ns, GCancellable *cancel)
{
    GPollFD pollfd = {-1, 0, 0};
    gboolean made = cancel != NULL && g_cancellable_make_pollfd(cancel, &pollfd);
    struct pollfd wait = {pollfd.fd, POLLIN, 0};
    guint64 ms = remaining_ns / 1000000 + 1;
    /* An interruption by a signal only means one more attempt. */
    poll(&wait, made ? 1 : 0, (int)MIN(ms, RETRY_MS));
    if (made)
        g_cancellable_release_fd(cancel);
}

static gboolean
lock_file(int fd, gboolean exclusive, guint64 deadline, const char *what, GCancellable *cancel,
          GError **error)
{
    for (;;) {
        if (g_cancellable_is_cancelled(cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "interrupted while waiting for %s",
                                 what);
        if (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0)
            return TRUE;
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK)
            return vmb_error_errno(error, errno, "cannot lock %s", what);
        guint64 now = vmb_units_monotonic();
        if (now >= deadline)
            return fail_locked(fd, what, error);
        wait_a_little(deadline - now, cancel);
    }
}

/* FALSE if the file was removed, or removed and made anew, while we waited for it. */
static gboolean
is_still_there(int dir_fd, const char *name, int fd)
{
    struct stat held, named;
    return fstat(fd, &held) == 0 && fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

VmbLock *
vmb_lock_take(int dir_fd, const char *name, gboolean exclusive, guint64 wait_ns, const char *what,
              GCancellable *cancel, GError **error)
{
    guint64 deadline = 0;
    if (!g_uint64_checked_add(&deadline, vmb_units_monotonic(), wait_ns))
        deadline = G_MAXUINT64;
    for (;;) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbLock) lock = g_new0(VmbLock, 1);
        lock->fd = open_file(dir_fd, name, exclusive, what, &local);
        if (lock->fd < 0 && errno == ENOENT && !exclusive)
            return g_steal_pointer(&lock);
        if (lock->fd < 0) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (!lock_file(lock->fd, exclusive, deadline, what, cancel, error))
            return NULL;
        if (is_still_there(dir_fd, name, lock->fd))
            return g_steal_pointer(&lock);
    }
}

/* Only we may enter: else somebody could hold our locks and stop all backups. */
static int
open_host_directory(GError **error)
{
    struct stat st;
    g_autofree char *run = vmb_run_dir(error);
    if (run == NULL)
        return -1;
    g_autofree char *path = g_build_filename(run, "locks", NULL);
    if (!vmb_directory_make(AT_FDCWD, path, NULL, error))
        return -1;
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        vmb_error_errno(error, errno, "cannot open %s", path);
        return -1;
    }
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        vmb_error_set(error, VMB_ERROR_FAILED,
                      "%s belongs to somebody else or is open to others: make it private (chown, "
                      "chmod 0700)",
                      path);
        return -1;
    }
    return vmb_fd_steal(&fd);
}

VmbLock *
vmb_lock_take_host(const char *uuid, guint64 wait_ns, const char *what, GCancellable *cancel,
                   GError **error)
{
    if (!vmb_text_is_uuid(uuid)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "'%s' is no UUID of a domain", uuid);
        return NULL;
    }
    g_auto(VmbFd) fd = open_host_directory(error);
    return fd >= 0 ? vmb_lock_take(fd, uuid, TRUE, wait_ns, what, cancel, error) : NULL;
}

gint64
vmb_lock_holder(int dir_fd, const char *name)
{
    g_auto(VmbFd) fd = vmb_fs_open_beneath(dir_fd, name, O_RDONLY | O_NONBLOCK, 0, name, NULL);
    return fd >= 0 ? find_holder(fd) : 0;
}
