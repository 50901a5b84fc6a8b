/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a forget: points that a user names are dropped, or all of a domain. */
#include "job/forget.h"
#include "job/restorable.h"
#include "repo/catalog.h"
#include "repo/layout.h"
#include "repo/retire.h"
#include "util/error.h"

#include <string.h>

/* What is named of one domain. */
typedef struct {
    char *uuid;
    GPtrArray *ids; /* char * */
} Wanted;

static void
wanted_free(gpointer data)
{
    Wanted *wanted = data;
    g_free(wanted->uuid);
    g_ptr_array_unref(wanted->ids);
    g_free(wanted);
}

static Wanted *
get_wanted(GPtrArray *list, const char *uuid)
{
    for (guint i = 0; i < list->len; i++)
        if (strcmp(((Wanted *)list->pdata[i])->uuid, uuid) == 0)
            return list->pdata[i];
    Wanted *wanted = g_new0(Wanted, 1);
    wanted->uuid = g_strdup(uuid);
    wanted->ids = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(list, wanted);
    return wanted;
}

static gboolean
is_wanted(const Wanted *wanted, const char *id)
{
    return g_ptr_array_find_with_equal_func(wanted->ids, id, g_str_equal, NULL);
}

/* ---- names ---- */

static gboolean
check_form(const VmbForgetOptions *options, const char *text, GError **error)
{
    gboolean names_point = strchr(text, '/') != NULL;
    if (options->all && names_point)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--all is for whole domains, and '%s' names a point", text);
    return options->all || names_point ||
           vmb_error_set(error, VMB_ERROR_USAGE,
                         "'%s' names no point: give %s/POINT, or --all for every point of it", text,
                         text);
}

static gboolean
add_named(const VmbForgetOptions *options, VmbRepository *repository, const char *text,
          GPtrArray *list, GError **error)
{
    if (!check_form(options, text, error))
        return FALSE;
    if (options->all) {
        g_autofree char *uuid = vmb_repository_find_domain(repository, text, error);
        return uuid != NULL && get_wanted(list, uuid) != NULL;
    }
    g_autoptr(GPtrArray) points = NULL;
    const VmbPoint *point = vmb_repository_find_any_point(repository, text, &points, error);
    if (point == NULL)
        return FALSE;
    Wanted *wanted = get_wanted(list, point->uuid);
    if (!is_wanted(wanted, point->id))
        g_ptr_array_add(wanted->ids, g_strdup(point->id));
    return TRUE;
}

/* ---- what may go ---- */

static gboolean
check_entry(const VmbForgetOptions *options, const VmbDropResult *result, const VmbDropEntry *entry,
            gboolean newest, GError **error)
{
    const char *name = vmb_drop_result_name(result);
    if (options->force)
        return TRUE;
    if (entry->is_protected)
        return vmb_error_set(error, VMB_ERROR_DOMAIN,
                             "%s/%s is protected (or its state cannot be read), so nothing was "
                             "dropped: `vmbackup protect %s/%s --off` ends that, and --force "
                             "overrides it",
                             name, entry->id, name, entry->id);
    return options->all || !newest ||
           vmb_error_set(error, VMB_ERROR_DOMAIN,
                         "%s/%s is the newest point of the domain that can be restored, so nothing "
                         "was dropped: --force drops it, and --all every point of the domain",
                         name, entry->id);
}

/* Puts what is wanted into the result. */
static gboolean
select_points(const VmbForgetOptions *options, const Wanted *wanted, const GPtrArray *summaries,
              VmbDropResult *result, GError **error)
{
    const VmbRetentionVerdict verdict = {0};
    g_autofree gboolean *restorable = g_new0(gboolean, summaries->len + 1);
    g_autofree guint64 *frees = g_new0(guint64, summaries->len + 1);
    gboolean newer = FALSE; /* one that can be restored was seen */
    vmb_restorable_points(summaries, restorable);
    vmb_summaries_frees(summaries, frees);
    vmb_drop_result_set_name(result, summaries);
    for (guint i = summaries->len; i-- > 0;) {
        const VmbSummary *summary = summaries->pdata[i];
        gboolean newest = restorable[i] && !summary->retired && !newer;
        newer |= newest;
        if (summary->retired || (!options->all && !is_wanted(wanted, summary->id)))
            continue;
        VmbDropEntry *entry = vmb_drop_result_add(result, summary, frees[i], &verdict);
        entry->why = g_strdup(options->all ? "all of the domain" : "named");
        if (!check_entry(options, result, entry, newest, error))
            return FALSE;
    }
    for (guint i = 0; i < result->points->len / 2; i++) {
        gpointer *points = result->points->pdata, first = points[i];
        points[i] = points[result->points->len - 1 - i];
        points[result->points->len - 1 - i] = first;
    }
    return options->all || result->points->len == wanted->ids->len ||
           vmb_error_set(error, VMB_ERROR_DOMAIN, "a point was dropped meanwhile by somebody else");
}

/* ---- one domain ---- */

typedef struct {
    VmbRepoDomain *domain;
    VmbLock *writer, *maintenance;
} Hold;

static void
hold_clear(Hold *hold)
{
    g_clear_pointer(&hold->maintenance, vmb_lock_free);
    g_clear_pointer(&hold->writer, vmb_lock_free);
    g_clear_pointer(&hold->domain, vmb_repo_domain_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Hold, hold_clear)

static gboolean
take_locks(const VmbForgetOptions *options, Hold *hold, GError **error)
{
    const char *uuid = vmb_repo_domain_uuid(hold->domain);
    g_autofree char *what = g_strdup_printf("domain %s in the repository", uuid);
    if (options->all) {
        hold->writer = vmb_lock_take(vmb_repo_domain_fd(hold->domain), VMB_LAYOUT_LOCK, TRUE, 0,
                                     what, options->cancel, error);
        if (hold->writer == NULL)
            return FALSE;
    }
    hold->maintenance = vmb_maintenance_lock(hold->domain, 0, options->cancel, error);
    return hold->maintenance != NULL;
}

/* @only_look: no locks, and nothing is dropped. */
static gboolean
forget_domain(const VmbForgetOptions *options, VmbRepository *repository, const Wanted *wanted,
              gboolean only_look, VmbDropResult *result, GError **error)
{
    g_auto(Hold) hold = {0};
    hold.domain = vmb_repo_domain_open(repository, wanted->uuid, FALSE, error);
    if (hold.domain == NULL)
        return FALSE;
    if (!only_look && !take_locks(options, &hold, error)) {
        vmb_drop_result_find_name(result, hold.domain);
        return FALSE;
    }
    g_autoptr(GPtrArray) summaries =
        vmb_repo_domain_summaries(hold.domain, VMB_SUMMARIES_FRESH, error);
    if (summaries == NULL || !select_points(options, wanted, summaries, result, error))
        return FALSE;
    if (only_look)
        return TRUE;
    gboolean done = vmb_drop_hide(hold.domain, result, options->force, options->cancel, error);
    g_clear_pointer(&hold.writer, vmb_lock_free);
    done = done && (options->no_fold ||
                    vmb_drop_fold(hold.domain, summaries, result, options->cancel, error));
    vmb_catalog_refresh(hold.domain);
    return done;
}

static gboolean
check_all(const VmbForgetOptions *options, VmbRepository *repository, const GPtrArray *list,
          GError **error)
{
    for (guint i = 0; i < list->len; i++) {
        const Wanted *wanted = list->pdata[i];
        g_autoptr(VmbDropResult) result = vmb_drop_result_new(wanted->uuid);
        if (!forget_domain(options, repository, wanted, TRUE, result, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vmb_forget(const VmbForgetOptions *options,
           void (*done)(const VmbDropResult *result, gpointer data), gpointer data, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(wanted_free);
    g_autoptr(VmbRepository) repository = vmb_repository_open(options->repository, error);
    if (repository == NULL)
        return FALSE;
    for (guint i = 0; options->what[i] != NULL; i++)
        if (!add_named(options, repository, options->what[i], list, error))
            return FALSE;
    if (!check_all(options, repository, list, error) ||
        (!options->dry_run && !vmb_repository_check_writable(repository, error)))
        return FALSE;
    for (guint i = 0; i < list->len; i++) {
        const Wanted *wanted = list->pdata[i];
        g_autoptr(VmbDropResult) result = vmb_drop_result_new(wanted->uuid);
        if (g_cancellable_is_cancelled(options->cancel))
            vmb_error_set(&result->error, VMB_ERROR_CANCELLED, "nothing dropped, as interrupted");
        else
            forget_domain(options, repository, wanted, options->dry_run, result, &result->error);
        done(result, data);
    }
    return TRUE;
}
