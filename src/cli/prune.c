/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup prune: drops the points that a policy does not keep. */
#include "job/prune.h"
#include "cli/drop-view.h"
#include "cli/progress-view.h"
#include "cli/signals.h"
#include "cli/verbs.h"

#define MAX_KEEP 1000000

/* 0 is as good as nothing, for scripts that always give all options. */
static gboolean
parse_count(const char *text, void *value, GError **error)
{
    guint64 number = 0;
    if (!g_ascii_string_to_unsigned(text, 10, 0, MAX_KEEP, &number, NULL))
        return vmb_error_set(error, VMB_ERROR_USAGE, "'%s' is not a number from 0 to %d", text,
                             MAX_KEEP);
    *(guint *)value = (guint)number;
    return TRUE;
}

static int
run(VmbPruneOptions *job, VmbDropView *view)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GTimeZone) zone = g_time_zone_new_local();
    job->zone = view->zone = zone;
    job->dry_run = view->dry_run;
    job->domains = vmb_command_operands(view->command);
    view->all = view->dry_run || view->command->verbose > 0;
    if (vmb_point_state_check_tags(job->policy.tags, &error))
        job->repository = vmb_command_repository(view->command, &error);
    if (job->repository != NULL) {
        job->cancel = vmb_signals_install();
        g_autoptr(VmbProgressView) progress = vmb_progress_view_start();
        vmb_prune(job, vmb_drop_view_domain, view, &error);
    }
    return vmb_drop_view_end(view, error);
}

int
vmb_verb_prune(VmbCommand *command)
{
    VmbPruneOptions job = {0};
    VmbDropView view = {.command = command};
    VmbRetentionPolicy *policy = &job.policy;
    g_autoptr(GPtrArray) tags = g_ptr_array_new_with_free_func(g_free);
    const VmbOption options[] = {
        {"keep-last", 0, VMB_OPTION_PARSED, "N", "keep the newest N points", &policy->last, 0,
         parse_count},
        {"keep-within", 0, VMB_OPTION_DURATION, "TIME", "keep all points of that time, such as 7d",
         &policy->within_ns},
        {"keep-hourly", 0, VMB_OPTION_PARSED, "N",
         "keep the newest point of each of N hours that have one", &policy->hourly, 0, parse_count},
        {"keep-daily", 0, VMB_OPTION_PARSED, "N", "likewise of days", &policy->daily, 0,
         parse_count},
        {"keep-weekly", 0, VMB_OPTION_PARSED, "N", "of weeks, from Monday to Sunday",
         &policy->weekly, 0, parse_count},
        {"keep-monthly", 0, VMB_OPTION_PARSED, "N", "of months", &policy->monthly, 0, parse_count},
        {"keep-yearly", 0, VMB_OPTION_PARSED, "N", "of years", &policy->yearly, 0, parse_count},
        {"keep-tag", 0, VMB_OPTION_EACH, "TAG", "keep all points with this tag", tags},
        {"dry-run", 'n', VMB_OPTION_FLAG, NULL,
         "only tell which points would be kept or dropped, and why", &view.dry_run},
        {"no-fold", 0, VMB_OPTION_FLAG, NULL,
         "drop points, and leave the work on their data to a later prune", &job.no_fold},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &view.json},
        {NULL},
    };
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    policy->tags = vmb_command_vector(tags);
    return run(&job, &view);
}
