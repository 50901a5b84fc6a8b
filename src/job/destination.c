/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a restored disk goes if not into a file: a stream, a block device, an NBD export. */
#include "job/destination.h"
#include "nbd/writer.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#define ZERO_STEP (4 * VMB_MIB)
/* A device is given so much to zero at once, so that an interruption is seen in between. */
#define DEVICE_ZERO_STEP VMB_GIB
/* Write-back is started whenever so much has gathered, so that the last fsync is short. */
#define WRITEBACK_STEP (64 * VMB_MIB)

struct VmbDestination {
    char *label;
    GCancellable *cancel;
    VmbFd fd;          /* of a device or stream */
    gboolean device;
    gboolean cannot_zero; /* the device has no request for that */
    VmbNbdWriter *nbd; /* NULL: one of those */
    guint8 *zeroes;
    guint64 dirty_from, dirty_end; /* of a device: without write-back yet */
};

void
vmb_destination_free(VmbDestination *destination)
{
    if (destination == NULL)
        return;
    vmb_nbd_writer_free(destination->nbd);
    vmb_fd_clear(&destination->fd);
    g_free(destination->zeroes);
    g_free(destination->label);
    g_free(destination);
}

/* ---- opening ---- */

static gboolean
open_device(VmbDestination *destination, const char *path, guint64 size, GError **error)
{
    struct stat st;
    guint64 room = 0;
    if (stat(path, &st) < 0)
        return vmb_error_set(error, VMB_ERROR_USAGE, "%s: %s: %s", destination->label, path,
                             g_strerror(errno));
    if (!S_ISBLK(st.st_mode))
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "%s: %s is no block device; --to DIR with --format raw makes files",
                             destination->label, path);
    /* O_EXCL: not mounted, and no part of something that is in use. */
    destination->fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
    if (destination->fd < 0)
        return vmb_error_errno(error, errno, "%s: cannot write to %s%s; nothing was written", destination->label,
                               path, errno == EBUSY ? ", which is in use" : "");
    if (fstat(destination->fd, &st) < 0 || !S_ISBLK(st.st_mode) ||
        ioctl(destination->fd, BLKGETSIZE64, &room) < 0)
        return vmb_error_errno(error, errno, "%s: cannot tell the size of %s", destination->label, path);
    if (room < size)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "%s: %s has %" G_GUINT64_FORMAT " bytes, but the disk %" G_GUINT64_FORMAT
                             "; nothing was written", destination->label, path, room, size);
    destination->device = TRUE;
    return TRUE;
}

VmbDestination *
vmb_destination_open(const char *text, guint64 size, const char *label, GCancellable *cancel,
                     GError **error)
{
    g_autoptr(VmbDestination) destination = g_new0(VmbDestination, 1);
    gboolean ok = TRUE;
    destination->fd = -1;
    destination->label = g_strdup(label);
    destination->cancel = cancel;
    if (strcmp(text, "-") == 0) {
        destination->fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        ok = destination->fd >= 0 || vmb_error_errno(error, errno, "cannot use standard output");
    } else if (strstr(text, "://") != NULL) {
        destination->nbd = vmb_nbd_writer_open(text, size, label, cancel, error);
        ok = destination->nbd != NULL;
    } else {
        ok = open_device(destination, text, size, error);
    }
    return ok ? g_steal_pointer(&destination) : NULL;
}

/* ---- writing ---- */

static gboolean
write_stream(VmbDestination *destination, const guint8 *data, guint64 length, GError **error)
{
    while (length > 0) {
        ssize_t n = write(destination->fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vmb_error_errno(error, errno, "%s: standard output takes no more", destination->label);
        data += n;
        length -= (guint64)n;
    }
    return TRUE;
}

static gboolean
write_device(VmbDestination *destination, const void *data, guint64 offset, guint64 length,
             GError **error)
{
    if (!vmb_fs_pwrite(destination->fd, data, length, offset, destination->label, error))
        return FALSE;
    if (destination->dirty_from == destination->dirty_end)
        destination->dirty_from = offset;
    destination->dirty_end = offset + length;
    if (destination->dirty_end - destination->dirty_from < WRITEBACK_STEP)
        return TRUE;
    (void)sync_file_range(destination->fd, (off_t)destination->dirty_from,
                          (off_t)(destination->dirty_end - destination->dirty_from),
                          SYNC_FILE_RANGE_WRITE);
    destination->dirty_from = destination->dirty_end;
    return TRUE;
}

/* What was on the device before must not shine through. FALSE: it has to be written. */
static gboolean
zero_device(VmbDestination *destination, guint64 offset, guint64 length)
{
    if (!destination->device || destination->cannot_zero)
        return FALSE;
    destination->cannot_zero = fallocate(destination->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                         (off_t)offset, (off_t)length) < 0;
    return !destination->cannot_zero;
}

static gboolean
write_zeroes(VmbDestination *destination, guint64 offset, guint64 length, GError **error)
{
    if (destination->zeroes == NULL)
        destination->zeroes = g_malloc0(ZERO_STEP);
    for (guint64 n; length > 0; offset += n, length -= n) {
        if (g_cancellable_is_cancelled(destination->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "%s: interrupted", destination->label);
        n = MIN(length, DEVICE_ZERO_STEP);
        if (zero_device(destination, offset, n))
            continue;
        n = MIN(length, ZERO_STEP);
        if (destination->device ? !write_device(destination, destination->zeroes, offset, n, error)
                                : !write_stream(destination, destination->zeroes, n, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vmb_destination_write(VmbDestination *destination, const void *data, guint64 offset, guint64 length,
                      GError **error)
{
    if (destination->nbd != NULL)
        return data != NULL ? vmb_nbd_writer_data(destination->nbd, data, offset, (guint32)length, error)
                            : vmb_nbd_writer_zero(destination->nbd, offset, length, error);
    if (data == NULL)
        return write_zeroes(destination, offset, length, error);
    return destination->device ? write_device(destination, data, offset, length, error)
                               : write_stream(destination, data, length, error);
}

gboolean
vmb_destination_finish(VmbDestination *destination, GError **error)
{
    if (destination->nbd != NULL)
        return vmb_nbd_writer_finish(destination->nbd, error);
    return !destination->device || vmb_fs_sync(destination->fd, destination->label, error);
}
