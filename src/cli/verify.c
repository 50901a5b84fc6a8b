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

#include <string.h>

#define MAX_JOBS 64
#define SHOWN_FINDINGS 20 /* of one point, in text */
#define SHOWN_POINTS 8

typedef struct {
    VmbCommand *command;
    gboolean json;
    guint points, damaged, failed;
    guint64 bytes;
    VmbVerifyTotal total;
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
    vmb_json_add_bool(line, "retired", result->retired);
    vmb_json_add_string(line, "result",
                        result->findings->len > 0 ? "damaged"
                        : result->error != NULL   ? "failed"
                                                  : "ok");
    vmb_json_add_uint(line, "bytes", result->bytes);
    vmb_json_add(line, "findings", vmb_view_findings(result->findings));
    vmb_json_add(line, "advice", vmb_view_texts(result->advice));
    vmb_json_add(line, "error", vmb_view_error(result->error));
    vmb_output_json_line(line);
}

static char *
join_points(const GPtrArray *ids)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < MIN(ids->len, SHOWN_POINTS); i++)
        g_string_append_printf(text, "%s%s", i > 0 ? ", " : "", (const char *)ids->pdata[i]);
    if (ids->len > SHOWN_POINTS)
        g_string_append_printf(text, " and %u more", ids->len - SHOWN_POINTS);
    return g_string_free(text, FALSE);
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

/* The points that show any of what was found of one disk. */
static void
report_affected(const VmbVerifyResult *result, const char *disk)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    gboolean known = FALSE;
    for (guint i = 0; i < result->findings->len; i++) {
        const VmbFinding *finding = result->findings->pdata[i];
        if (g_strcmp0(finding->disk, disk) != 0 || finding->affected == NULL)
            continue;
        known = TRUE;
        for (guint k = 0; k < finding->affected->len; k++)
            if (g_hash_table_add(seen, finding->affected->pdata[k]))
                g_ptr_array_add(ids, finding->affected->pdata[k]);
    }
    g_autofree char *text = join_points(ids);
    if (known && ids->len > 0)
        vmb_output_line("  disk %s is damaged in the points: %s; in no other of %s", disk, text,
                        domain_of(result));
    else if (known)
        vmb_output_line("  no point of %s shows what is damaged of disk %s", domain_of(result),
                        disk);
}

static void
report_details(const VmbVerifyResult *result)
{
    g_autoptr(GHashTable) disks = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < MIN(result->findings->len, SHOWN_FINDINGS); i++)
        report_finding(result->findings->pdata[i]);
    if (result->findings->len > SHOWN_FINDINGS)
        vmb_output_line("  and %u more (--json shows them all)",
                        result->findings->len - SHOWN_FINDINGS);
    for (guint i = 0; i < result->findings->len; i++) {
        const VmbFinding *finding = result->findings->pdata[i];
        if (finding->disk != NULL && g_hash_table_add(disks, finding->disk))
            report_affected(result, finding->disk);
    }
    for (guint i = 0; i < result->advice->len; i++)
        vmb_output_line("  %s", (const char *)result->advice->pdata[i]);
}

static void
report_text(const VmbVerifyResult *result)
{
    g_autofree char *bytes = vmb_units_format_size(result->bytes);
    const char *what = result->retired ? " (retired, others need its data)" : "";
    if (result->findings->len > 0)
        vmb_output_line("%s/%s%s: DAMAGED (%u findings, %s read)", domain_of(result),
                        result->point, what, result->findings->len, bytes);
    else if (result->error == NULL)
        vmb_output_line("%s/%s%s: ok (%s read)", domain_of(result), result->point, what, bytes);
    if (result->findings->len > 0)
        report_details(result);
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
        vmb_json_add_uint(line, "total_points", verify->total.points);
        vmb_json_add_uint(line, "total_bytes", verify->total.bytes);
        vmb_json_add(line, "error", vmb_view_error(error));
        vmb_json_add_uint(line, "exit_status", (guint64)status);
        vmb_output_json_line(line);
    } else if (error == NULL && !verify->command->quiet) {
        g_autofree char *bytes = vmb_units_format_size(verify->bytes);
        g_autofree char *total = vmb_units_format_size(verify->total.bytes);
        vmb_output_line("%u of %u points, %s of %s read: %u damaged, %u could not be read",
                        verify->points, verify->total.points, bytes, total, verify->damaged,
                        verify->failed);
    }
}

static int
final_status(const Verify *verify)
{
    return verify->damaged > 0 ? VMB_EXIT_DAMAGE : verify->status;
}

/* "5%", "0.5%": parts per million. */
static gboolean
parse_sample(const char *text, void *value, GError **error)
{
    guint64 whole = 0, parts = 0;
    const char *p = text;
    for (; g_ascii_isdigit(*p) && whole <= 100; p++)
        whole = whole * 10 + (guint64)g_ascii_digit_value(*p);
    gboolean ok = p != text;
    if (*p == '.') {
        guint64 unit = 1000;
        for (p++; g_ascii_isdigit(*p); p++, unit /= 10)
            parts += (guint64)g_ascii_digit_value(*p) * unit;
        ok &= g_ascii_isdigit(p[-1]);
    }
    guint64 sample = whole * 10000 + parts;
    if (!ok || (*p != '\0' && strcmp(p, "%") != 0) || sample == 0 || sample > VMB_VERIFY_ALL)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "'%s' is no share from 0.0001%% to 100%%, such as 5%%", text);
    *(guint *)value = (guint)sample;
    return TRUE;
}

static int
run(Verify *verify, VmbVerifyOptions *job)
{
    g_autoptr(GError) error = NULL;
    job->repository = vmb_command_repository(verify->command, &error);
    gboolean good = job->repository != NULL;
    if (good) {
        job->what = vmb_command_operands(verify->command);
        job->cancel = vmb_signals_install();
        g_autoptr(VmbProgressView) view = vmb_progress_view_start();
        good = vmb_verify(job, report, verify, &verify->total, &error);
    }
    int status = good ? final_status(verify) : vmb_command_fail(error);
    print_summary(verify, error, status);
    return status;
}

int
vmb_verb_verify(VmbCommand *command)
{
    Verify verify = {.command = command};
    VmbVerifyOptions job = {.jobs = 1, .sample = VMB_VERIFY_ALL};
    const VmbOption options[] = {
        {"quick", 0, VMB_OPTION_FLAG, NULL,
         "only structure, sizes and the digests of all metadata; no data is read", &job.quick},
        {"sample", 0, VMB_OPTION_PARSED, "N%",
         "so much of the stored bytes, the points that were not verified for the longest time first",
         &job.sample, 0, parse_sample},
        {"older-than", 0, VMB_OPTION_DURATION, "DURATION",
         "only points that were not verified for so long, or never", &job.older_than_ns},
        {"jobs", 'j', VMB_OPTION_NUMBER, "N", "so many points at a time (1)", &job.jobs, MAX_JOBS},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &verify.json},
        {NULL},
    };
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    return run(&verify, &job);
}
