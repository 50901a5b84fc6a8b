/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dropping points: hiding them at once, and removing them when nobody needs them any more. */
#include "repo/retire.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/state.h"
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

static gboolean
check_unprotected(VmbPoint *point, const char *name, GError **error)
{
    g_auto(VmbPointState) state = {0};
    g_autoptr(GError) local = NULL;
    if (!vmb_point_state_read(point, &state, &local))
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s stays, as nobody knows whether it is protected (`vmbackup forget "
                             "--force` drops it all the same): %s",
                             name, local->message);
    return !state.is_protected || vmb_error_set(error, VMB_ERROR_DOMAIN,
                                                "%s stays, as it is protected by now", name);
}

gboolean
vmb_point_retire(VmbRepoDomain *domain, VmbPoint *point, gboolean even_protected, GError **error)
{
    g_autofree char *name = vmb_point_name(point);
    g_autoptr(VmbLock) structure = vmb_pins_lock_structure(domain, TRUE, WAIT_NS, NULL, error);
    g_auto(VmbFd) dir = structure != NULL ? vmb_point_open_dir(point, error) : -1;
    if (dir < 0 || (!even_protected && !check_unprotected(point, name, error)))
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
is_known(const GPtrArray *known, const char *id)
{
    for (guint i = 0; i < known->len; i++)
        if (strcmp(((const VmbPoint *)known->pdata[i])->id, id) == 0)
            return TRUE;
    return FALSE;
}

/* Whoever builds on the point holds its lock until his own is published. */
static gboolean
check_unneeded(VmbRepoDomain *domain, const VmbPoint *point, const GPtrArray *known, GError **error)
{
    g_autoptr(GPtrArray) ids = vmb_repo_domain_point_ids(domain, FALSE, error);
    for (guint i = 0; ids != NULL && i < ids->len; i++) {
        if (is_known(known, ids->pdata[i]))
            continue;
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbPoint) other = vmb_repo_domain_read_point(domain, ids->pdata[i], &local);
        if (local != NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        gboolean needed = other != NULL && other->manifest == NULL;
        for (guint d = 0; other != NULL && !needed && d < other->manifest->disks->len; d++)
            needed = g_strcmp0(((VmbManifestDisk *)other->manifest->disks->pdata[d])->parent,
                               point->id) == 0;
        if (needed)
            return vmb_error_set(error, VMB_ERROR_LOCKED, "the new point %s builds on it",
                                 other->id);
    }
    return ids != NULL;
}

static gboolean
move_to_trash(VmbRepoDomain *domain, VmbPoint *point, const GPtrArray *known, const char *trash,
              GError **error)
{
    g_autofree char *name = vmb_point_name(point);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, point->id, NULL);
    g_auto(VmbFd) points = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS,
                                               O_RDONLY | O_DIRECTORY, 0, domain->uuid, error);
    g_auto(VmbFd) dir = points >= 0 ? vmb_point_open_dir(point, error) : -1;
    g_autoptr(VmbLock) lock =
        dir >= 0 ? vmb_lock_take(dir, VMB_LAYOUT_LOCK, TRUE, 0, name, NULL, error) : NULL;
    if (lock == NULL || !check_unneeded(domain, point, known, error))
        return FALSE;
    if (renameat(domain->fd, path, domain->fd, trash) < 0)
        return vmb_error_errno(error, errno, "cannot remove the point %s", name);
    return vmb_fs_sync(points, domain->uuid, error) && vmb_fs_sync(domain->fd, domain->uuid, error) &&
           vmb_fault_point("point-trashed", error);
}

gboolean
vmb_point_remove(VmbRepoDomain *domain, VmbPoint *point, const GPtrArray *known, GError **error)
{
    g_autofree char *trash = vmb_layout_trash(point->id);
    g_autoptr(VmbLock) structure = vmb_pins_lock_structure(domain, TRUE, WAIT_NS, NULL, error);
    if (structure == NULL || !vmb_fs_remove_tree(domain->fd, trash, error) ||
        !move_to_trash(domain, point, known, trash, error))
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
