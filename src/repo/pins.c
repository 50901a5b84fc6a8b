/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Points that stay as they are while somebody reads them: shared locks on them and on all they build on. */
#include "repo/pins.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "util/error.h"

#include <fcntl.h>
#include <string.h>

/* Who holds a lock exclusively switches a file or removes some: that takes moments. */
#define WAIT_NS (60 * G_GUINT64_CONSTANT(1000000000))

struct VmbPins {
    GPtrArray *locks;
    GHashTable *ids; /* of the points that are locked */
};

void
vmb_pins_free(VmbPins *pins)
{
    if (pins == NULL)
        return;
    g_ptr_array_unref(pins->locks);
    g_hash_table_unref(pins->ids);
    g_free(pins);
}

static VmbPins *
pins_new(void)
{
    VmbPins *pins = g_new0(VmbPins, 1);
    pins->locks = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_lock_free);
    pins->ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return pins;
}

void
vmb_repository_ensure_lock_file(int dir_fd, const char *name)
{
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, name, NULL);
    if (fd >= 0)
        (void)vmb_fs_make_private(fd);
}

VmbLock *
vmb_pins_lock_structure(VmbRepoDomain *domain, gboolean exclusive, guint64 wait_ns,
                        GCancellable *cancel, GError **error)
{
    g_autofree char *what = g_strdup_printf("the list of points of %s", domain->uuid);
    vmb_repository_ensure_lock_file(domain->fd, VMB_LAYOUT_STRUCTURE);
    return vmb_lock_take(domain->fd, VMB_LAYOUT_STRUCTURE, exclusive, wait_ns, what, cancel, error);
}

static gboolean
pin(VmbPins *pins, const VmbPoint *point, GCancellable *cancel, GError **error)
{
    if (!g_hash_table_add(pins->ids, g_strdup(point->id)))
        return TRUE;
    g_autofree char *name = vmb_point_name(point);
    g_auto(VmbFd) dir = vmb_point_open_dir(point, error);
    VmbLock *lock = dir < 0 ? NULL
                            : vmb_lock_take(dir, VMB_LAYOUT_LOCK, FALSE, WAIT_NS, name, cancel,
                                            error);
    if (lock == NULL)
        return FALSE;
    g_ptr_array_add(pins->locks, lock);
    return TRUE;
}

/* A broken chain is told when it is read. */
static gboolean
pin_chains(VmbPins *pins, GPtrArray *points, VmbPoint *point, GCancellable *cancel, GError **error)
{
    if (!pin(pins, point, cancel, error))
        return FALSE;
    for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
        const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
        g_autoptr(GArray) links = vmb_repo_chain(points, point, disk->id, NULL);
        for (guint i = 0; links != NULL && i < links->len; i++)
            if (!pin(pins, g_array_index(links, VmbChainLink, i).point, cancel, error))
                return FALSE;
    }
    return TRUE;
}

VmbPins *
vmb_pins_take(VmbRepoDomain *domain, VmbPinsChoose choose, gpointer user, GCancellable *cancel,
              GPtrArray **points, GError **error)
{
    *points = NULL;
    g_autoptr(VmbLock) structure = vmb_pins_lock_structure(domain, FALSE, WAIT_NS, cancel, error);
    if (structure == NULL)
        return NULL;
    g_autoptr(GPtrArray) all = vmb_repo_domain_points(domain, error);
    g_autoptr(GPtrArray) wanted = g_ptr_array_new();
    g_autoptr(VmbPins) pins = pins_new();
    if (all == NULL || !choose(all, wanted, user, error))
        return NULL;
    for (guint i = 0; i < wanted->len; i++)
        if (!pin_chains(pins, all, wanted->pdata[i], cancel, error))
            return NULL;
    *points = g_steal_pointer(&all);
    return g_steal_pointer(&pins);
}

VmbPins *
vmb_pins_take_named(VmbRepository *repository, const char *text, GCancellable *cancel,
                    VmbPoint **point, GPtrArray **points, GError **error)
{
    g_autoptr(GPtrArray) before = NULL, all = NULL;
    const VmbPoint *seen = vmb_repository_find_point(repository, text, &before, error);
    *point = NULL;
    *points = NULL;
    if (seen == NULL)
        return NULL;
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, seen->uuid, FALSE, error);
    g_autoptr(VmbLock) structure =
        domain != NULL ? vmb_pins_lock_structure(domain, FALSE, WAIT_NS, cancel, error) : NULL;
    if (structure == NULL)
        return NULL;
    /* It may have changed until the lock was ours. */
    VmbPoint *found = vmb_repository_find_point(repository, text, &all, error);
    g_autoptr(VmbPins) pins = pins_new();
    if (found == NULL || !pin_chains(pins, all, found, cancel, error))
        return NULL;
    *point = found;
    *points = g_steal_pointer(&all);
    return g_steal_pointer(&pins);
}

static gboolean
choose_newest(GPtrArray *points, GPtrArray *wanted, gpointer user, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = points->len; i-- > 0;) {
        VmbPoint *point = points->pdata[i];
        gboolean newest = FALSE;
        for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
            const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
            newest |= g_hash_table_add(seen, disk->id);
        }
        if (newest)
            g_ptr_array_add(wanted, point);
    }
    return TRUE;
}

VmbPins *
vmb_pins_take_newest(VmbRepoDomain *domain, GCancellable *cancel, GPtrArray **points,
                     GError **error)
{
    return vmb_pins_take(domain, choose_newest, NULL, cancel, points, error);
}
