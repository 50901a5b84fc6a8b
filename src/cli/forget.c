/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup forget: drops points that are named, or all of a domain. */
#include "job/forget.h"
#include "cli/drop-view.h"
#include "cli/progress-view.h"
#include "cli/signals.h"
#include "cli/verbs.h"

int
vmb_verb_forget(VmbCommand *command)
{
    VmbForgetOptions job = {0};
    VmbDropView view = {.command = command};
    const VmbOption options[] = {
        {"all", 'a', VMB_OPTION_FLAG, NULL, "every point of the domains", &job.all},
        {"force", 0, VMB_OPTION_FLAG, NULL,
         "also what is protected, and the newest point that can be restored", &job.force},
        {"dry-run", 'n', VMB_OPTION_FLAG, NULL, "only tell what would be dropped", &view.dry_run},
        {"no-fold", 0, VMB_OPTION_FLAG, NULL,
         "drop points, and leave the work on their data to a later prune", &job.no_fold},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &view.json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(GTimeZone) zone = g_time_zone_new_local();
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, G_MAXUINT, &status))
        return status;
    view.zone = zone;
    job.dry_run = view.dry_run;
    job.what = vmb_command_operands(command);
    job.repository = vmb_command_repository(command, &error);
    if (job.repository != NULL) {
        job.cancel = vmb_signals_install();
        g_autoptr(VmbProgressView) progress = vmb_progress_view_start();
        vmb_forget(&job, vmb_drop_view_domain, &view, &error);
    }
    return vmb_drop_view_end(&view, error);
}
