/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domains and points by what a user writes. */
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/summary.h"
#include "util/error.h"
#include "util/log.h"
#include "util/parallel.h"

#include <string.h>

#define MAX_CANDIDATES 8
/* Several at a time, also where the processor has nothing to do: a server or a disk may be slow to answer. */
#define LOOK_THREADS 8
#define DOMAINS_PER_THREAD 8

/* One domain that a search looks at. */
typedef struct {
    VmbRepository *repository;
    const char *uuid;
    const char *name;   /* that is looked for, or NULL */
    VmbSummary *newest; /* NULL: it has no point that counts */
    gboolean had_name;  /* some point has it */
    GError *error;      /* it could not be looked at */
} Look;

static void
look_free(gpointer data)
{
    Look *look = data;
    vmb_summary_free(look->newest);
    g_clear_error(&look->error);
    g_free(look);
}

static void
look_at_newest(gpointer item, gpointer user)
{
    Look *look = item;
    g_autoptr(VmbRepoDomain) domain =
        vmb_repo_domain_open(look->repository, look->uuid, FALSE, &look->error);
    if (domain != NULL)
        look->newest = vmb_repo_domain_newest(domain, &look->error);
}

static void
look_at_all(gpointer item, gpointer user)
{
    Look *look = item;
    g_autoptr(VmbRepoDomain) domain =
        vmb_repo_domain_open(look->repository, look->uuid, FALSE, NULL);
    g_autoptr(GPtrArray) points = domain != NULL ? vmb_repo_domain_summaries(domain, VMB_SUMMARIES_CHECKED, NULL) : NULL;
    for (guint i = 0; points != NULL && i < points->len; i++) {
        const VmbSummary *point = points->pdata[i];
        if (point->damage == NULL && !point->retired)
            look->had_name |= strcmp(point->domain, look->name) == 0;
    }
}

/* One Look for each of @uuids, from which it borrows. */
static GPtrArray *
look(VmbRepository *repository, const GPtrArray *uuids, const char *name,
     void (*at)(gpointer item, gpointer user))
{
    GPtrArray *looks = g_ptr_array_new_with_free_func(look_free);
    for (guint i = 0; i < uuids->len; i++) {
        Look *one = g_new0(Look, 1);
        *one = (Look){.repository = repository, .uuid = uuids->pdata[i], .name = name};
        g_ptr_array_add(looks, one);
    }
    vmb_parallel_run(looks, MIN(LOOK_THREADS, 1 + looks->len / DOMAINS_PER_THREAD), at, NULL);
    return looks;
}

/* The newest point of each domain, after a warning for those that cannot be read. */
static GPtrArray *
look_for_newest(VmbRepository *repository, const GPtrArray *uuids)
{
    GPtrArray *looks = look(repository, uuids, NULL, look_at_newest);
    for (guint i = 0; i < looks->len; i++) {
        const Look *one = looks->pdata[i];
        if (one->error != NULL)
            vmb_warning("the domain %s is left out of the search: %s", one->uuid,
                        one->error->message);
    }
    return looks;
}

static GPtrArray *
domains_named(VmbRepository *repository, const GPtrArray *uuids, const char *name)
{
    g_autoptr(GPtrArray) looks = look_for_newest(repository, uuids);
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < looks->len; i++) {
        const Look *one = looks->pdata[i];
        if (one->newest != NULL && strcmp(one->newest->domain, name) == 0)
            g_ptr_array_add(found, g_strdup(one->uuid));
    }
    return found;
}

GPtrArray *
vmb_repository_domains_named(VmbRepository *repository, const char *name, GError **error)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, error);
    return uuids != NULL ? domains_named(repository, uuids, name) : NULL;
}

/* "UUID (newest point ID)" for each, for messages. */
static char *
describe_domains(VmbRepository *repository, const GPtrArray *uuids)
{
    GString *text = g_string_new(NULL);
    g_autoptr(GPtrArray) looks = look_for_newest(repository, uuids);
    for (guint i = 0; i < looks->len; i++) {
        const Look *one = looks->pdata[i];
        g_string_append_printf(text, "%s%s (newest point %s)", i > 0 ? ", " : "", one->uuid,
                               one->newest != NULL ? one->newest->id : "?");
    }
    return g_string_free(text, FALSE);
}

/* Domains that have another name now but had this one in an older point: UUIDs. */
static GPtrArray *
domains_once_named(VmbRepository *repository, const char *name)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, NULL);
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) looks =
        uuids != NULL ? look(repository, uuids, name, look_at_all) : NULL;
    for (guint i = 0; looks != NULL && i < looks->len; i++) {
        const Look *one = looks->pdata[i];
        if (one->had_name)
            g_ptr_array_add(found, g_strdup(one->uuid));
    }
    return found;
}

static char *
join(const GPtrArray *texts)
{
    GString *joined = g_string_new(NULL);
    for (guint i = 0; i < texts->len; i++)
        g_string_append_printf(joined, "%s%s", i > 0 ? ", " : "", (const char *)texts->pdata[i]);
    return g_string_free(joined, FALSE);
}

/* No domain has the name, but one may have had it. */
static void
set_not_found(VmbRepository *repository, const char *name, GError **error)
{
    g_autoptr(GPtrArray) once = domains_once_named(repository, name);
    g_autofree char *list = describe_domains(repository, once);
    if (once->len > 0)
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "no domain has the name '%s' any more, but older points have it: give the UUID "
                      "or the present name of %s", name, list);
    else
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "the repository %s holds no point of a domain '%s'; `vmbackup -r %s list` "
                      "shows what it holds",
                      repository->path, name, repository->path);
}

char *
vmb_repository_find_domain(VmbRepository *repository, const char *text, GError **error)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, error);
    g_autofree char *lower = g_ascii_strdown(text, -1);
    if (uuids == NULL)
        return NULL;
    for (guint i = 0; i < uuids->len; i++)
        if (strcmp(uuids->pdata[i], lower) == 0)
            return g_steal_pointer(&lower);
    g_autoptr(GPtrArray) found = domains_named(repository, uuids, text);
    if (found->len == 1)
        return g_strdup(found->pdata[0]);
    if (found->len == 0) {
        set_not_found(repository, text, error);
        return NULL;
    }
    g_autofree char *candidates = describe_domains(repository, found);
    vmb_error_set(error, VMB_ERROR_DOMAIN,
                  "%u domains have had the name '%s', as happens when one is deleted and made anew: "
                  "give the UUID of the one that is meant instead of the name: %s",
                  found->len, text, candidates);
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
        if (point->retired || !g_str_has_prefix(point->id, prefix))
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
    const VmbPoint *damaged = NULL;
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        if (point->retired)
            continue;
        if (point->manifest != NULL)
            latest = point; /* they are in order, damaged ones at the end */
        else if (damaged == NULL)
            damaged = point;
        if (point->manifest == NULL && latest != NULL && strcmp(point->id, latest->id) > 0)
            vmb_warning("%s: the latest point is taken among the others: %s",
                        latest->manifest->domain, point->damage->message);
    }
    if (latest == NULL && damaged != NULL)
        vmb_error_set(error, VMB_ERROR_DAMAGE, "every point of %s is damaged; the first: %s", text,
                      damaged->damage->message);
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
        if (point->retired)
            continue;
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
    else if (candidates[0] == '\0')
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "%s has no point yet: `vmbackup backup %s` makes the first", domain, domain);
    else
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "%s has no point '%s'; it has %s (see `vmbackup list %s`)", domain, prefix,
                      candidates, domain);
    return NULL;
}

VmbPoint *
vmb_repository_find_any_point(VmbRepository *repository, const char *text, GPtrArray **points,
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
    if (found != NULL)
        *points = g_steal_pointer(&all);
    return found;
}

VmbPoint *
vmb_repository_find_point(VmbRepository *repository, const char *text, GPtrArray **points,
                          GError **error)
{
    VmbPoint *found = vmb_repository_find_any_point(repository, text, points, error);
    if (found == NULL || found->manifest != NULL)
        return found;
    g_propagate_error(error, g_error_copy(found->damage));
    g_clear_pointer(points, g_ptr_array_unref);
    return NULL;
}
