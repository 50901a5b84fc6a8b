/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a repository holds, for listing and showing. */
#include "job/catalog.h"
#include "repo/layout.h"
#include "util/error.h"

#include <string.h>

#define MAX_MANIFEST (64 * 1024 * 1024)

static void
catalog_domain_free(gpointer data)
{
    VmbCatalogDomain *domain = data;
    g_free(domain->uuid);
    g_free(domain->name);
    g_clear_pointer(&domain->points, g_ptr_array_unref);
    g_clear_error(&domain->damage);
    g_free(domain);
}

static VmbCatalogDomain *
read_domain(VmbRepository *repository, const char *uuid)
{
    VmbCatalogDomain *entry = g_new0(VmbCatalogDomain, 1);
    entry->uuid = g_strdup(uuid);
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, uuid, FALSE, &entry->damage);
    if (domain != NULL)
        entry->points = vmb_repo_domain_points(domain, &entry->damage);
    if (entry->points == NULL)
        entry->points = g_ptr_array_new();
    for (guint i = 0; i < entry->points->len; i++) {
        const VmbPoint *point = g_ptr_array_index(entry->points, i);
        if (point->retired) {
            g_ptr_array_remove_index(entry->points, i--);
            continue;
        }
        if (point->manifest == NULL)
            continue;
        g_free(entry->name);
        entry->name = g_strdup(point->manifest->domain);
    }
    return entry;
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    const VmbCatalogDomain *left = *(VmbCatalogDomain *const *)a;
    const VmbCatalogDomain *right = *(VmbCatalogDomain *const *)b;
    int order = g_strcmp0(left->name, right->name);
    return order != 0 ? order : strcmp(left->uuid, right->uuid);
}

static GPtrArray *
wanted_uuids(VmbRepository *repository, const char *domain, GError **error)
{
    if (domain == NULL)
        return vmb_repository_domains(repository, error);
    GPtrArray *named = vmb_repository_domains_named(repository, domain, error);
    if (named == NULL || named->len > 1)
        return named;
    g_ptr_array_unref(named);
    char *uuid = vmb_repository_find_domain(repository, domain, error);
    if (uuid == NULL)
        return NULL;
    GPtrArray *uuids = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(uuids, uuid);
    return uuids;
}

GPtrArray *
vmb_catalog_read(const char *path, const char *domain, GError **error)
{
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, error);
    if (repository == NULL)
        return NULL;
    g_autoptr(GPtrArray) uuids = wanted_uuids(repository, domain, error);
    if (uuids == NULL)
        return NULL;
    GPtrArray *entries = g_ptr_array_new_with_free_func(catalog_domain_free);
    for (guint i = 0; i < uuids->len; i++)
        g_ptr_array_add(entries, read_domain(repository, g_ptr_array_index(uuids, i)));
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
    if (dir < 0 ||
        !vmb_fs_read_file(dir, VMB_LAYOUT_MANIFEST, MAX_MANIFEST, &manifest, &length, error))
        return NULL;
    entry->manifest = vmb_json_unseal(manifest, length, error);
    if (entry->manifest == NULL || !vmb_point_state_read(entry->point, &entry->state, error))
        return NULL;
    return g_steal_pointer(&entry);
}
