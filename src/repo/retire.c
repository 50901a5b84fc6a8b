/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dropping points: hiding them at once, and removing them when nobody needs them any more. */
#include "repo/retire.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Others hold the lock on the relations of points for moments. */
#define WAIT_NS (60 * G_GUINT64_CONSTANT(1000000000))

VmbLock *
vmb_maintenance_lock(VmbRepoDomain *domain, guint64 wait_ns, GCancellable *cancel, GError **error)
{
    g_autofree char *what =
        g_strdup_printf("pruning of the domain %s in the repository", domain->uuid);
    return vmb_lock_take(domain->fd, VMB_LAYOUT_MAINTENANCE, TRUE, wait_ns, what, cancel, error);
}

gboolean
vmb_point_retire(VmbRepoDomain *domain, VmbPoint *point, GError **error)
{
    g_autofree char *name = vmb_point_name(point);
    g_autoptr(VmbLock) structure = vmb_pins_lock_structure(domain, TRUE, WAIT_NS, NULL, error);
    g_auto(VmbFd) dir = structure != NULL ? vmb_point_open_dir(point, error) : -1;
    if (dir < 0)
        return FALSE;
    g_auto(VmbFd) fd = vmb_fs_open_beneath(dir, VMB_LAYOUT_RETIRED,
                                           O_WRONLY | O_CREAT | O_NONBLOCK, 0600, name, error);
    if (fd < 0)
        return FALSE;
    if (vmb_fs_make_private(fd) < 0)
        return vmb_error_errno(error, errno, "cannot set the mode of %s/" VMB_LAYOUT_RETIRED, name);
    if (!vmb_fs_sync(dir, name, error))
        return FALSE;
    point->retired = TRUE;
    return vmb_fault_point("point-retired", error);
}

static gboolean
move_to_trash(VmbRepoDomain *domain, VmbPoint *point, const char *trash, GError **error)
{
    g_autofree char *name = vmb_point_name(point);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, point->id, NULL);
    g_auto(VmbFd) points = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS,
                                               O_RDONLY | O_DIRECTORY, 0, domain->uuid, error);
    g_auto(VmbFd) dir = points >= 0 ? vmb_point_open_dir(point, error) : -1;
    g_autoptr(VmbLock) lock =
        dir >= 0 ? vmb_lock_take(dir, VMB_LAYOUT_LOCK, TRUE, 0, name, NULL, error) : NULL;
    if (lock == NULL)
        return FALSE;
    if (renameat(domain->fd, path, domain->fd, trash) < 0)
        return vmb_error_errno(error, errno, "cannot remove the point %s", name);
    return vmb_fs_sync(points, domain->uuid, error) && vmb_fs_sync(domain->fd, domain->uuid, error) &&
           vmb_fault_point("point-trashed", error);
}

gboolean
vmb_point_remove(VmbRepoDomain *domain, VmbPoint *point, GError **error)
{
    g_autofree char *trash = vmb_layout_trash(point->id);
    g_autoptr(VmbLock) structure = vmb_pins_lock_structure(domain, TRUE, WAIT_NS, NULL, error);
    if (structure == NULL || !vmb_fs_remove_tree(domain->fd, trash, error) ||
        !move_to_trash(domain, point, trash, error))
        return FALSE;
    g_clear_pointer(&structure, vmb_lock_free);
    return vmb_fs_remove_tree(domain->fd, trash, error) && vmb_fault_point("point-removed", error);
}

gboolean
vmb_trash_remove(VmbRepoDomain *domain, GError **error)
{
    g_autoptr(GPtrArray) names = vmb_directory_list(domain->fd, error);
    for (guint i = 0; names != NULL && i < names->len; i++)
        if (vmb_layout_is_trash(names->pdata[i]) &&
            !vmb_fs_remove_tree(domain->fd, names->pdata[i], error))
            return FALSE;
    return names != NULL;
}
