/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup export: the disks of a point, or of a running domain, over NBD. */
#include "job/export.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "job/live.h"
#include "util/units.h"

#define FREEZE_DEFAULT_NS (10 * G_GUINT64_CONSTANT(1000000000))
#define FREEZE_MAX_NS (60 * G_GUINT64_CONSTANT(1000000000))

typedef struct {
    VmbCommand *command;
    VmbExportOptions job;
    VmbLiveOptions live; /* what it has beside those of job */
    const char *x509, *psk;
    guint quiesce; /* place in its list of words */
    gboolean any_client, json, is_live;
} ExportVerb;

static gboolean
check_live(const ExportVerb *verb, GError **error)
{
    const VmbExportOptions *job = &verb->job;
    const VmbLiveOptions *live = &verb->live;
    if (!verb->is_live)
        return (live->consumer == NULL && live->scratch_dir == NULL) ||
               vmb_error_set(error, VMB_ERROR_USAGE, "--consumer and --scratch-dir are for --live");
    if (job->writable || job->ignore_damage || verb->x509 != NULL || verb->psk != NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "a running domain is served read-only, and by its own QEMU, without TLS: no --rw, "
                             "--tls-... or --ignore-damage; `ssh -L` takes a socket to other hosts");
    if (live->consumer != NULL && (job->command == NULL || job->since != NULL))
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--consumer needs --exec, whose status says whether all was taken, and no --since");
    return TRUE;
}

static gboolean
check_usage(ExportVerb *verb, GError **error)
{
    VmbServeAddress *address = &verb->job.address;
    if (verb->x509 != NULL && verb->psk != NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE, "--tls-x509 and --tls-psk exclude each other");
    if (!check_live(verb, error))
        return FALSE;
    if (verb->any_client && verb->x509 == NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE, "--tls-any-client is for --tls-x509");
    address->tls_dir = verb->x509 != NULL ? verb->x509 : verb->psk;
    if (verb->x509 != NULL)
        address->tls = verb->any_client ? VMB_TLS_X509_ANY : VMB_TLS_X509;
    else if (verb->psk != NULL)
        address->tls = VMB_TLS_PSK;
    return TRUE;
}

static VmbJson *
view_disk(const VmbServedDisk *disk)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_uint(object, "size", disk->size);
    vmb_json_add_string(object, "uri", disk->uri);
    vmb_json_add_string(object, "context", disk->context);
    vmb_view_add_bytes(object, "changed", disk->context != NULL ? disk->changed : VMB_BYTES_UNKNOWN);
    vmb_view_add_bytes(object, "zeroed", disk->context != NULL ? disk->zeroed : VMB_BYTES_UNKNOWN);
    return object;
}

static void
print_json(const VmbServed *served)
{
    VmbJson *line = vmb_view_new("export");
    VmbJson *disks = json_object_new_array();
    vmb_json_add_string(line, "domain", served->domain);
    vmb_json_add_string(line, "uuid", served->uuid);
    vmb_json_add_string(line, "id", served->point);
    vmb_json_add_string(line, "since", served->since);
    for (guint i = 0; i < served->disks->len; i++)
        json_object_array_add(disks, view_disk(served->disks->pdata[i]));
    vmb_json_add(line, "disks", disks);
    vmb_output_json_line(line);
}

/* A command has standard output for itself. */
static void
print_ready(const VmbServed *served, gpointer user)
{
    const ExportVerb *verb = user;
    if (verb->json)
        print_json(served);
    if (verb->json || verb->job.command != NULL || verb->command->quiet)
        return;
    for (guint i = 0; i < served->disks->len; i++) {
        const VmbServedDisk *disk = served->disks->pdata[i];
        g_autofree char *changed = vmb_units_format_size(disk->changed + disk->zeroed);
        vmb_output_line("%s: %s%s%s%s%s%s", disk->target, disk->uri,
                        disk->context != NULL ? " (" : "", disk->context != NULL ? changed : "",
                        disk->context != NULL ? " changed: " : "",
                        disk->context != NULL ? disk->context : "", disk->context != NULL ? ")" : "");
    }
    vmb_output_finish(NULL);
}

static gboolean
export_live(ExportVerb *verb, int *status, GError **error)
{
    static const VmbQuiesceMode modes[] = {VMB_QUIESCE_AUTO, VMB_QUIESCE_REQUIRE, VMB_QUIESCE_PAUSE,
                                           VMB_QUIESCE_NONE};
    const VmbExportOptions *job = &verb->job;
    VmbLiveOptions *live = &verb->live;
    live->repository = job->repository;
    live->uri = verb->command->uri;
    live->domain = job->point;
    live->disks = job->disks;
    live->since = job->since;
    live->quiesce = modes[verb->quiesce];
    live->address = job->address;
    live->command = job->command;
    live->cancel = job->cancel;
    live->ready = job->ready;
    live->user = job->user;
    return vmb_export_live(live, status, error);
}

static int
run(ExportVerb *verb)
{
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK, command_status = 0;
    VmbExportOptions *job = &verb->job;
    job->point = vmb_command_operands(verb->command)[0];
    job->ready = print_ready;
    job->user = verb;
    job->cancel = vmb_signals_install();
    if (!check_usage(verb, &error) ||
        (job->repository = vmb_command_repository(verb->command, &error)) == NULL ||
        !(verb->is_live ? export_live(verb, &command_status, &error)
                        : vmb_export(job, &command_status, &error)))
        status = vmb_command_fail(error);
    if (!verb->json)
        return status;
    VmbJson *line = vmb_view_new("summary");
    vmb_json_add(line, "error", vmb_view_error(error));
    vmb_json_add_uint(line, "command_status", (guint64)command_status);
    vmb_json_add_uint(line, "exit_status", (guint64)status);
    vmb_output_json_line(line);
    return status;
}

int
vmb_verb_export(VmbCommand *command)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(g_free);
    ExportVerb verb = {.command = command, .live = {.freeze_timeout_ns = FREEZE_DEFAULT_NS}};
    VmbExportOptions *job = &verb.job;
    const VmbOption options[] = {
        {"disk", 0, VMB_OPTION_LIST, "TARGET[,...]", "only these disks, such as vda", disks},
        {"since", 0, VMB_OPTION_STRING, "POINT",
         "tell clients which blocks have changed since an older point of the domain", &job->since},
        {"exec", 0, VMB_OPTION_STRING, "CMD",
         "run a command with the URIs in its environment, and end with it", &job->command},
        {"socket", 0, VMB_OPTION_STRING, "PATH", "serve on a UNIX socket, which must not be there yet",
         &job->address.socket},
        {"listen", 0, VMB_OPTION_STRING, "HOST:PORT", "serve on a TCP port; port 0 takes any that is free",
         &job->address.listen},
        {"tls-x509", 0, VMB_OPTION_STRING, "DIR",
         "clients must use TLS, with certificates of the authority in this directory", &verb.x509},
        {"tls-any-client", 0, VMB_OPTION_FLAG, NULL, "with --tls-x509: clients need no certificate",
         &verb.any_client},
        {"tls-psk", 0, VMB_OPTION_STRING, "DIR", "clients must use TLS, with a key of the file keys.psk in it",
         &verb.psk},
        {"allow-plain", 0, VMB_OPTION_FLAG, NULL, "let other hosts in without TLS, and whoever they are",
         &job->address.allow_plain},
        {"rw", 0, VMB_OPTION_FLAG, NULL,
         "let clients write, into an overlay that is thrown away; the point stays as it is", &job->writable},
        {"overlay-dir", 0, VMB_OPTION_STRING, "DIR", "with --rw: where overlays are (/tmp)",
         &job->overlay_dir},
        {"keep-overlay", 0, VMB_OPTION_STRING, "FILE", "with --rw and one disk: keep the overlay as this file",
         &job->keep_overlay},
        {"live", 0, VMB_OPTION_FLAG, NULL,
         "serve the disks of a running domain, as they are at this moment", &verb.is_live},
        {"consumer", 0, VMB_OPTION_STRING, "NAME",
         "with --live and --exec: tell what has changed since this one's last success", &verb.live.consumer},
        {"quiesce", 0, VMB_OPTION_CHOICE, "auto|require|pause|none",
         "with --live: how to make the guest hold still for that moment (auto)", &verb.quiesce},
        {"freeze-timeout", 0, VMB_OPTION_DURATION, "TIME", "with --live: longest freeze (10s; at most 60s)",
         &verb.live.freeze_timeout_ns, FREEZE_MAX_NS},
        {"scratch-dir", 0, VMB_OPTION_STRING, "DIR",
         "with --live: where QEMU keeps what the guest overwrites meanwhile", &verb.live.scratch_dir},
        {"lock-wait", 0, VMB_OPTION_DURATION, "TIME", "with --live: wait so long for another run to end",
         &verb.live.lock_wait_ns},
        {"ignore-damage", 0, VMB_OPTION_FLAG, NULL, "serve what is known to be damaged all the same",
         &job->ignore_damage},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines: what is served, and a summary at the end",
         &verb.json},
        {NULL},
    };
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, 1, &status))
        return status;
    job->disks = vmb_command_vector(disks);
    return run(&verb);
}
