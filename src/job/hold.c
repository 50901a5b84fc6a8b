/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A domain that nobody else backs up meanwhile: the locks of a backup, without one. */
#include "job/hold.h"
#include "repo/layout.h"
#include "util/error.h"

void
vmb_hold_clear(VmbHold *hold)
{
    g_clear_pointer(&hold->repo_domain, vmb_repo_domain_free);
    g_clear_pointer(&hold->lock, vmb_lock_free);
    g_clear_pointer(&hold->host_lock, vmb_lock_free);
}

static gboolean
is_known(VmbRepository *repository, const char *uuid, gboolean *known, GError **error)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, error);
    if (uuids != NULL)
        *known = g_ptr_array_find_with_equal_func(uuids, uuid, g_str_equal, NULL);
    return uuids != NULL;
}

gboolean
vmb_hold_take(VmbHold *hold, VmbRepository *repository, const char *uuid, const char *name,
              GCancellable *cancel, GError **error)
{
    gboolean known = FALSE;
    g_autofree char *what = g_strdup_printf("domain %s", name);
    g_autofree char *part = g_strdup_printf("domain %s in the repository", name);
    hold->host_lock = vmb_lock_take_host(uuid, 0, what, cancel, error);
    if (hold->host_lock == NULL ||
        (repository != NULL && !is_known(repository, uuid, &known, error)))
        return FALSE;
    if (!known)
        return TRUE;
    hold->repo_domain = vmb_repo_domain_open(repository, uuid, FALSE, error);
    if (hold->repo_domain == NULL)
        return FALSE;
    hold->lock = vmb_lock_take(vmb_repo_domain_fd(hold->repo_domain), VMB_LAYOUT_LOCK, TRUE, 0,
                               part, cancel, error);
    return hold->lock != NULL;
}
