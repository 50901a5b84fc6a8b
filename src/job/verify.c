/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a verification: points are read back and compared with their digests. */
#include "job/verify.h"
#include "job/verify-point.h"
#include "repo/catalog.h"
#include "repo/pins.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/parallel.h"
#include "util/units.h"

#include <string.h>

/* So much is pinned at a time: a fold of these points waits until they are read, and the list of the domain's
 * points is read once for them. */
#define BATCH_POINTS 64u
#define BATCH_BYTES (2 * VMB_GIB)

void
vmb_verify_result_free(VmbVerifyResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_free(result->point);
    g_ptr_array_unref(result->findings);
    g_ptr_array_unref(result->advice);
    g_clear_error(&result->error);
    g_free(result);
}

typedef struct {
    const VmbVerifyOptions *options;
    VmbRepository *repository;
    void (*done)(const VmbVerifyResult *, gpointer);
    gpointer data;
    GMutex lock;
    guint64 bytes;          /* of the points that are verified, as far as their state was kept */
    gboolean told_readonly;
} Verify;

/* Some points of one domain that are pinned together. */
typedef struct {
    Verify *verify;
    const char *uuid;
    GPtrArray *items; /* borrowed */
    guint64 bytes;
    GMutex lock;
    guint left; /* so many items are not done */
    gboolean tried;
    VmbRepoDomain *domain;
    VmbPins *pins;
    GPtrArray *points;
    GHashTable *needed;
    GError *error;
} Batch;

/* One point to verify. */
typedef struct {
    Batch *batch;
    const VmbVerifyItem *item;
} Work;

static void
batch_release(Batch *batch)
{
    g_clear_pointer(&batch->pins, vmb_pins_free);
    g_clear_pointer(&batch->points, g_ptr_array_unref);
    g_clear_pointer(&batch->needed, g_hash_table_unref);
    g_clear_pointer(&batch->domain, vmb_repo_domain_free);
    g_clear_error(&batch->error);
}

static void
batch_free(Batch *batch)
{
    batch_release(batch);
    g_ptr_array_unref(batch->items);
    g_mutex_clear(&batch->lock);
    g_free(batch);
}

static VmbPoint *
find_point(GPtrArray *points, const char *id)
{
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, id) == 0)
            return points->pdata[i];
    return NULL;
}

static gboolean
choose_batch(GPtrArray *points, GPtrArray *wanted, gpointer user, GError **error)
{
    const Batch *batch = user;
    for (guint i = 0; i < batch->items->len; i++) {
        VmbPoint *point = find_point(points, ((VmbVerifyItem *)batch->items->pdata[i])->id);
        if (point != NULL)
            g_ptr_array_add(wanted, point);
    }
    return TRUE;
}

/* Pins the batch's points for the first one that needs them. */
static void
batch_acquire(Batch *batch)
{
    g_mutex_lock(&batch->lock);
    if (!batch->tried) {
        batch->tried = TRUE;
        batch->domain =
            vmb_repo_domain_open(batch->verify->repository, batch->uuid, FALSE, &batch->error);
        if (batch->domain != NULL)
            batch->pins = vmb_pins_take(batch->domain, choose_batch, batch,
                                        batch->verify->options->cancel, &batch->points,
                                        &batch->error);
        if (batch->points != NULL)
            batch->needed = vmb_verify_needed(batch->points);
    }
    g_mutex_unlock(&batch->lock);
}

static void
batch_done(Batch *batch)
{
    g_mutex_lock(&batch->lock);
    gboolean last = --batch->left == 0;
    g_mutex_unlock(&batch->lock);
    if (last && batch->domain != NULL)
        vmb_catalog_refresh(batch->domain);
    if (last)
        batch_release(batch);
}

/* NULL if the point is gone, or not needed any more: it was dropped since the points were listed. */
static VmbVerifyResult *
verify_pinned(Batch *batch, const VmbVerifyItem *item, gboolean *kept)
{
    VmbPoint *point = batch->points != NULL ? find_point(batch->points, item->id) : NULL;
    g_autoptr(GPtrArray) disks = point != NULL ? vmb_verify_disks(point, batch->needed) : NULL;
    gboolean gone = batch->error == NULL
                        ? point == NULL || (point->retired && disks->len == 0)
                        : g_error_matches(batch->error, VMB_ERROR, VMB_ERROR_DOMAIN);
    if (gone) {
        vmb_info("%s/%s was dropped meanwhile", item->uuid, item->id);
        return NULL;
    }
    g_autoptr(VmbVerifyResult) result = g_new0(VmbVerifyResult, 1);
    result->domain = g_strdup(point != NULL && point->manifest != NULL ? point->manifest->domain
                                                                        : item->uuid);
    result->uuid = g_strdup(item->uuid);
    result->point = g_strdup(item->id);
    result->findings = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_finding_free);
    result->advice = g_ptr_array_new_with_free_func(g_free);
    if (point == NULL) {
        result->error = g_error_copy(batch->error);
        return g_steal_pointer(&result);
    }
    if (!vmb_fault_point("verify-pinned", &result->error))
        return g_steal_pointer(&result);
    VmbVerifyPoint job = {batch->verify->options, batch->domain, batch->points, point,
                          batch->needed};
    result->retired = point->retired;
    vmb_verify_point(&job, result, kept);
    return g_steal_pointer(&result);
}

static void
report(Verify *verify, const VmbVerifyItem *item, const VmbVerifyResult *result, gboolean kept)
{
    g_mutex_lock(&verify->lock);
    if (result->error == NULL && !item->forgetful)
        verify->bytes += item->bytes;
    if (!kept && !verify->told_readonly)
        vmb_info("the repository cannot be written: the results are not kept in it");
    verify->told_readonly |= !kept;
    verify->done(result, verify->data);
    g_mutex_unlock(&verify->lock);
}

static void
work(gpointer data, gpointer user)
{
    Work *one = data;
    Verify *verify = user;
    if (!g_cancellable_is_cancelled(verify->options->cancel)) {
        gboolean kept = TRUE;
        batch_acquire(one->batch);
        g_autoptr(VmbVerifyResult) result = verify_pinned(one->batch, one->item, &kept);
        if (result != NULL)
            report(verify, one->item, result, kept);
    }
    batch_done(one->batch);
}

/* ---- what there is ---- */

/* UUID -> set of ids; a set that is NULL stands for all points of the domain. */
static void
want(GHashTable *wanted, const char *uuid, GHashTable *ids)
{
    gpointer before = NULL;
    gboolean known = g_hash_table_lookup_extended(wanted, uuid, NULL, &before);
    if (!known || (before != NULL && ids == NULL)) {
        g_hash_table_insert(wanted, g_strdup(uuid), ids);
        return;
    }
    GHashTableIter iter;
    gpointer id;
    if (ids == NULL)
        return;
    g_hash_table_iter_init(&iter, ids);
    while (before != NULL && g_hash_table_iter_next(&iter, &id, NULL))
        g_hash_table_add(before, g_strdup(id));
    g_hash_table_unref(ids);
}

/* A point is as good as the points that its disks build on. A chain that is broken is reported with the
 * point itself. */
static void
want_chain(GHashTable *wanted, GPtrArray *points, VmbPoint *point)
{
    GHashTable *ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_hash_table_add(ids, g_strdup(point->id));
    for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
        const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
        g_autoptr(GArray) links = vmb_repo_chain(points, point, disk->id, NULL);
        for (guint i = 0; links != NULL && i < links->len; i++)
            g_hash_table_add(ids, g_strdup(g_array_index(links, VmbChainLink, i).point->id));
    }
    want(wanted, point->uuid, ids);
}

static gboolean
want_named(VmbRepository *repository, const char *what, GHashTable *wanted, GError **error)
{
    if (strchr(what, '/') != NULL) {
        g_autoptr(GPtrArray) points = NULL;
        VmbPoint *point = vmb_repository_find_point(repository, what, &points, error);
        if (point != NULL)
            want_chain(wanted, points, point);
        return point != NULL;
    }
    g_autofree char *uuid = vmb_repository_find_domain(repository, what, error);
    if (uuid != NULL)
        want(wanted, uuid, NULL);
    return uuid != NULL;
}

static gboolean
want_all(const VmbVerifyOptions *options, VmbRepository *repository, GHashTable *wanted,
         GError **error)
{
    if (options->what != NULL && options->what[0] != NULL) {
        for (guint i = 0; options->what[i] != NULL; i++)
            if (!want_named(repository, options->what[i], wanted, error))
                return FALSE;
        return TRUE;
    }
    g_autoptr(GPtrArray) domains = vmb_repository_domains(repository, error);
    for (guint i = 0; domains != NULL && i < domains->len; i++)
        want(wanted, domains->pdata[i], NULL);
    return domains != NULL;
}

static void
unref_set(gpointer set)
{
    if (set != NULL)
        g_hash_table_unref(set);
}

static gboolean
list_items(const VmbVerifyOptions *options, VmbRepository *repository, GPtrArray *items,
           GError **error)
{
    g_autoptr(GHashTable) wanted =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, unref_set);
    if (!want_all(options, repository, wanted, error))
        return FALSE;
    GHashTableIter iter;
    gpointer uuid, ids;
    g_hash_table_iter_init(&iter, wanted);
    while (g_hash_table_iter_next(&iter, &uuid, &ids)) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, uuid, FALSE, &local);
        g_autoptr(GPtrArray) points =
            domain != NULL ? vmb_repo_domain_points(domain, &local) : NULL;
        if (points != NULL)
            vmb_verify_list(points, ids, items);
        else if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN)) { /* else it is gone */
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    return TRUE;
}

/* ---- the rounds ---- */

static Batch *
batch_new(Verify *verify, const char *uuid)
{
    Batch *batch = g_new0(Batch, 1);
    batch->verify = verify;
    batch->uuid = uuid;
    batch->items = g_ptr_array_new();
    g_mutex_init(&batch->lock);
    return batch;
}

/* Puts @n items from @first on into batches of their domains; those stay in the order of their first items. */
static GPtrArray *
make_batches(Verify *verify, const GPtrArray *items, guint first, guint n)
{
    GPtrArray *batches = g_ptr_array_new_with_free_func((GDestroyNotify)batch_free);
    g_autoptr(GHashTable) open = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = first; i < first + n; i++) {
        VmbVerifyItem *item = items->pdata[i];
        Batch *batch = g_hash_table_lookup(open, item->uuid);
        if (batch == NULL || batch->items->len >= BATCH_POINTS ||
            batch->bytes + item->bytes > BATCH_BYTES) {
            batch = batch_new(verify, item->uuid);
            g_ptr_array_add(batches, batch);
            g_hash_table_insert(open, item->uuid, batch);
        }
        g_ptr_array_add(batch->items, item);
        batch->bytes += item->bytes;
        batch->left++;
    }
    return batches;
}

static void
run_items(Verify *verify, const GPtrArray *items, guint first, guint n)
{
    g_autoptr(GPtrArray) batches = make_batches(verify, items, first, n);
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(g_free);
    for (guint b = 0; b < batches->len; b++) {
        Batch *batch = batches->pdata[b];
        for (guint i = 0; i < batch->items->len; i++) {
            Work *one = g_new0(Work, 1);
            *one = (Work){batch, batch->items->pdata[i]};
            g_ptr_array_add(list, one);
        }
    }
    vmb_parallel_run(list, verify->options->jobs, work, verify);
}

/* More than one round only if points of a sample could not be read: others take their place. */
static void
run_rounds(Verify *verify, GPtrArray *items, VmbVerifyTotal *total)
{
    VmbVerifyChoice choice = {verify->options->sample, verify->options->older_than_ns,
                              vmb_units_now()};
    guint n = 1;
    for (guint i = 0; i < items->len; i++)
        total->bytes += ((VmbVerifyItem *)items->pdata[i])->bytes;
    total->points = items->len;
    vmb_verify_sort(items, &choice);
    for (guint first = 0;
         n > 0 && first < items->len && !g_cancellable_is_cancelled(verify->options->cancel);
         first += n) {
        n = vmb_verify_take(items, first, total->bytes, verify->bytes, &choice);
        run_items(verify, items, first, n);
    }
}

gboolean
vmb_verify(const VmbVerifyOptions *options,
           void (*done)(const VmbVerifyResult *result, gpointer data), gpointer data,
           VmbVerifyTotal *total, GError **error)
{
    g_autoptr(GPtrArray) items =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_verify_item_free);
    g_autoptr(VmbRepository) repository = vmb_repository_open(options->repository, error);
    *total = (VmbVerifyTotal){0};
    if (repository == NULL || !list_items(options, repository, items, error))
        return FALSE;
    Verify verify = {
        .options = options, .repository = repository, .done = done, .data = data};
    g_mutex_init(&verify.lock);
    run_rounds(&verify, items, total);
    g_mutex_clear(&verify.lock);
    return !g_cancellable_is_cancelled(options->cancel) ||
           vmb_error_set(error, VMB_ERROR_CANCELLED, "the verification was cancelled");
}
