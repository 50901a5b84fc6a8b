/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup verify: reads points back and reports damage. */
#include "job/verify.h"
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
    guint points, damaged, failed;
    guint64 bytes;
    int status; /* of the points that could not be read */
} Verify;

static const char *
domain_of(const VmbVerifyResult *result)
{
    return result->domain != NULL ? result->domain : result->uuid;
}

static void
report_json(const VmbVerifyResult *result)
{
    VmbJson *line = vmb_view_new("point");
    vmb_json_add_string(line, "id", result->point);
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add_string(line, "result",
                        result->findings->len > 0 ? "damaged"
                        : result->error != NULL   ? "failed"
                                                  : "ok");
    vmb_json_add_uint(line, "bytes", result->bytes);
    vmb_json_add(line, "findings", vmb_view_findings(result->findings));
    vmb_json_add(line, "error", vmb_view_error(result->error));
    vmb_output_json_line(line);
}

static void
report_finding(const VmbFinding *finding)
{
    g_autoptr(GString) where = g_string_new(finding->point);
    if (finding->disk != NULL)
        g_string_append_printf(where, ", disk %s", finding->disk);
    if (finding->file != NULL)
        g_string_append_printf(where, ", file %s", finding->file);
    if (finding->offset >= 0)
        g_string_append_printf(where, ", offset %" G_GINT64_FORMAT, finding->offset);
    if (finding->length > 0)
        g_string_append_printf(where, ", %" G_GUINT64_FORMAT " bytes", finding->length);
    vmb_output_line("  %s: %s", where->str, finding->message);
}

static void
report_text(const VmbVerifyResult *result)
{
    g_autofree char *bytes = vmb_units_format_size(result->bytes);
    if (result->findings->len > 0)
        vmb_output_line("%s/%s: DAMAGED (%u findings, %s read)", domain_of(result), result->point,
                        result->findings->len, bytes);
    else if (result->error == NULL)
        vmb_output_line("%s/%s: ok (%s read)", domain_of(result), result->point, bytes);
    for (guint i = 0; i < result->findings->len; i++)
        report_finding(g_ptr_array_index(result->findings, i));
}

static void
report(const VmbVerifyResult *result, gpointer data)
{
    Verify *verify = data;
    verify->points++;
    verify->bytes += result->bytes;
    verify->damaged += result->findings->len > 0 ? 1 : 0;
    if (verify->json)
        report_json(result);
    else if (!verify->command->quiet)
        report_text(result);
    else if (result->findings->len > 0)
        vmb_log(VMB_LOG_ERROR, "%s/%s is damaged: %u findings", domain_of(result), result->point,
                result->findings->len);
    if (result->error == NULL)
        return;
    verify->failed++;
    verify->status = vmb_exit_status(result->error);
    vmb_log(VMB_LOG_ERROR, "%s/%s: %s", domain_of(result), result->point, result->error->message);
}

static void
print_summary(const Verify *verify, const GError *error, int status)
{
    if (verify->json) {
        VmbJson *line = vmb_view_new("summary");
        vmb_json_add_uint(line, "points", verify->points);
        vmb_json_add_uint(line, "damaged", verify->damaged);
        vmb_json_add_uint(line, "failed", verify->failed);
        vmb_json_add_uint(line, "bytes", verify->bytes);
        vmb_json_add(line, "error", vmb_view_error(error));
        vmb_json_add_uint(line, "exit_status", (guint64)status);
        vmb_output_json_line(line);
    } else if (error == NULL && !verify->command->quiet) {
        g_autofree char *bytes = vmb_units_format_size(verify->bytes);
        vmb_output_line("%u points, %s read: %u damaged, %u could not be read", verify->points,
                        bytes, verify->damaged, verify->failed);
    }
}

static int
final_status(const Verify *verify)
{
    return verify->damaged > 0 ? VMB_EXIT_DAMAGE : verify->status;
}

int
vmb_verb_verify(VmbCommand *command)
{
    Verify verify = {.command = command};
    VmbVerifyOptions job = {.jobs = 1};
    const VmbOption options[] = {
        {"jobs", 'j', VMB_OPTION_NUMBER, "N", "so many points at a time (1)", &job.jobs, MAX_JOBS},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &verify.json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    job.repository = vmb_command_repository(command, &error);
    gboolean good = job.repository != NULL;
    if (good) {
        job.what = vmb_command_operands(command);
        job.cancel = vmb_signals_install();
        g_autoptr(VmbProgressView) view = vmb_progress_view_start();
        good = vmb_verify(&job, report, &verify, &error);
    }
    status = good ? final_status(&verify) : vmb_command_fail(error);
    print_summary(&verify, error, status);
    return status;
}
