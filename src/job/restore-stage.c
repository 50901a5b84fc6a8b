/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Restored files stand under temporary names until all of them are whole. */
#include "job/restore-stage.h"
#include "job/restore-marker.h"
#include "repo/directory.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

#define HIDDEN_PREFIX ".vmbackup-restore-"

/* A directory that is not there yet is made beside its name, and gets it in one step when all is in it. In
 * one that is there a hidden directory holds the files, which get their names one after the other. */
struct VmbRestoreStage {
    char *directory;     /* absolute */
    int directory_fd;    /* -1 as long as it is not there */
    int parent_fd;       /* of the hidden directory: directory_fd, or the directory above */
    char *hidden;        /* name below parent_fd; NULL once it is the directory itself */
    int hidden_fd;
    gboolean made, keep;
    GPtrArray *names;    /* char *: reserved */
    GPtrArray *fds;      /* int: each file stays open until it is synced, because an error of write-back
                          * is told to those who have it open */
    guint n_published;   /* the first so many names */
    VmbRestoreMarker *marker;
};

const char *
vmb_restore_stage_directory(VmbRestoreStage *stage)
{
    return stage->directory;
}

static void
close_kept(gpointer fd)
{
    int number = GPOINTER_TO_INT(fd);
    vmb_fd_clear(&number);
}

static gboolean
open_directory(VmbRestoreStage *stage, GError **error)
{
    stage->directory_fd = open(stage->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (stage->directory_fd >= 0) {
        stage->parent_fd = fcntl(stage->directory_fd, F_DUPFD_CLOEXEC, 3);
        return stage->parent_fd >= 0 ||
               vmb_error_errno(error, errno, "cannot open the directory %s", stage->directory);
    }
    if (errno != ENOENT)
        return vmb_error_errno(error, errno, "cannot open the directory %s", stage->directory);
    stage->made = TRUE;
    g_autofree char *parent = g_path_get_dirname(stage->directory);
    stage->parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return stage->parent_fd >= 0 ||
           vmb_error_errno(error, errno, "cannot make the directory %s", stage->directory);
}

/* Of hidden directories: for one that is beside the directory with its name, so that nobody else's is
 * touched. */
static char *
hidden_prefix(const VmbRestoreStage *stage)
{
    g_autofree char *base = g_path_get_basename(stage->directory);
    return stage->made ? g_strdup_printf(HIDDEN_PREFIX "%s-", base) : g_strdup(HIDDEN_PREFIX);
}

/* What a restore that was killed has left: its directory is not locked any more. */
static void
remove_leftovers(VmbRestoreStage *stage)
{
    g_autoptr(GError) list_error = NULL;
    g_autofree char *prefix = hidden_prefix(stage);
    g_autoptr(GPtrArray) names = vmb_directory_list(stage->parent_fd, &list_error);
    for (guint i = 0; names != NULL && i < names->len; i++) {
        const char *name = names->pdata[i];
        if (!g_str_has_prefix(name, prefix))
            continue;
        g_auto(VmbFd) fd = openat(stage->parent_fd, name,
                                  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        g_autoptr(GError) error = NULL;
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
            continue;
        vmb_notice("removing what a restore to %s that died has left: %s", stage->directory, name);
        if (!vmb_fs_remove_tree(stage->parent_fd, name, &error))
            vmb_warning("%s: %s", stage->directory, error->message);
    }
}

static gboolean
make_hidden(VmbRestoreStage *stage, GError **error)
{
    g_autofree char *prefix = hidden_prefix(stage);
    stage->hidden = g_strdup_printf("%s%08x", prefix, g_random_int());
    if (mkdirat(stage->parent_fd, stage->hidden, 0700) < 0) {
        int err = errno;
        g_clear_pointer(&stage->hidden, g_free);
        return vmb_error_errno(error, err, "cannot write to %s; nothing was restored",
                               stage->directory);
    }
    stage->hidden_fd = openat(stage->parent_fd, stage->hidden,
                              O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (stage->hidden_fd < 0)
        return vmb_error_errno(error, errno, "cannot open %s, which was just made for %s",
                               stage->hidden, stage->directory);
    /* Says that this restore lives; a filesystem without locks only keeps its leftovers. */
    if (flock(stage->hidden_fd, LOCK_EX | LOCK_NB) < 0)
        vmb_debug("%s for %s cannot be locked: %s", stage->hidden, stage->directory,
                  g_strerror(errno));
    return TRUE;
}

VmbRestoreStage *
vmb_restore_stage_new(const char *directory, GError **error)
{
    g_autoptr(VmbRestoreStage) stage = g_new0(VmbRestoreStage, 1);
    stage->directory = g_canonicalize_filename(directory, NULL);
    stage->directory_fd = stage->parent_fd = stage->hidden_fd = -1;
    stage->names = g_ptr_array_new_with_free_func(g_free);
    stage->fds = g_ptr_array_new_with_free_func(close_kept);
    if (!open_directory(stage, error))
        return NULL;
    if (!stage->made &&
        !vmb_restore_marker_undo(stage->directory_fd, stage->directory, error))
        return NULL;
    remove_leftovers(stage);
    if (!make_hidden(stage, error))
        return NULL;
    return g_steal_pointer(&stage);
}

gboolean
vmb_restore_stage_free_space(VmbRestoreStage *stage, guint64 *bytes, GError **error)
{
    return vmb_fs_free_space_fd(stage->hidden_fd, stage->directory, bytes, error);
}

static void
take_back(VmbRestoreStage *stage)
{
    for (guint i = 0; i < stage->n_published; i++)
        if (vmb_fs_unlink(stage->directory_fd, stage->names->pdata[i], 0) < 0)
            vmb_warning("cannot remove %s/%s: %s", stage->directory,
                        (char *)stage->names->pdata[i], g_strerror(errno));
}

void
vmb_restore_stage_free(VmbRestoreStage *stage)
{
    g_autoptr(GError) error = NULL;
    if (stage == NULL)
        return;
    g_ptr_array_unref(stage->fds);
    if (!stage->keep)
        take_back(stage);
    if (stage->hidden != NULL &&
        !vmb_fs_remove_tree(stage->parent_fd, stage->hidden, &error))
        vmb_warning("%s: %s", stage->directory, error->message);
    g_clear_pointer(&stage->marker, vmb_restore_marker_free);
    if (!stage->keep && stage->made && stage->hidden == NULL)
        rmdir(stage->directory);
    vmb_fd_clear(&stage->hidden_fd);
    vmb_fd_clear(&stage->parent_fd);
    vmb_fd_clear(&stage->directory_fd);
    g_ptr_array_unref(stage->names);
    g_free(stage->hidden);
    g_free(stage->directory);
    g_free(stage);
}

gboolean
vmb_restore_stage_reserve(VmbRestoreStage *stage, const char *name, GError **error)
{
    struct stat st;
    if (stage->directory_fd < 0)
        errno = ENOENT;
    else if (fstatat(stage->directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s/%s exists already; nothing was restored or overwritten. Choose an "
                             "empty directory", stage->directory, name);
    if (errno != ENOENT)
        return vmb_error_errno(error, errno, "cannot look at %s/%s", stage->directory, name);
    g_ptr_array_add(stage->names, g_strdup(name));
    return TRUE;
}

int
vmb_restore_stage_create(VmbRestoreStage *stage, const char *name, GError **error)
{
    g_auto(VmbFd) fd = vmb_fs_open_beneath(stage->hidden_fd, name, O_RDWR | O_CREAT | O_EXCL, 0600,
                                           stage->directory, error);
    int kept = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (fd >= 0 && kept < 0)
        vmb_error_errno(error, errno, "cannot keep %s open", name);
    if (kept < 0)
        return -1;
    g_ptr_array_add(stage->fds, GINT_TO_POINTER(kept));
    return vmb_fd_steal(&fd);
}

static gboolean
sync_files(VmbRestoreStage *stage, GError **error)
{
    for (guint i = 0; i < stage->fds->len; i++)
        if (!vmb_fs_sync(GPOINTER_TO_INT(stage->fds->pdata[i]), stage->directory, error))
            return FALSE;
    g_ptr_array_set_size(stage->fds, 0);
    return vmb_fs_sync(stage->hidden_fd, stage->directory, error);
}

/* Not over anything that is there; on filesystems without that flag the name was free a moment ago. */
static gboolean
move(int from_fd, const char *from, int to_fd, const char *to)
{
    return renameat2(from_fd, from, to_fd, to, RENAME_NOREPLACE) == 0 ||
           (errno == EINVAL && renameat(from_fd, from, to_fd, to) == 0);
}

static gboolean
publish_directory(VmbRestoreStage *stage, GError **error)
{
    g_autofree char *base = g_path_get_basename(stage->directory);
    /* QEMU's user must be able to pass through; the files themselves are private. */
    if (fchmod(stage->hidden_fd, 0711) < 0 ||
        !move(stage->parent_fd, stage->hidden, stage->parent_fd, base))
        return vmb_error_errno(error, errno, "cannot make the directory %s", stage->directory);
    g_clear_pointer(&stage->hidden, g_free);
    stage->directory_fd = fcntl(stage->hidden_fd, F_DUPFD_CLOEXEC, 3);
    if (stage->directory_fd < 0)
        return vmb_error_errno(error, errno, "cannot open %s once more", stage->directory);
    stage->n_published = stage->names->len;
    return vmb_fs_sync(stage->parent_fd, stage->directory, error);
}

static gboolean
publish_files(VmbRestoreStage *stage, GError **error)
{
    stage->marker = vmb_restore_marker_new(stage->directory_fd, stage->directory,
                                           stage->hidden_fd, stage->names, error);
    if (stage->marker == NULL)
        return FALSE;
    for (; stage->n_published < stage->names->len; stage->n_published++) {
        const char *name = stage->names->pdata[stage->n_published];
        if (!vmb_fault_point("restore-before-file", error))
            return FALSE;
        if (!move(stage->hidden_fd, name, stage->directory_fd, name))
            return vmb_error_errno(error, errno, "cannot move %s to %s", name, stage->directory);
    }
    if (!vmb_fault_point("restore-files-moved", error) ||
        !vmb_fs_sync(stage->directory_fd, stage->directory, error))
        return FALSE;
    g_clear_pointer(&stage->marker, vmb_restore_marker_free);
    return vmb_fs_sync(stage->directory_fd, stage->directory, error);
}

gboolean
vmb_restore_stage_publish(VmbRestoreStage *stage, GError **error)
{
    return sync_files(stage, error) && vmb_fault_point("restore-before-publish", error) &&
           (stage->made ? publish_directory(stage, error) : publish_files(stage, error)) &&
           vmb_fault_point("restore-published", error);
}

void
vmb_restore_stage_keep(VmbRestoreStage *stage)
{
    stage->keep = TRUE;
}
