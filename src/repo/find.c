/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domains and points by what a user writes. */
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/log.h"
#include "util/text.h"

#include <string.h>

#define MAX_CANDIDATES 8

/* Name of the newest point that is not damaged; NULL without an error if there is none. Reads from
 * the latest id on, and stops early at the point that has the highest number ever given. */
static char *
newest_name(VmbRepoDomain *domain, GError **error)
{
    g_autofree char *name = NULL;
    guint64 highest = 0, last = 0;
    g_autoptr(GPtrArray) ids = vmb_repo_domain_point_ids(domain, FALSE, error);
    if (ids == NULL)
        return NULL;
    if (!vmb_repo_domain_read_sequence(domain, &last, NULL))
        last = 0;
    for (guint i = ids->len; i-- > 0 && (last == 0 || highest != last);) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbPoint) point = vmb_repo_domain_read_point(domain, ids->pdata[i], &local);
        if (local != NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (point == NULL || point->manifest == NULL || point->manifest->sequence <= highest)
            continue;
        highest = point->manifest->sequence;
        g_free(name);
        name = g_strdup(point->manifest->domain);
    }
    return g_steal_pointer(&name);
}

static gboolean
has_name(VmbRepository *repository, const char *uuid, const char *name)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *newest = NULL;
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, uuid, FALSE, &error);
    if (domain != NULL)
        newest = newest_name(domain, &error);
    if (error != NULL)
        vmb_warning("the domain %s is left out of the search: %s", uuid, error->message);
    return g_strcmp0(newest, name) == 0;
}

static char *
join(const GPtrArray *texts)
{
    GString *joined = g_string_new(NULL);
    for (guint i = 0; i < texts->len; i++)
        g_string_append_printf(joined, "%s%s", i > 0 ? ", " : "", (const char *)texts->pdata[i]);
    return g_string_free(joined, FALSE);
}

char *
vmb_repository_find_domain(VmbRepository *repository, const char *text, GError **error)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, error);
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    g_autofree char *lower = g_ascii_strdown(text, -1);
    if (uuids == NULL)
        return NULL;
    for (guint i = 0; i < uuids->len; i++)
        if (strcmp(uuids->pdata[i], lower) == 0)
            return g_steal_pointer(&lower);
    for (guint i = 0; i < uuids->len; i++)
        if (has_name(repository, uuids->pdata[i], text))
            g_ptr_array_add(found, uuids->pdata[i]);
    if (found->len == 1)
        return g_strdup(found->pdata[0]);
    if (found->len == 0) {
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "the repository %s holds no point of a domain '%s'; `vmbackup -r %s list` "
                      "shows what it holds",
                      repository->path, text, repository->path);
        return NULL;
    }
    g_autofree char *candidates = join(found);
    vmb_error_set(error, VMB_ERROR_DOMAIN,
                  "several domains have the name '%s': give one of these "
                  "UUIDs instead: %s",
                  text, candidates);
    return NULL;
}

/* The newest @limit ids of @points whose ids begin with @prefix, for messages. */
static char *
list_candidates(const GPtrArray *points, const char *prefix)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    guint more = 0;
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        if (!g_str_has_prefix(point->id, prefix))
            continue;
        if (ids->len < MAX_CANDIDATES)
            g_ptr_array_add(ids, point->id);
        else
            more++;
    }
    g_autofree char *joined = join(ids);
    return more == 0 ? g_steal_pointer(&joined) : g_strdup_printf("%s and %u more", joined, more);
}

/* The domain's name if any point tells it, else its UUID. */
static const char *
domain_of(const GPtrArray *points, const char *text)
{
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL)
            return point->manifest->domain;
    }
    return text;
}

static VmbPoint *
find_latest(const GPtrArray *points, const char *text, GError **error)
{
    VmbPoint *latest = NULL;
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL)
            latest = point; /* they are in order, damaged ones at the end */
        else if (latest != NULL && strcmp(point->id, latest->id) > 0)
            vmb_warning("%s: the latest point is taken among the others: %s",
                        latest->manifest->domain, point->damage->message);
    }
    if (latest == NULL && points->len > 0)
        vmb_error_set(error, VMB_ERROR_DAMAGE, "every point of %s is damaged; the first: %s", text,
                      ((VmbPoint *)points->pdata[0])->damage->message);
    else if (latest == NULL)
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "%s has no point yet: `vmbackup backup %s` makes the first", text, text);
    return latest;
}

static VmbPoint *
find_prefix(const GPtrArray *points, const char *text, const char *prefix, GError **error)
{
    VmbPoint *found = NULL;
    guint n = 0;
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        if (strcmp(point->id, prefix) == 0) {
            found = point;
            n = 1;
            break;
        }
        if (prefix[0] != '\0' && g_str_has_prefix(point->id, prefix)) {
            found = point;
            n++;
        }
    }
    const char *domain = domain_of(points, text);
    g_autofree char *candidates = list_candidates(points, n > 1 ? prefix : "");
    if (n == 1)
        return found;
    if (n > 1)
        vmb_error_set(error, VMB_ERROR_DOMAIN, "several points of %s begin with '%s': %s", domain,
                      prefix, candidates);
    else if (points->len == 0)
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "%s has no point yet: `vmbackup backup %s` makes the first", domain, domain);
    else
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "%s has no point '%s'; it has %s (see `vmbackup list %s`)", domain, prefix,
                      candidates, domain);
    return NULL;
}

VmbPoint *
vmb_repository_find_point(VmbRepository *repository, const char *text, GPtrArray **points,
                          GError **error)
{
    const char *slash = strrchr(text, '/');
    g_autofree char *name = slash != NULL ? g_strndup(text, (gsize)(slash - text)) : g_strdup(text);
    const char *rest = slash != NULL ? slash + 1 : "latest";
    *points = NULL;
    g_autofree char *uuid = vmb_repository_find_domain(repository, name, error);
    g_autoptr(VmbRepoDomain) domain =
        uuid != NULL ? vmb_repo_domain_open(repository, uuid, FALSE, error) : NULL;
    g_autoptr(GPtrArray) all = domain != NULL ? vmb_repo_domain_points(domain, error) : NULL;
    if (all == NULL)
        return NULL;
    VmbPoint *found = strcmp(rest, "latest") == 0 ? find_latest(all, name, error)
                                                  : find_prefix(all, name, rest, error);
    if (found == NULL)
        return NULL;
    if (found->manifest == NULL) {
        g_propagate_error(error, g_error_copy(found->damage));
        return NULL;
    }
    *points = g_steal_pointer(&all);
    return found;
}
