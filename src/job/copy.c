/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a copy: what is wanted, and whether the two repositories are fit for it. */
#include "job/copy.h"
#include "job/copy-private.h"
#include "util/error.h"
#include "util/parallel.h"

#include <string.h>
#include <sys/stat.h>

void
vmb_copy_result_free(VmbCopyResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_free(result->point);
    vmb_manifest_free(result->manifest);
    g_clear_error(&result->error);
    g_free(result);
}

VmbCopyResult *
vmb_copy_result_new(const char *domain, const char *uuid, const char *point)
{
    VmbCopyResult *result = g_new0(VmbCopyResult, 1);
    result->domain = g_strdup(domain);
    result->uuid = g_strdup(uuid);
    result->point = g_strdup(point);
    result->outcome = VMB_COPY_FAILED;
    return result;
}

void
vmb_copy_tell(VmbCopy *copy, const VmbCopyResult *result)
{
    g_mutex_lock(&copy->lock);
    copy->done(result, copy->data);
    g_mutex_unlock(&copy->lock);
}

static void
wanted_free(gpointer data)
{
    VmbCopyWanted *wanted = data;
    g_free(wanted->uuid);
    g_clear_pointer(&wanted->ids, g_hash_table_unref);
    g_free(wanted);
}

/* ---- what is wanted ---- */

static VmbCopyWanted *
wanted_of(GPtrArray *all, const char *uuid, gboolean *made)
{
    *made = FALSE;
    for (guint i = 0; i < all->len; i++)
        if (strcmp(((VmbCopyWanted *)all->pdata[i])->uuid, uuid) == 0)
            return all->pdata[i];
    VmbCopyWanted *wanted = g_new0(VmbCopyWanted, 1);
    wanted->uuid = g_strdup(uuid);
    g_ptr_array_add(all, wanted);
    *made = TRUE;
    return wanted;
}

static gboolean
add_point(const VmbCopy *copy, GPtrArray *all, const char *text, GError **error)
{
    g_autoptr(GPtrArray) points = NULL;
    gboolean made = FALSE;
    VmbPoint *point = vmb_repository_find_point(copy->from, text, &points, error);
    if (point == NULL)
        return FALSE;
    VmbCopyWanted *wanted = wanted_of(all, point->uuid, &made);
    if (made)
        wanted->ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (wanted->ids != NULL)
        g_hash_table_add(wanted->ids, g_strdup(point->id));
    return TRUE;
}

static void
add_domain(GPtrArray *all, const char *uuid)
{
    gboolean made = FALSE;
    VmbCopyWanted *wanted = wanted_of(all, uuid, &made);
    g_clear_pointer(&wanted->ids, g_hash_table_unref);
}

static gboolean
collect(const VmbCopy *copy, GPtrArray *all, GError **error)
{
    const char *const *what = copy->options->what;
    for (guint i = 0; what != NULL && what[i] != NULL; i++) {
        if (strchr(what[i], '/') != NULL) {
            if (!add_point(copy, all, what[i], error))
                return FALSE;
            continue;
        }
        g_autofree char *uuid = vmb_repository_find_domain(copy->from, what[i], error);
        if (uuid == NULL)
            return FALSE;
        add_domain(all, uuid);
    }
    if (what != NULL && what[0] != NULL)
        return TRUE;
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(copy->from, error);
    for (guint i = 0; uuids != NULL && i < uuids->len; i++)
        add_domain(all, uuids->pdata[i]);
    return uuids != NULL;
}

/* ---- the whole ---- */

/* By whatever names. */
static gboolean
is_one_directory(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static gboolean
check_two(const VmbCopy *copy, GError **error)
{
    const char *from = vmb_repository_path(copy->from), *to = vmb_repository_path(copy->to);
    if (is_one_directory(from, to))
        return vmb_error_set(error, VMB_ERROR_USAGE, "%s cannot be copied into itself", from);
    if (strcmp(vmb_repository_id(copy->from), vmb_repository_id(copy->to)) == 0)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "%s and %s are one repository and a copy of it: nothing was copied. If "
                             "the copy is to go on by itself: `vmbackup -r %s init --adopt`",
                             from, to, to);
    return vmb_repository_check_writable(copy->to, error);
}

static void
copy_item(gpointer item, gpointer user)
{
    VmbCopy *copy = user;
    const VmbCopyWanted *wanted = item;
    g_autoptr(VmbCopyResult) failed = vmb_copy_result_new(wanted->uuid, wanted->uuid, NULL);
    if (!g_cancellable_is_cancelled(copy->options->cancel) &&
        !vmb_copy_domain(copy, wanted, &failed->error) &&
        !g_error_matches(failed->error, VMB_ERROR, VMB_ERROR_CANCELLED))
        vmb_copy_tell(copy, failed);
}

gboolean
vmb_copy(const VmbCopyOptions *options, void (*done)(const VmbCopyResult *result, gpointer data),
         gpointer data, GError **error)
{
    g_autoptr(VmbRepository) from = vmb_repository_open(options->from, error);
    g_autoptr(VmbRepository) to = from != NULL ? vmb_repository_open(options->to, error) : NULL;
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(wanted_free);
    VmbCopy copy = {.options = options, .from = from, .to = to, .done = done, .data = data};
    if (to == NULL || !check_two(&copy, error) || !collect(&copy, all, error))
        return FALSE;
    g_mutex_init(&copy.lock);
    vmb_parallel_run(all, options->jobs, copy_item, &copy);
    g_mutex_clear(&copy.lock);
    return !g_cancellable_is_cancelled(options->cancel) ||
           vmb_error_set(error, VMB_ERROR_CANCELLED,
                         "the copying was stopped: what has been copied is whole, and the next time "
                         "it goes on");
}
