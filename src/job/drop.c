/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One domain's part of a prune or a forget: its points, what is to become of them, and what became.
 */
#include "job/drop.h"
#include "repo/retire.h"
#include "util/error.h"

#include <string.h>

static void
entry_free(gpointer data)
{
    VmbDropEntry *entry = data;
    g_free(entry->id);
    g_free(entry->why);
    g_free(entry->period);
    g_clear_error(&entry->error);
    g_free(entry);
}

VmbDropResult *
vmb_drop_result_new(const char *uuid)
{
    VmbDropResult *result = g_new0(VmbDropResult, 1);
    result->uuid = g_strdup(uuid);
    result->points = g_ptr_array_new_with_free_func(entry_free);
    result->folds = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_folded_free);
    return result;
}

void
vmb_drop_result_free(VmbDropResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_ptr_array_unref(result->points);
    g_ptr_array_unref(result->folds);
    g_clear_error(&result->error);
    g_free(result);
}

void
vmb_drop_result_reset(VmbDropResult *result)
{
    g_ptr_array_set_size(result->points, 0);
    result->n_kept = result->n_held = 0;
    result->frees = 0;
}

const char *
vmb_drop_result_name(const VmbDropResult *result)
{
    return result->domain != NULL ? result->domain : result->uuid;
}

void
vmb_drop_result_set_name(VmbDropResult *result, const GPtrArray *summaries)
{
    for (guint i = summaries->len; result->domain == NULL && i-- > 0;) {
        const VmbSummary *summary = summaries->pdata[i];
        if (summary->damage == NULL && !summary->retired)
            result->domain = g_strdup(summary->domain);
    }
}

void
vmb_drop_result_find_name(VmbDropResult *result, VmbRepoDomain *domain)
{
    g_autoptr(VmbSummary) newest = vmb_repo_domain_newest(domain, NULL);
    if (newest != NULL && result->domain == NULL)
        result->domain = g_strdup(newest->domain);
}

VmbDropEntry *
vmb_drop_result_add(VmbDropResult *result, const VmbSummary *summary, guint64 frees,
                    const VmbRetentionVerdict *verdict)
{
    VmbDropEntry *entry = g_new0(VmbDropEntry, 1);
    entry->id = g_strdup(summary->id);
    entry->unreadable = summary->damage != NULL;
    entry->sequence = summary->sequence;
    entry->time_ns = summary->time_ns;
    entry->is_protected =
        !entry->unreadable && (summary->is_protected || summary->state_unreadable);
    entry->verdict = *verdict;
    entry->frees = frees;
    g_ptr_array_add(result->points, entry);
    result->n_kept += verdict->kept ? 1 : 0;
    result->n_held += verdict->kept ? 0 : 1;
    if (!verdict->kept && frees != VMB_BYTES_UNKNOWN)
        result->frees += frees;
    return entry;
}

static VmbPoint *
find_point(const GPtrArray *points, const char *id)
{
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, id) == 0)
            return points->pdata[i];
    return NULL;
}

/* ---- hiding ---- */

/* What was decided by the summaries is done by the documents. */
static VmbPoint *
find_unchanged(const GPtrArray *points, const VmbDropEntry *entry)
{
    VmbPoint *point = find_point(points, entry->id);
    return point != NULL && (point->manifest == NULL) == entry->unreadable && !point->retired
               ? point
               : NULL;
}

static void
hide(VmbRepoDomain *domain, VmbDropResult *result, VmbDropEntry *entry, const GPtrArray *points,
     gboolean even_protected)
{
    VmbPoint *point = find_unchanged(points, entry);
    if (point == NULL)
        vmb_error_set(&entry->error, VMB_ERROR_FAILED,
                      "%s/%s stays for now, as it changed meanwhile", vmb_drop_result_name(result),
                      entry->id);
    else
        vmb_point_retire(domain, point, even_protected, &entry->error);
    entry->dropped = entry->error == NULL;
    result->n_dropped += entry->dropped ? 1 : 0;
    result->n_held -= entry->dropped ? 1 : 0;
}

gboolean
vmb_drop_hide(VmbRepoDomain *domain, VmbDropResult *result, gboolean even_protected,
              GCancellable *cancel, GError **error)
{
    if (result->n_held == 0)
        return TRUE;
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, error);
    if (points == NULL)
        return FALSE;
    for (guint i = 0; i < result->points->len; i++) {
        VmbDropEntry *entry = result->points->pdata[i];
        if (g_cancellable_is_cancelled(cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "interrupted");
        if (!entry->verdict.kept)
            hide(domain, result, entry, points, even_protected);
    }
    return TRUE;
}

/* ---- folding ---- */

static void
note_fold(const VmbFolded *folded, gpointer data)
{
    VmbDropResult *result = data;
    VmbFolded *copy = g_new0(VmbFolded, 1);
    *copy = *folded;
    copy->domain = g_strdup(folded->domain);
    copy->point = g_strdup(folded->point);
    copy->disk = g_strdup(folded->disk);
    copy->child = g_strdup(folded->child);
    copy->mode = g_strdup(folded->mode);
    copy->deferred = g_strdup(folded->deferred);
    copy->error = folded->error != NULL ? g_error_copy(folded->error) : NULL;
    g_ptr_array_add(result->folds, copy);
    result->freed += folded->freed;
    result->n_deferred += folded->deferred != NULL ? 1 : 0;
    result->n_checkpoints += folded->checkpoints;
}

gboolean
vmb_drop_is_fold_due(VmbRepoDomain *domain, const GPtrArray *summaries, const VmbDropResult *result)
{
    gboolean due = result->n_dropped > 0 || vmb_fold_has_leftover(domain);
    for (guint i = 0; i < summaries->len; i++)
        due |= ((VmbSummary *)summaries->pdata[i])->retired;
    return due;
}

gboolean
vmb_drop_fold(VmbRepoDomain *domain, const GPtrArray *summaries, VmbDropResult *result,
              GCancellable *cancel, GError **error)
{
    VmbFoldDomainOptions options = {cancel, note_fold, result};
    if (!vmb_drop_is_fold_due(domain, summaries, result))
        return TRUE;
    if (!vmb_fold_domain(domain, &options, error))
        return FALSE;
    for (guint i = 0; i < result->folds->len; i++) {
        const VmbFolded *folded = result->folds->pdata[i];
        if (folded->error == NULL)
            continue;
        g_propagate_error(error, g_error_copy(folded->error));
        return FALSE;
    }
    return TRUE;
}
