/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup doctor: says what stands in the way of increments, and tidies up after dead runs. */
#include "job/doctor.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/verbs.h"

static const char *const grade_names[] = {"ok", "note", "problem"};

static void
print_json(const GPtrArray *lines)
{
    VmbJson *document = vmb_view_new(NULL);
    VmbJson *checks = json_object_new_array();
    for (guint i = 0; i < lines->len; i++) {
        const VmbDoctorLine *line = g_ptr_array_index(lines, i);
        VmbJson *check = json_object_new_object();
        vmb_json_add_string(check, "grade", grade_names[line->grade]);
        vmb_json_add_string(check, "domain", line->domain);
        vmb_json_add_string(check, "disk", line->disk);
        vmb_json_add_string(check, "topic", line->topic);
        vmb_json_add_string(check, "message", line->message);
        vmb_json_add_string(check, "advice", line->advice);
        json_object_array_add(checks, check);
    }
    vmb_json_add(document, "checks", checks);
    vmb_output_json_document(document);
}

static void
print_text(const GPtrArray *lines)
{
    const char *domain = "";
    for (guint i = 0; i < lines->len; i++) {
        const VmbDoctorLine *line = g_ptr_array_index(lines, i);
        const char *name = line->domain != NULL ? line->domain : "this host";
        if (g_strcmp0(name, domain) != 0)
            vmb_output_line("%s:", name);
        domain = name;
        vmb_output_line("  %-8s %s%s%s: %s", grade_names[line->grade], line->topic,
                        line->disk != NULL ? " " : "", line->disk != NULL ? line->disk : "",
                        line->message);
        if (line->advice != NULL)
            vmb_output_line("           %s", line->advice);
    }
}

/* That a run is at work counts more than other problems: only for that is it worth to come again. */
static int
status_of(const GPtrArray *lines)
{
    int status = VMB_EXIT_OK;
    for (guint i = 0; i < lines->len; i++) {
        const VmbDoctorLine *line = g_ptr_array_index(lines, i);
        if (line->locked)
            return VMB_EXIT_LOCKED;
        if (line->grade == VMB_DOCTOR_PROBLEM)
            status = VMB_EXIT_FAILED;
    }
    return status;
}

int
vmb_verb_doctor(VmbCommand *command)
{
    gboolean json = FALSE;
    VmbDoctorOptions job = {0};
    const VmbOption options[] = {
        {"scratch-dir", 0, VMB_OPTION_STRING, "DIR", "the scratch directory that backups will use",
         &job.scratch_dir},
        {"repair", 0, VMB_OPTION_FLAG, NULL, "undo what runs that died have left", &job.repair},
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    job.uri = command->uri;
    /* Without a repository it is only told what does not depend on one. */
    job.repository = vmb_command_repository(command, job.repair ? &error : NULL);
    if (job.repair && job.repository == NULL)
        return vmb_command_fail(error);
    job.domains = vmb_command_operands(command);
    job.cancel = vmb_signals_install();
    g_autoptr(GPtrArray) lines = vmb_doctor(&job, &error);
    if (lines == NULL)
        return vmb_command_fail(error);
    if (json)
        print_json(lines);
    else if (!command->quiet)
        print_text(lines);
    return status_of(lines);
}
