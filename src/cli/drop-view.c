/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What prune and forget tell: domains and points, what was to become of them, and what became. */
#include "cli/drop-view.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/table.h"
#include "util/log.h"
#include "util/units.h"

#define NS_PER_S G_GINT64_CONSTANT(1000000000)

/* ---- JSON ---- */

static VmbJson *
view_bytes(guint64 bytes)
{
    return bytes != VMB_BYTES_UNKNOWN ? json_object_new_uint64(bytes) : NULL;
}

static VmbJson *
view_point(const VmbDropResult *result, const VmbDropEntry *point)
{
    VmbJson *line = vmb_view_new("point");
    g_autofree char *time = point->unreadable ? NULL : vmb_units_format_time(point->time_ns);
    vmb_json_add_string(line, "id", point->id);
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add(line, "sequence",
                 point->unreadable ? NULL : json_object_new_uint64(point->sequence));
    vmb_json_add_string(line, "time", time);
    vmb_json_add_bool(line, "keep", point->verdict.kept);
    vmb_json_add_string(line, "rule", vmb_retention_rule_name(point->verdict.rule));
    vmb_json_add_string(line, "period", point->period);
    vmb_json_add_string(line, "tag", point->verdict.tag);
    vmb_json_add_string(line, "why", point->why);
    vmb_json_add(line, "frees", view_bytes(point->frees));
    vmb_json_add_bool(line, "dropped", point->dropped);
    vmb_json_add(line, "error", vmb_view_error(point->error));
    return line;
}

static VmbJson *
view_fold(const VmbDropResult *result, const VmbFolded *folded)
{
    VmbJson *line = vmb_view_new("fold");
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add_string(line, "point", folded->point);
    vmb_json_add_string(line, "disk", folded->disk);
    vmb_json_add_string(line, "into", folded->child);
    vmb_json_add_string(line, "mode", folded->mode);
    vmb_json_add_uint(line, "copied", folded->copied);
    vmb_json_add_uint(line, "freed", folded->freed);
    vmb_json_add_string(line, "deferred", folded->deferred);
    vmb_json_add(line, "error", vmb_view_error(folded->error));
    return line;
}

static void
print_json(const VmbDropResult *result)
{
    for (guint i = 0; i < result->points->len; i++)
        vmb_output_json_line(view_point(result, result->points->pdata[i]));
    for (guint i = 0; i < result->folds->len; i++)
        vmb_output_json_line(view_fold(result, result->folds->pdata[i]));
    VmbJson *line = vmb_view_new("domain");
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add_string(line, "status", result->error == NULL ? "ok" : "failed");
    vmb_json_add_uint(line, "kept", result->n_kept);
    vmb_json_add_uint(line, "dropped", result->n_dropped);
    vmb_json_add_uint(line, "held", result->n_held);
    vmb_json_add_uint(line, "checkpoints", result->n_checkpoints);
    vmb_json_add_uint(line, "deferred", result->n_deferred);
    vmb_json_add_uint(line, "frees", result->frees);
    vmb_json_add_uint(line, "freed", result->freed);
    vmb_json_add(line, "error", vmb_view_error(result->error));
    vmb_output_json_line(line);
}

/* ---- text ---- */

static const char *
word_for(const VmbDropView *view, const VmbDropEntry *point)
{
    if (point->verdict.kept)
        return "keep";
    if (view->dry_run)
        return "drop";
    return point->dropped ? "dropped" : "held";
}

static void
add_row(const VmbDropView *view, VmbTable *table, const VmbDropEntry *point)
{
    g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(point->time_ns / NS_PER_S);
    g_autoptr(GDateTime) local = g_date_time_to_timezone(utc, view->zone);
    g_autofree char *time =
        point->unreadable ? NULL : g_date_time_format(local, "%Y-%m-%d %H:%M:%S");
    g_autofree char *frees = !point->verdict.kept && point->frees != VMB_BYTES_UNKNOWN
                                 ? vmb_units_format_size(point->frees)
                                 : NULL;
    vmb_table_add(table, point->id, time, word_for(view, point), point->why, frees);
}

static void
print_text(const VmbDropView *view, const VmbDropResult *result)
{
    static const char *const headers[] = {"POINT", "LOCAL TIME", "VERDICT", "WHY", ">FREES", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    guint64 bytes = view->dry_run ? result->frees : result->freed;
    const char *word = view->dry_run ? " to be freed" : " freed";
    g_autofree char *size = vmb_units_format_size(bytes);
    for (guint i = 0; i < result->points->len; i++) {
        const VmbDropEntry *point = result->points->pdata[i];
        if (view->all || !point->verdict.kept)
            add_row(view, table, point);
    }
    g_autofree char *text = vmb_table_text(table, "  ");
    vmb_output_line("%s: %u kept, %u %s%s%s%s", vmb_drop_result_name(result), result->n_kept,
                    view->dry_run ? result->n_held : result->n_dropped,
                    view->dry_run ? "to be dropped" : "dropped", bytes > 0 ? ", " : "",
                    bytes > 0 ? size : "", bytes > 0 ? word : "");
    if (vmb_table_rows(table) > 0)
        vmb_output_text(text);
}

/* ---- both ---- */

static void
tell_folds(const VmbDropResult *result)
{
    for (guint i = 0; i < result->folds->len; i++) {
        const VmbFolded *folded = result->folds->pdata[i];
        const char *why = folded->error != NULL ? folded->error->message : folded->deferred;
        g_autofree char *disk =
            folded->disk != NULL ? g_strdup_printf(", disk %s", folded->disk) : g_strdup("");
        if (folded->error != NULL)
            vmb_warning(
                "%s/%s%s is dropped, but its data cannot be folded; all other points are as "
                "they were: %s",
                vmb_drop_result_name(result), folded->point, disk, why);
        else if (why != NULL)
            vmb_notice("%s/%s%s is dropped, and its data is left to a later prune: %s",
                       vmb_drop_result_name(result), folded->point, disk, why);
    }
}

static void
tell_trouble(const VmbDropResult *result)
{
    const char *name = vmb_drop_result_name(result);
    tell_folds(result);
    for (guint i = 0; i < result->points->len; i++) {
        const VmbDropEntry *point = result->points->pdata[i];
        if (point->error != NULL)
            vmb_warning("%s", point->error->message);
        if (point->unreadable && point->verdict.kept)
            vmb_warning("%s/%s is kept and counted by no rule: its manifest cannot be read. "
                        "`vmbackup verify` says more, `vmbackup forget` drops it",
                        name, point->id);
    }
    if (result->n_checkpoints > 0)
        vmb_notice("%s: libvirt may still have %u %s of what was dropped; the next backup or "
                   "`vmbackup doctor --repair` deletes %s, and `vmbackup release %s` all of this "
                   "repository's",
                   name, result->n_checkpoints,
                   result->n_checkpoints == 1 ? "checkpoint" : "checkpoints",
                   result->n_checkpoints == 1 ? "it" : "them", name);
    if (result->error != NULL)
        vmb_log(VMB_LOG_ERROR, "%s: %s", name, result->error->message);
}

void
vmb_drop_view_domain(const VmbDropResult *result, gpointer data)
{
    VmbDropView *view = data;
    vmb_exit_tally_add(&view->tally, result->error);
    view->kept += result->n_kept;
    view->dropped += result->n_dropped;
    view->held += result->n_held;
    view->checkpoints += result->n_checkpoints;
    view->frees += result->frees;
    view->deferred += result->n_deferred;
    view->freed += result->freed;
    if (view->json)
        print_json(result);
    else if (!view->command->quiet && (result->points->len > 0 || result->folds->len > 0))
        print_text(view, result);
    tell_trouble(result);
}

int
vmb_drop_view_end(VmbDropView *view, const GError *error)
{
    int status = error != NULL ? vmb_command_fail(error) : vmb_exit_tally_status(&view->tally);
    if (status == VMB_EXIT_OK && !view->dry_run && view->held > 0)
        status = VMB_EXIT_PARTIAL;
    if (!view->json)
        return status;
    VmbJson *line = vmb_view_new("summary");
    vmb_json_add_bool(line, "dry_run", view->dry_run);
    vmb_json_add_uint(line, "domains", view->tally.n_ok + view->tally.n_failed);
    vmb_json_add_uint(line, "succeeded", view->tally.n_ok);
    vmb_json_add_uint(line, "failed", view->tally.n_failed);
    vmb_json_add_uint(line, "kept", view->kept);
    vmb_json_add_uint(line, "dropped", view->dropped);
    vmb_json_add_uint(line, "held", view->held);
    vmb_json_add_uint(line, "checkpoints", view->checkpoints);
    vmb_json_add_uint(line, "deferred", view->deferred);
    vmb_json_add_uint(line, "frees", view->frees);
    vmb_json_add_uint(line, "freed", view->freed);
    vmb_json_add(line, "error", vmb_view_error(error));
    vmb_json_add_uint(line, "exit_status", (guint64)status);
    vmb_output_json_line(line);
    return status;
}
