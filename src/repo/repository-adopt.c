/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making a copy a repository of its own, and telling a repository that it was moved. */
#include "repo/directory.h"
#include "repo/journal.h"
#include "repo/layout.h"
#include "repo/lock.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>

/* What runs of the original had left unfinished when the copy was made is the original's to undo,
 * for jobs and checkpoints exist once only. */
static gboolean
drop_run(VmbRepository *repository, const char *uuid, guint *dropped, GError **error)
{
    g_autofree char *what = g_strdup_printf("the domain %s in %s", uuid, repository->path);
    guint n = 0;
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, uuid, FALSE, error);
    if (domain == NULL)
        return FALSE;
    int fd = vmb_repo_domain_fd(domain);
    g_autoptr(VmbLock) lock = vmb_lock_take(fd, VMB_LAYOUT_LOCK, TRUE, 0, what, NULL, error);
    if (lock == NULL)
        return FALSE;
    if (!vmb_fs_remove_tree(fd, VMB_LAYOUT_STAGING, error) ||
        !vmb_journal_drop_all(fd, &n, error)) {
        g_prefix_error(error, "%s: ", what);
        return FALSE;
    }
    *dropped += n;
    return TRUE;
}

static gboolean
drop_runs(VmbRepository *repository, guint *dropped, GError **error)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, error);
    if (uuids == NULL)
        return FALSE;
    for (guint i = 0; i < uuids->len; i++)
        if (!drop_run(repository, uuids->pdata[i], dropped, error))
            return FALSE;
    return vmb_fault_point("adopt-journals-dropped", error);
}

/* The hosts that are recorded, and this one. */
static char **
add_host(char **recorded, char **now)
{
    g_autoptr(GStrvBuilder) hosts = g_strv_builder_new();
    g_strv_builder_addv(hosts, (const char **)recorded);
    if (now[0] != NULL && !g_strv_contains((const char *const *)recorded, now[0]))
        g_strv_builder_add(hosts, now[0]);
    return g_strv_builder_end(hosts);
}

static gboolean
change_id(VmbRepository *repository, GError **error)
{
    g_autofree char *id = vmb_repository_new_id(error);
    g_autofree char *adopted = vmb_units_format_time(vmb_units_now());
    if (id == NULL)
        return FALSE;
    vmb_json_add_string(repository->metadata, "adopted", adopted);
    vmb_json_add_string(repository->metadata, "adopted_from", repository->id);
    vmb_json_add_string(repository->metadata, "id", id);
    return TRUE;
}

gboolean
vmb_repository_adopt(const char *path, gboolean keep_id, guint *dropped, GError **error)
{
    *dropped = 0;
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, error);
    g_autoptr(VmbPlace) now =
        repository != NULL ? vmb_place_look(repository->fd, repository->path, error) : NULL;
    if (now == NULL)
        return FALSE;
    if (vmb_place_judge(repository->place, now) == VMB_PLACE_SAME)
        return vmb_error_set(
            error, VMB_ERROR_NO_REPOSITORY,
            "%s is where it was made, so it is no copy: nothing was changed; use it "
            "as it is",
            repository->path);
    if (!vmb_repository_lock_root(repository->fd))
        return vmb_error_set(error, VMB_ERROR_LOCKED,
                             "%s: another process changes the repository at this moment",
                             repository->path);
    if (keep_id) {
        char **hosts = add_host(repository->place->hosts, now->hosts);
        g_strfreev(now->hosts);
        now->hosts = hosts;
    } else if (!drop_runs(repository, dropped, error) || !change_id(repository, error)) {
        return FALSE;
    }
    vmb_place_write(now, repository->metadata);
    json_object_object_del(repository->metadata, "digest");
    return vmb_sealed_write(repository->fd, VMB_LAYOUT_REPOSITORY, repository->metadata, error) &&
           vmb_fault_point("adopted", error);
}
