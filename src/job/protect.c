/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a mark: points are protected from being dropped, or get tags. */
#include "job/protect.h"
#include "repo/catalog.h"
#include "repo/pins.h"
#include "util/error.h"

#include <string.h>

/* Who drops or moves points holds the lock for moments. */
#define WAIT_NS (60 * G_GUINT64_CONSTANT(1000000000))

void
vmb_protect_result_free(VmbProtectResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_free(result->point);
    vmb_point_state_clear(&result->state);
    g_clear_error(&result->error);
    g_free(result);
}

static void
add_result(GPtrArray *results, const VmbPoint *point)
{
    for (guint i = 0; i < results->len; i++) {
        const VmbProtectResult *other = results->pdata[i];
        if (strcmp(other->uuid, point->uuid) == 0 && strcmp(other->point, point->id) == 0)
            return;
    }
    VmbProtectResult *result = g_new0(VmbProtectResult, 1);
    result->domain = g_strdup(point->manifest->domain);
    result->uuid = g_strdup(point->uuid);
    result->point = g_strdup(point->id);
    g_ptr_array_add(results, result);
}

typedef struct {
    const VmbProtectOptions *options;
    gboolean too_many; /* more tags than a point may have */
} Change;

static guint
count_tags(const VmbPointState *state, const char *const *added, const char *const *removed)
{
    guint n = state->tags != NULL ? state->tags->len : 0;
    for (guint i = 0; removed != NULL && removed[i] != NULL; i++)
        n -= vmb_point_state_has_tag(state, removed[i]) ? 1 : 0;
    for (guint i = 0; added != NULL && added[i] != NULL; i++) {
        gboolean stays = vmb_point_state_has_tag(state, added[i]) &&
                         !(removed != NULL && g_strv_contains(removed, added[i]));
        n += stays ? 0 : 1;
    }
    return n;
}

static void
change_state(VmbPointState *state, gpointer user)
{
    Change *change = user;
    const VmbProtectOptions *options = change->options;
    change->too_many = count_tags(state, options->tags, options->untags) > VMB_STATE_MAX_TAGS;
    if (change->too_many)
        return;
    if (options->protection != VMB_PROTECT_KEEP)
        state->is_protected = options->protection == VMB_PROTECT_ON;
    for (guint i = 0; options->untags != NULL && options->untags[i] != NULL; i++)
        vmb_point_state_remove_tag(state, options->untags[i]);
    for (guint i = 0; options->tags != NULL && options->tags[i] != NULL; i++)
        vmb_point_state_add_tag(state, options->tags[i]);
}

static void
refresh_catalogs(VmbRepository *repository, const GPtrArray *results)
{
    g_autoptr(GHashTable) done = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < results->len; i++) {
        char *uuid = ((VmbProtectResult *)results->pdata[i])->uuid;
        g_autoptr(VmbRepoDomain) domain =
            g_hash_table_add(done, uuid) ? vmb_repo_domain_open(repository, uuid, FALSE, NULL) : NULL;
        if (domain != NULL)
            vmb_catalog_refresh(domain);
    }
}

/* Nobody drops a point while the list of points is locked, so that what is protected here stays. */
static gboolean
mark_point(const VmbProtectOptions *options, VmbRepository *repository, VmbProtectResult *result,
           GError **error)
{
    Change change = {.options = options};
    g_autofree char *name = g_strdup_printf("%s/%s", result->uuid, result->point);
    g_autoptr(GPtrArray) points = NULL;
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, result->uuid, FALSE, error);
    g_autoptr(VmbLock) structure =
        domain != NULL ? vmb_pins_lock_structure(domain, FALSE, WAIT_NS, options->cancel, error)
                       : NULL;
    VmbPoint *point =
        structure != NULL ? vmb_repository_find_point(repository, name, &points, error) : NULL;
    if (point == NULL || !vmb_point_state_change(point, change_state, &change, error) ||
        !vmb_point_state_read(point, &result->state, error))
        return FALSE;
    return !change.too_many || vmb_error_set(error, VMB_ERROR_USAGE,
                                             "%s/%s would have more than %u tags, so nothing was "
                                             "changed of it",
                                             result->domain, result->point, VMB_STATE_MAX_TAGS);
}

GPtrArray *
vmb_protect(const VmbProtectOptions *options, GError **error)
{
    g_autoptr(GPtrArray) results =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_protect_result_free);
    g_autoptr(VmbRepository) repository = NULL;
    if (!vmb_point_state_check_tags(options->tags, error) ||
        !vmb_point_state_check_tags(options->untags, error))
        return NULL;
    repository = vmb_repository_open(options->repository, error);
    if (repository == NULL || !vmb_repository_check_writable(repository, error))
        return NULL;
    for (guint i = 0; options->what[i] != NULL; i++) {
        g_autoptr(GPtrArray) points = NULL;
        const VmbPoint *point =
            vmb_repository_find_point(repository, options->what[i], &points, error);
        if (point == NULL)
            return NULL;
        add_result(results, point);
    }
    for (guint i = 0; i < results->len; i++) {
        VmbProtectResult *result = results->pdata[i];
        mark_point(options, repository, result, &result->error);
    }
    refresh_catalogs(repository, results);
    return g_steal_pointer(&results);
}
