/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The locks by which QEMU's programs keep out of each other's way, for the instant in which an image changes. */
#include "image/qemu-lock.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { HAS_CONSISTENT_READ = 100, HAS_NONE_SHARED = 200 };

static int
apply(int fd, int command, short type, off_t byte, short *found)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int result = fcntl(fd, command, &lock);
    if (found != NULL)
        *found = lock.l_type;
    return result;
}

gboolean
vmb_qemu_lock(int fd, const char *label, GError **error)
{
    short found = F_UNLCK;
    if (apply(fd, F_OFD_SETLK, F_RDLCK, HAS_NONE_SHARED, NULL) < 0) {
        if (errno == EINVAL || errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS)
            return TRUE;
        return vmb_error_errno(error, errno, "cannot lock %s against QEMU's programs", label);
    }
    if (apply(fd, F_OFD_GETLK, F_WRLCK, HAS_CONSISTENT_READ, &found) < 0)
        return vmb_error_errno(error, errno, "cannot ask who has %s open", label);
    return found == F_UNLCK ||
           vmb_error_set(error, VMB_ERROR_LOCKED, "%s is open in a program of QEMU", label);
}
