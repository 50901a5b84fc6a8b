/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Restored files stand under temporary names until all of them are whole. */
#include "job/restore-stage.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

#define HIDDEN_PREFIX ".vmbackup-restore-"

struct VmbRestoreStage {
    char *directory, *hidden;
    VmbFd directory_fd, hidden_fd;
    gboolean made, keep;
    GPtrArray *names;  /* char *: reserved */
    guint n_published; /* the first so many names */
};

const char *
vmb_restore_stage_directory(VmbRestoreStage *stage)
{
    return stage->directory;
}

static gboolean
open_directory(VmbRestoreStage *stage, GError **error)
{
    /* QEMU's user must be able to pass through; the files themselves are private. */
    if (mkdir(stage->directory, 0711) == 0)
        stage->made = TRUE;
    else if (errno != EEXIST)
        return vmb_error_errno(error, errno, "cannot make the directory %s", stage->directory);
    stage->directory_fd = open(stage->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (stage->directory_fd < 0)
        return vmb_error_errno(error, errno, "cannot open the directory %s", stage->directory);
    return TRUE;
}

/* What a restore that was killed has left: its directory is not locked any more. */
static void
remove_leftovers(VmbRestoreStage *stage)
{
    g_autoptr(GDir) dir = g_dir_open(stage->directory, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        if (!g_str_has_prefix(name, HIDDEN_PREFIX))
            continue;
        g_auto(VmbFd) fd = openat(stage->directory_fd, name,
                                  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        g_autoptr(GError) error = NULL;
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
            continue;
        vmb_notice("removing what a restore that died has left: %s/%s", stage->directory, name);
        if (!vmb_fs_remove_tree(stage->directory_fd, name, &error))
            vmb_warning("%s: %s", stage->directory, error->message);
    }
}

static gboolean
make_hidden(VmbRestoreStage *stage, GError **error)
{
    stage->hidden = g_strdup_printf(HIDDEN_PREFIX "%08x", g_random_int());
    if (mkdirat(stage->directory_fd, stage->hidden, 0700) < 0) {
        int err = errno;
        g_clear_pointer(&stage->hidden, g_free);
        return vmb_error_errno(error, err, "cannot write to %s; nothing was restored",
                               stage->directory);
    }
    stage->hidden_fd = openat(stage->directory_fd, stage->hidden,
                              O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (stage->hidden_fd < 0)
        return vmb_error_errno(error, errno, "cannot open %s/%s", stage->directory, stage->hidden);
    /* Says that this restore lives; a filesystem without locks only keeps its leftovers. */
    if (flock(stage->hidden_fd, LOCK_EX | LOCK_NB) < 0)
        vmb_debug("%s/%s cannot be locked: %s", stage->directory, stage->hidden,
                  g_strerror(errno));
    return TRUE;
}

VmbRestoreStage *
vmb_restore_stage_new(const char *directory, GError **error)
{
    g_autoptr(VmbRestoreStage) stage = g_new0(VmbRestoreStage, 1);
    stage->directory = g_canonicalize_filename(directory, NULL);
    stage->directory_fd = stage->hidden_fd = -1;
    stage->names = g_ptr_array_new_with_free_func(g_free);
    if (!open_directory(stage, error))
        return NULL;
    remove_leftovers(stage);
    if (!make_hidden(stage, error))
        return NULL;
    return g_steal_pointer(&stage);
}

static void
take_back(VmbRestoreStage *stage)
{
    for (guint i = 0; i < stage->n_published; i++)
        if (unlinkat(stage->directory_fd, stage->names->pdata[i], 0) < 0)
            vmb_warning("cannot remove %s/%s: %s", stage->directory,
                        (char *)stage->names->pdata[i], g_strerror(errno));
}

void
vmb_restore_stage_free(VmbRestoreStage *stage)
{
    g_autoptr(GError) error = NULL;
    if (stage == NULL)
        return;
    if (!stage->keep)
        take_back(stage);
    if (stage->hidden != NULL &&
        !vmb_fs_remove_tree(stage->directory_fd, stage->hidden, &error))
        vmb_warning("%s: %s", stage->directory, error->message);
    if (!stage->keep && stage->made)
        rmdir(stage->directory);
    vmb_fd_clear(&stage->hidden_fd);
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
    if (fstatat(stage->directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
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
    return vmb_fs_open_beneath(stage->hidden_fd, name, O_RDWR | O_CREAT | O_EXCL, 0600,
                               stage->directory, error);
}

static gboolean
sync_files(VmbRestoreStage *stage, GError **error)
{
    for (guint i = 0; i < stage->names->len; i++) {
        const char *name = stage->names->pdata[i];
        g_auto(VmbFd) fd = vmb_fs_open_beneath(stage->hidden_fd, name, O_RDONLY, 0,
                                               stage->directory, error);
        if (fd < 0 || !vmb_fs_sync(fd, name, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vmb_restore_stage_publish(VmbRestoreStage *stage, GError **error)
{
    if (!sync_files(stage, error) || !vmb_fault_point("restore-before-publish", error))
        return FALSE;
    for (; stage->n_published < stage->names->len; stage->n_published++) {
        const char *name = stage->names->pdata[stage->n_published];
        if (renameat2(stage->hidden_fd, name, stage->directory_fd, name, RENAME_NOREPLACE) == 0)
            continue;
        /* Filesystems without that flag: the name was free a moment ago. */
        if (errno != EINVAL || renameat(stage->hidden_fd, name, stage->directory_fd, name) < 0)
            return vmb_error_errno(error, errno, "cannot move %s to %s", name, stage->directory);
    }
    return vmb_fs_sync(stage->directory_fd, stage->directory, error) &&
           vmb_fault_point("restore-published", error);
}

void
vmb_restore_stage_keep(VmbRestoreStage *stage)
{
    stage->keep = TRUE;
}
