/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup restore: turns a point into images and a domain. */
#include "job/restore.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/progress-view.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>

#define SHOWN_LOSSES 20u

typedef struct {
    VmbCommand *command;
    VmbRestoreOptions job;
    guint format; /* place in its list of words */
    GPtrArray *disks, *destinations, *exclude, *allow, *lost;
    gboolean json, stream; /* stream: standard output is the disk */
} Restore;

static gboolean
is_domain_name(const char *name)
{
    for (const char *p = name; *p != '\0'; p++)
        if (*p == '/' || g_ascii_iscntrl(*p))
            return FALSE;
    return g_utf8_validate(name, -1, NULL);
}

/* "vda=/dev/vg0/web01" becomes the disk and its destination; all of them, or none. */
static gboolean
split_destinations(Restore *restore, GError **error)
{
    for (guint i = 0; i < restore->disks->len; i++) {
        char *equals = strchr(restore->disks->pdata[i], '=');
        if (equals == NULL)
            continue;
        g_ptr_array_add(restore->destinations, g_strdup(equals + 1));
        *equals = '\0';
    }
    if (restore->destinations->len > 0 && restore->destinations->len < restore->disks->len)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "either all disks have a destination of their own (--disk TARGET=DEST), or none");
    if (g_strcmp0(restore->job.to, "-") != 0)
        return TRUE;
    restore->stream = TRUE;
    restore->job.to = NULL;
    if (restore->destinations->len > 0 || restore->disks->len > 1)
        return vmb_error_set(error, VMB_ERROR_USAGE, "--to - writes one disk to standard output: choose it with --disk");
    g_ptr_array_add(restore->destinations, g_strdup("-"));
    return TRUE;
}

/* Only disks are written then. */
static gboolean
check_out(const Restore *restore, GError **error)
{
    const VmbRestoreOptions *job = &restore->job;
    for (guint i = 0; i < restore->disks->len; i++)
        for (guint k = 0; k < i; k++)
            if (strcmp(restore->disks->pdata[i], restore->disks->pdata[k]) == 0 ||
                strcmp(restore->destinations->pdata[i], restore->destinations->pdata[k]) == 0)
                return vmb_error_set(error, VMB_ERROR_USAGE, "--disk names a disk or a destination twice");
    if (job->to != NULL || job->define || job->start || job->name != NULL || restore->exclude->len > 0)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "where disks have destinations of their own, nothing else is restored: no --to DIR, "
                             "--exclude-disk, --define, --start or --name");
    for (guint i = 0; i < restore->destinations->len; i++)
        if (restore->disks->len > 0 && !restore->stream &&
            strcmp(restore->destinations->pdata[i], "-") == 0)
            return vmb_error_set(error, VMB_ERROR_USAGE, "for standard output: --to - --disk TARGET");
    return !restore->stream || !restore->json ||
           vmb_error_set(error, VMB_ERROR_USAGE, "with --to - standard output is the disk; there is no --json");
}

static gboolean
check_usage(const Restore *restore, GError **error)
{
    const VmbRestoreOptions *job = &restore->job;
    if (restore->destinations->len > 0)
        return check_out(restore, error);
    if (job->to == NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--to DIR is missing: where to restore to (or --disk TARGET=DEST)");
    if (job->name != NULL && !is_domain_name(job->name))
        return vmb_error_set(error, VMB_ERROR_USAGE, "--name: '%s' cannot be the name of a domain",
                             job->name);
    if ((job->keep_uuid || job->keep_mac) && job->name == NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--keep-uuid and --keep-mac are for --name; without it both are kept");
    if (job->force_define && !job->ignore_damage)
        return vmb_error_set(error, VMB_ERROR_USAGE, "--force-define is for --ignore-damage");
    for (guint i = 0; i < restore->disks->len; i++)
        if (g_ptr_array_find_with_equal_func(restore->exclude, restore->disks->pdata[i],
                                             g_str_equal, NULL))
            return vmb_error_set(error, VMB_ERROR_USAGE, "--disk and --exclude-disk both name '%s'",
                                 (const char *)restore->disks->pdata[i]);
    return TRUE;
}

static VmbJson *
view_disk(const VmbRestoredDisk *disk)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_string(object, "path", disk->path);
    vmb_json_add_uint(object, "size", disk->size);
    vmb_json_add_uint(object, "written", disk->written);
    return object;
}

static void
add_result(VmbJson *line, const VmbRestoreResult *result)
{
    VmbJson *disks = json_object_new_array();
    VmbJson *missing = json_object_new_array();
    for (guint i = 0; i < result->disks->len; i++)
        json_object_array_add(disks, view_disk(g_ptr_array_index(result->disks, i)));
    for (guint i = 0; i < result->missing->len; i++)
        json_object_array_add(missing,
                              json_object_new_string(g_ptr_array_index(result->missing, i)));
    vmb_json_add_string(line, "id", result->point);
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add_string(line, "xml", result->xml_path);
    vmb_json_add_string(line, "defined", result->defined);
    vmb_json_add_bool(line, "started", result->started);
    vmb_json_add(line, "disks", disks);
    vmb_json_add(line, "missing", missing);
    vmb_json_add_uint(line, "duration_ms", result->duration_ns / 1000000);
}

static VmbJson *
view_lost(const GPtrArray *lost)
{
    VmbJson *array = json_object_new_array();
    for (guint i = 0; i < lost->len; i++) {
        const VmbRestoreLoss *loss = g_ptr_array_index(lost, i);
        VmbJson *object = json_object_new_object();
        vmb_json_add_string(object, "point", loss->point);
        vmb_json_add_string(object, "disk", loss->disk);
        vmb_json_add_string(object, "file", loss->file);
        vmb_json_add_uint(object, "offset", loss->offset);
        vmb_json_add_uint(object, "length", loss->length);
        json_object_array_add(array, object);
    }
    return array;
}

static void
tell_lost(const Restore *restore)
{
    const char *what = restore->job.ignore_damage ? "zero" : "damaged";
    for (guint i = 0; i < MIN(restore->lost->len, SHOWN_LOSSES); i++) {
        const VmbRestoreLoss *loss = g_ptr_array_index(restore->lost, i);
        if (loss->file != NULL)
            vmb_log(VMB_LOG_ERROR, "%s of the point %s is damaged", loss->file, loss->point);
        else if (loss->length == 0)
            vmb_log(VMB_LOG_ERROR, "disk %s: what the point %s holds of it cannot be verified, for "
                    "its digests are damaged", loss->disk, loss->point);
        else
            vmb_log(VMB_LOG_ERROR, "disk %s: %" G_GUINT64_FORMAT " bytes at offset %"
                    G_GUINT64_FORMAT " are lost (%s; damaged in the point %s)", loss->disk,
                    loss->length, loss->offset, what, loss->point);
    }
    if (restore->lost->len > SHOWN_LOSSES)
        vmb_log(VMB_LOG_ERROR, "%u more are lost; --json lists all", restore->lost->len - SHOWN_LOSSES);
}

static void
print_summary(const Restore *restore, const VmbRestoreResult *result, const GError *error,
              int status)
{
    if (!restore->json)
        return;
    VmbJson *line = vmb_view_new("summary");
    if (result != NULL)
        add_result(line, result);
    vmb_json_add(line, "lost", view_lost(restore->lost));
    vmb_json_add(line, "error", vmb_view_error(error));
    vmb_json_add_uint(line, "exit_status", (guint64)status);
    vmb_output_json_line(line);
}

static void
print_text(const VmbRestoreResult *result)
{
    g_autofree char *duration = vmb_units_format_duration(result->duration_ns);
    for (guint i = 0; i < result->disks->len; i++) {
        const VmbRestoredDisk *disk = g_ptr_array_index(result->disks, i);
        g_autofree char *size = vmb_units_format_size(disk->size);
        g_autofree char *written = vmb_units_format_size(disk->written);
        vmb_output_line("%s: %s (%s, %s written)", disk->target, disk->path, size, written);
    }
    for (guint i = 0; i < result->missing->len; i++)
        vmb_output_line("not in the point: %s",
                        (const char *)g_ptr_array_index(result->missing, i));
    if (result->xml_path != NULL)
        vmb_output_line("domain XML: %s", result->xml_path);
    if (result->defined != NULL)
        vmb_output_line("defined%s: %s", result->started ? " and started" : "", result->defined);
    vmb_output_line("%s/%s restored in %s", result->domain, result->point, duration);
}

static int
fail(const Restore *restore, const GError *error)
{
    int status = vmb_command_fail(error);
    print_summary(restore, NULL, error, status);
    return status;
}

static int
run(Restore *restore)
{
    static const VmbRestoreFormat formats[] = {VMB_RESTORE_QCOW2, VMB_RESTORE_RAW};
    VmbRestoreOptions *job = &restore->job;
    g_autoptr(GError) error = NULL;
    if (!split_destinations(restore, &error) || !check_usage(restore, &error))
        return fail(restore, error);
    job->repository = vmb_command_repository(restore->command, &error);
    if (job->repository == NULL)
        return fail(restore, error);
    g_autofree char *to = job->to != NULL ? g_canonicalize_filename(job->to, NULL) : NULL;
    job->to = to;
    job->destinations = vmb_command_vector(restore->destinations);
    job->point = vmb_command_operands(restore->command)[0];
    job->format = formats[restore->format];
    job->define = job->define || job->start;
    job->uri = restore->command->uri;
    job->disks = vmb_command_vector(restore->disks);
    job->exclude = vmb_command_vector(restore->exclude);
    job->allow = vmb_command_vector(restore->allow);
    job->lost = restore->lost;
    /* A reader that takes nothing would keep us from looking at a signal; and there is nothing to undo. */
    job->cancel = restore->stream ? NULL : vmb_signals_install();
    g_autoptr(VmbProgressView) view = vmb_progress_view_start();
    g_autoptr(VmbRestoreResult) result = vmb_restore(job, &error);
    g_clear_pointer(&view, vmb_progress_view_free);
    tell_lost(restore);
    if (result == NULL)
        return fail(restore, error);
    int status = restore->lost->len > 0 ? VMB_EXIT_DAMAGE : VMB_EXIT_OK;
    if (restore->json)
        print_summary(restore, result, NULL, status);
    else if (!restore->command->quiet && !restore->stream)
        print_text(result);
    return status;
}

int
vmb_verb_restore(VmbCommand *command)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) exclude = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) allow = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) lost =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_restore_loss_free);
    g_autoptr(GPtrArray) destinations = g_ptr_array_new_with_free_func(g_free);
    Restore restore = {.command = command,
                       .disks = disks,
                       .destinations = destinations,
                       .exclude = exclude,
                       .allow = allow,
                       .lost = lost};
    VmbRestoreOptions *job = &restore.job;
    const VmbOption options[] = {
        {"to", 't', VMB_OPTION_STRING, "DIR", "directory to restore into; made if it is absent. -: one disk, raw, to standard output",
         &job->to},
        {"disk", 0, VMB_OPTION_LIST, "TARGET[=DEST][,...]",
         "only these disks, such as vda; with DEST, a block device or NBD URI, nothing else is restored", disks},
        {"exclude-disk", 0, VMB_OPTION_LIST, "TARGET[,...]", "all but these disks", exclude},
        {"format", 0, VMB_OPTION_CHOICE, "qcow2|raw", "format of the images (qcow2)",
         &restore.format},
        {"define", 0, VMB_OPTION_FLAG, NULL, "define the restored domain in libvirt", &job->define},
        {"start", 0, VMB_OPTION_FLAG, NULL, "define it and start it", &job->start},
        {"name", 'n', VMB_OPTION_STRING, "NEW",
         "another name, with a new UUID and new MAC addresses", &job->name},
        {"keep-uuid", 0, VMB_OPTION_FLAG, NULL, "with --name: the UUID stays", &job->keep_uuid},
        {"keep-mac", 0, VMB_OPTION_FLAG, NULL, "with --name: the MAC addresses stay",
         &job->keep_mac},
        {"ignore-damage", 0, VMB_OPTION_FLAG, NULL,
         "restore zeroes where data is damaged, tell what is lost, and define no domain",
         &job->ignore_damage},
        {"force-define", 0, VMB_OPTION_FLAG, NULL,
         "with --ignore-damage: define or start it although something is lost",
         &job->force_define},
        {"allow", 0, VMB_OPTION_EACH, "PART",
         "let a part of the domain's XML through that runs a program or attaches something of this "
         "host; the refusal names it",
         allow},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &restore.json},
        {NULL},
    };
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, 1, &status))
        return status;
    return run(&restore);
}
