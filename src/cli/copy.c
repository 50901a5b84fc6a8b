/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup copy: points of one repository into another one. */
#include "job/backup.h"
#include "job/copy.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/progress-view.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "util/log.h"
#include "util/units.h"

#define MAX_JOBS 64

typedef struct {
    VmbCommand *command;
    gboolean json;
    guint copied, present, older, dropped;
    guint64 bytes;
    VmbExitTally tally;
} Copying;

static const char *const outcomes[] = {
    [VMB_COPY_DONE] = "copied",
    [VMB_COPY_PRESENT] = "present",
    [VMB_COPY_OLDER] = "older",
    [VMB_COPY_DROPPED] = "dropped",
    [VMB_COPY_FAILED] = "failed",
};

static void
report_json(const VmbCopyResult *result)
{
    VmbJson *line = vmb_view_new("point");
    vmb_json_add_string(line, "id", result->point);
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add_string(line, "result", outcomes[result->outcome]);
    vmb_json_add_uint(line, "bytes", result->bytes);
    vmb_json_add(line, "point", result->manifest != NULL ? vmb_view_point(result->manifest) : NULL);
    vmb_json_add(line, "error", vmb_view_error(result->error));
    vmb_output_json_line(line);
}

static void
report(const VmbCopyResult *result, gpointer data)
{
    Copying *copying = data;
    g_autofree char *bytes = vmb_units_format_size(result->bytes);
    copying->copied += result->outcome == VMB_COPY_DONE ? 1 : 0;
    copying->present += result->outcome == VMB_COPY_PRESENT ? 1 : 0;
    copying->older += result->outcome == VMB_COPY_OLDER ? 1 : 0;
    copying->dropped += result->outcome == VMB_COPY_DROPPED ? 1 : 0;
    copying->bytes += result->bytes;
    vmb_exit_tally_add(&copying->tally, result->error);
    if (copying->json)
        report_json(result);
    else if (result->outcome == VMB_COPY_DONE && !copying->command->quiet)
        vmb_output_line("%s/%s: %s, %s copied", result->domain, result->point,
                        vmb_level_name(result->manifest->level), bytes);
    else if (result->outcome == VMB_COPY_OLDER)
        vmb_info("%s/%s: left out, for the other repository has had newer ones", result->domain,
                 result->point);
    else if (result->outcome == VMB_COPY_DROPPED)
        vmb_notice("%s/%s: left out, for it has been dropped meanwhile", result->domain,
                   result->point);
    if (result->error != NULL && result->point != NULL)
        vmb_log(VMB_LOG_ERROR, "%s/%s was not copied: %s", result->domain, result->point,
                result->error->message);
    else if (result->error != NULL)
        vmb_log(VMB_LOG_ERROR, "%s", result->error->message);
}

static void
print_summary(const Copying *copying, const GError *error, int status)
{
    if (copying->json) {
        VmbJson *line = vmb_view_new("summary");
        vmb_json_add_uint(line, "copied", copying->copied);
        vmb_json_add_uint(line, "present", copying->present);
        vmb_json_add_uint(line, "older", copying->older);
        vmb_json_add_uint(line, "dropped", copying->dropped);
        vmb_json_add_uint(line, "failed", copying->tally.n_failed);
        vmb_json_add_uint(line, "bytes", copying->bytes);
        vmb_json_add(line, "error", vmb_view_error(error));
        vmb_json_add_uint(line, "exit_status", (guint64)status);
        vmb_output_json_line(line);
    } else if (error == NULL && !copying->command->quiet) {
        g_autofree char *bytes = vmb_units_format_size(copying->bytes);
        vmb_output_line("%u points copied (%s), %u were there, %u older ones left out, %u failed",
                        copying->copied, bytes, copying->present, copying->older,
                        copying->tally.n_failed);
    }
}

int
vmb_verb_copy(VmbCommand *command)
{
    Copying copying = {.command = command};
    VmbCopyOptions job = {.jobs = 1};
    const VmbOption options[] = {
        {"to", 0, VMB_OPTION_STRING, "REPO", "the repository that gets the copies", &job.to},
        {"older", 0, VMB_OPTION_FLAG, NULL,
         "also points that are older than the newest one that it has had", &job.older},
        {"max-chain", 0, VMB_OPTION_NUMBER, "N",
         "so many images of a disk may build on each other there (60)", &job.max_chain,
         VMB_MAX_CHAIN_LIMIT},
        {"jobs", 'j', VMB_OPTION_NUMBER, "N", "so many domains at a time (1)", &job.jobs, MAX_JOBS},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &copying.json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    if (job.to == NULL || job.to[0] == '\0')
        vmb_error_set(&error, VMB_ERROR_USAGE, "--to REPO is missing: where do the copies go?");
    else
        job.from = vmb_command_repository(command, &error);
    gboolean good = job.from != NULL;
    if (good) {
        job.what = vmb_command_operands(command);
        job.cancel = vmb_signals_install();
        g_autoptr(VmbProgressView) view = vmb_progress_view_start();
        good = vmb_copy(&job, report, &copying, &error);
    }
    status = good ? vmb_exit_tally_status(&copying.tally) : vmb_command_fail(error);
    print_summary(&copying, error, status);
    return status;
}
