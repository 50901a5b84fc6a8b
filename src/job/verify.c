/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a verification: everything of a point is read back and compared with its digests. */
#include "job/verify.h"
#include "job/verify-disk.h"
#include "repo/catalog.h"
#include "repo/lock.h"
#include "repo/state.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/log.h"
#include "util/parallel.h"
#include "util/units.h"

#include <string.h>

void
vmb_verify_result_free(VmbVerifyResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_free(result->point);
    g_ptr_array_unref(result->findings);
    g_clear_error(&result->error);
    g_free(result);
}

typedef struct {
    const VmbVerifyOptions *options;
    void (*done)(const VmbVerifyResult *, gpointer);
    gpointer data;
    GMutex lock;
} Verify;

/* One point to verify; the array of its domain's points keeps it alive. */
typedef struct {
    GPtrArray *points;
    VmbPoint *point;
} Item;

static void
item_free(Item *item)
{
    g_ptr_array_unref(item->points);
    g_free(item);
}

/* Damage found or not, the time of the look is worth keeping; a read-only repository cannot keep it. */
static void
record_state(VmbPoint *point, gboolean whole)
{
    g_auto(VmbPointState) state = {0};
    g_autoptr(GError) error = NULL;
    if (!vmb_point_state_read(point, &state, &error))
        return;
    g_free(state.verify_result);
    state.verified_ns = vmb_units_now();
    state.verify_result = g_strdup(whole ? "ok" : "damaged");
    if (!vmb_point_state_write(point, &state, &error))
        vmb_debug("the result of the verification is not kept: %s", error->message);
}

static void
check_restorable(Item *item, const VmbManifestDisk *disk, const char *name, GPtrArray *findings)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) links = vmb_repo_chain(item->points, item->point, disk->id, &error);
    if (links == NULL)
        g_ptr_array_add(findings, vmb_finding_new(name, disk->target, NULL,
                                                  "this point cannot be restored: %s",
                                                  error->message));
}

static void
verify_locked(Verify *verify, Item *item, VmbVerifyResult *result)
{
    const VmbManifest *manifest = item->point->manifest;
    g_autofree char *name = g_strdup_printf("%s/%s", result->domain, result->point);
    vmb_check_point(item->point, name, result->findings);
    for (guint i = 0; manifest != NULL && i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        check_restorable(item, disk, name, result->findings);
        if (!vmb_verify_disk(item->point, disk, result->domain, verify->options->cancel,
                             &result->bytes, result->findings, &result->error))
            return;
    }
    record_state(item->point, result->findings->len == 0);
}

static void
verify_point(gpointer data, gpointer user)
{
    Item *item = data;
    Verify *verify = user;
    g_autoptr(VmbVerifyResult) result = g_new0(VmbVerifyResult, 1);
    const VmbManifest *manifest = item->point->manifest;
    result->domain = g_strdup(manifest != NULL ? manifest->domain : item->point->uuid);
    result->uuid = g_strdup(item->point->uuid);
    result->point = g_strdup(item->point->id);
    result->findings = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_finding_free);
    if (!g_cancellable_is_cancelled(verify->options->cancel)) {
        g_auto(VmbFd) dir = vmb_point_open_dir(item->point, &result->error);
        g_autoptr(VmbLock) lock =
            dir < 0 ? NULL
                    : vmb_lock_take(dir, VMB_LAYOUT_LOCK, FALSE, 0, item->point->id,
                                    verify->options->cancel, &result->error);
        if (lock != NULL)
            verify_locked(verify, item, result);
        g_mutex_lock(&verify->lock);
        verify->done(result, verify->data);
        g_mutex_unlock(&verify->lock);
    }
    item_free(item);
}

/* Each point once, however often it is named or stands behind another one. */
typedef struct {
    GPtrArray *items;
    GHashTable *seen;  /* "UUID/ID" */
    GHashTable *uuids; /* of the domains */
} Collection;

static void
add_item(Collection *all, GPtrArray *points, VmbPoint *point)
{
    if (!g_hash_table_add(all->seen, g_strdup_printf("%s/%s", point->uuid, point->id)))
        return;
    g_hash_table_add(all->uuids, g_strdup(point->uuid));
    Item *item = g_new0(Item, 1);
    item->points = g_ptr_array_ref(points);
    item->point = point;
    g_ptr_array_add(all->items, item);
}

static gboolean
add_domain(VmbRepository *repository, const char *uuid, Collection *all, GError **error)
{
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, uuid, FALSE, error);
    if (domain == NULL)
        return FALSE;
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, error);
    for (guint i = 0; points != NULL && i < points->len; i++)
        add_item(all, points, points->pdata[i]);
    return points != NULL;
}

/* A point is as good as the points that its disks build on. A chain that is broken is reported with the
 * point itself. */
static void
add_chain(Collection *all, GPtrArray *points, VmbPoint *point)
{
    add_item(all, points, point);
    for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
        const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
        g_autoptr(GArray) links = vmb_repo_chain(points, point, disk->id, NULL);
        for (guint i = 0; links != NULL && i < links->len; i++)
            add_item(all, points, g_array_index(links, VmbChainLink, i).point);
    }
}

static gboolean
add_named(VmbRepository *repository, const char *what, Collection *all, GError **error)
{
    if (strchr(what, '/') != NULL) {
        g_autoptr(GPtrArray) points = NULL;
        VmbPoint *point = vmb_repository_find_point(repository, what, &points, error);
        if (point != NULL)
            add_chain(all, points, point);
        return point != NULL;
    }
    g_autofree char *uuid = vmb_repository_find_domain(repository, what, error);
    return uuid != NULL && add_domain(repository, uuid, all, error);
}

static gboolean
collect(const VmbVerifyOptions *options, VmbRepository *repository, Collection *all,
        GError **error)
{
    if (options->what != NULL && options->what[0] != NULL) {
        for (guint i = 0; options->what[i] != NULL; i++)
            if (!add_named(repository, options->what[i], all, error))
                return FALSE;
        return TRUE;
    }
    g_autoptr(GPtrArray) domains = vmb_repository_domains(repository, error);
    for (guint i = 0; domains != NULL && i < domains->len; i++)
        if (!add_domain(repository, domains->pdata[i], all, error))
            return FALSE;
    return domains != NULL;
}

static void
refresh_catalogs(VmbRepository *repository, GHashTable *uuids)
{
    GHashTableIter iter;
    gpointer uuid;
    g_hash_table_iter_init(&iter, uuids);
    while (g_hash_table_iter_next(&iter, &uuid, NULL)) {
        g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, uuid, FALSE, NULL);
        if (domain != NULL)
            vmb_catalog_refresh(domain);
    }
}

gboolean
vmb_verify(const VmbVerifyOptions *options,
           void (*done)(const VmbVerifyResult *result, gpointer data), gpointer data,
           GError **error)
{
    Verify verify = {.options = options, .done = done, .data = data};
    g_autoptr(GPtrArray) items = g_ptr_array_new_with_free_func((GDestroyNotify)item_free);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) uuids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Collection all = {items, seen, uuids};
    g_autoptr(VmbRepository) repository = vmb_repository_open(options->repository, error);
    if (repository == NULL || !collect(options, repository, &all, error))
        return FALSE;
    g_mutex_init(&verify.lock);
    g_ptr_array_set_free_func(items, NULL); /* each is freed as soon as it is done */
    vmb_parallel_run(items, options->jobs, verify_point, &verify);
    g_mutex_clear(&verify.lock);
    refresh_catalogs(repository, uuids);
    return !g_cancellable_is_cancelled(options->cancel) ||
           vmb_error_set(error, VMB_ERROR_CANCELLED, "the verification was cancelled");
}
