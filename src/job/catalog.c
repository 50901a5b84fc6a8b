/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a repository holds, for listing and showing. */
#include "job/catalog.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/parallel.h"
#include "util/text.h"

#include <string.h>

#define THREADS 8 /* a server or a disk may be slow to answer */

static void
catalog_domain_free(gpointer data)
{
    VmbCatalogDomain *domain = data;
    g_free(domain->uuid);
    g_free(domain->name);
    g_free(domain->frees);
    g_clear_pointer(&domain->points, g_ptr_array_unref);
    g_clear_pointer(&domain->retired, g_ptr_array_unref);
    g_clear_error(&domain->damage);
    g_free(domain);
}

/* Takes what is in @all. */
static void
sort_out(VmbCatalogDomain *entry, GPtrArray *all)
{
    const char *name = NULL;
    g_autofree guint64 *frees = g_new(guint64, all->len);
    vmb_summaries_frees(all, frees);
    entry->frees = g_new(guint64, all->len);
    g_ptr_array_set_free_func(all, NULL);
    for (guint i = 0; i < all->len; i++) {
        VmbSummary *point = all->pdata[i];
        if (point->retired) {
            g_ptr_array_add(entry->retired, point);
            continue;
        }
        entry->frees[entry->points->len] = frees[i];
        g_ptr_array_add(entry->points, point);
        if (point->damage == NULL)
            name = point->domain;
    }
    entry->name = g_strdup(name);
}

static void
read_domain(gpointer item, gpointer user)
{
    VmbCatalogDomain *entry = item;
    g_autoptr(VmbRepoDomain) domain =
        vmb_repo_domain_open(user, entry->uuid, FALSE, &entry->damage);
    g_autoptr(GPtrArray) all =
        domain != NULL ? vmb_repo_domain_summaries(domain, VMB_SUMMARIES_CHECKED, &entry->damage)
                       : NULL;
    entry->points = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_summary_free);
    entry->retired = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_summary_free);
    if (all != NULL)
        sort_out(entry, all);
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    const VmbCatalogDomain *left = *(VmbCatalogDomain *const *)a;
    const VmbCatalogDomain *right = *(VmbCatalogDomain *const *)b;
    int order = g_strcmp0(left->name, right->name);
    return order != 0 ? order : strcmp(left->uuid, right->uuid);
}

/* Those that share a name as well: listing may show them all. */
static GPtrArray *
uuids_of(VmbRepository *repository, const char *name, GError **error)
{
    g_autoptr(GPtrArray) named = vmb_repository_domains_named(repository, name, error);
    g_autofree char *lower = g_ascii_strdown(name, -1);
    if (named == NULL)
        return NULL;
    if (named->len > 1 || (named->len == 1 && !vmb_text_is_uuid(lower)))
        return g_steal_pointer(&named);
    char *uuid = vmb_repository_find_domain(repository, name, error);
    if (uuid == NULL)
        return NULL;
    GPtrArray *uuids = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(uuids, uuid);
    return uuids;
}

static GPtrArray *
wanted_uuids(VmbRepository *repository, const char *const *names, GError **error)
{
    if (names == NULL || names[0] == NULL)
        return vmb_repository_domains(repository, error);
    g_autoptr(GPtrArray) wanted = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (gsize i = 0; names[i] != NULL; i++) {
        g_autoptr(GPtrArray) uuids = uuids_of(repository, names[i], error);
        if (uuids == NULL)
            return NULL;
        for (guint k = 0; k < uuids->len; k++) {
            if (g_hash_table_contains(seen, uuids->pdata[k]))
                continue;
            char *uuid = g_strdup(uuids->pdata[k]);
            g_ptr_array_add(wanted, uuid);
            g_hash_table_add(seen, uuid);
        }
    }
    return g_steal_pointer(&wanted);
}

GPtrArray *
vmb_catalog_read(VmbRepository *repository, const char *const *names, GError **error)
{
    g_autoptr(GPtrArray) uuids = wanted_uuids(repository, names, error);
    if (uuids == NULL)
        return NULL;
    GPtrArray *entries = g_ptr_array_new_with_free_func(catalog_domain_free);
    for (guint i = 0; i < uuids->len; i++) {
        VmbCatalogDomain *entry = g_new0(VmbCatalogDomain, 1);
        entry->uuid = g_strdup(uuids->pdata[i]);
        g_ptr_array_add(entries, entry);
    }
    vmb_parallel_run(entries, THREADS, read_domain, repository);
    g_ptr_array_sort(entries, compare_names);
    return entries;
}

void
vmb_catalog_point_free(VmbCatalogPoint *entry)
{
    if (entry == NULL)
        return;
    vmb_point_state_clear(&entry->state);
    g_clear_pointer(&entry->manifest, json_object_put);
    g_clear_pointer(&entry->points, g_ptr_array_unref);
    g_free(entry);
}

VmbCatalogPoint *
vmb_catalog_find(const char *path, const char *text, GError **error)
{
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, error);
    if (repository == NULL)
        return NULL;
    g_autoptr(VmbCatalogPoint) entry = g_new0(VmbCatalogPoint, 1);
    entry->point = vmb_repository_find_point(repository, text, &entry->points, error);
    if (entry->point == NULL)
        return NULL;
    if (entry->point->manifest == NULL) {
        g_propagate_error(error, g_error_copy(entry->point->damage));
        return NULL;
    }
    g_autofree char *manifest = NULL;
    gsize length = 0;
    g_auto(VmbFd) dir = vmb_point_open_dir(entry->point, error);
    if (dir < 0 || !vmb_fs_read_file(dir, VMB_LAYOUT_MANIFEST, VMB_MANIFEST_MAX_BYTES, &manifest,
                                     &length, error))
        return NULL;
    entry->manifest = vmb_json_unseal(manifest, length, error);
    if (entry->manifest == NULL || !vmb_point_state_read(entry->point, &entry->state, error))
        return NULL;
    return g_steal_pointer(&entry);
}
