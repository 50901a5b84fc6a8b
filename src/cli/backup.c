/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup backup: backs domains up and reports on each. */
#include "job/backup.h"
#include "block/compress.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/progress-view.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>

#define FREEZE_DEFAULT_NS G_GUINT64_CONSTANT(10000000000)
#define FREEZE_MAX_NS G_GUINT64_CONSTANT(60000000000)
#define MAX_JOBS 64

typedef struct {
    VmbCommand *command;
    VmbBackupOptions job;
    guint level, quiesce, jobs; /* level and quiesce: places in their lists of words */
    gboolean all, running, strict, json;
    GPtrArray *disks, *exclude, *peers, *tags;
    /* what came out */
    VmbExitTally tally;
    guint warnings;
    guint64 stored;
} Backup;

static gboolean
parse_compress(const char *text, void *value, GError **error)
{
    return vmb_compress_parse(text, value, error);
}

static guint
count_warnings(const GPtrArray *reasons)
{
    guint n = 0;
    for (guint i = 0; i < reasons->len; i++) {
        const VmbReason *reason = g_ptr_array_index(reasons, i);
        n += vmb_reason_is_warning(reason->code) ? 1 : 0;
    }
    return n;
}

static VmbJson *
view_disks(const VmbBackupResult *result)
{
    VmbJson *array = json_object_new_array();
    for (guint i = 0; result->manifest != NULL && i < result->disks->len; i++) {
        const VmbBackupDisk *disk = result->disks->pdata[i];
        VmbJson *object = json_object_new_object();
        vmb_json_add_string(object, "target", disk->target);
        vmb_json_add_uint(object, "read", disk->read);
        vmb_json_add_uint(object, "copied", disk->copied);
        vmb_json_add_uint(object, "healed", disk->healed);
        json_object_array_add(array, object);
    }
    return array;
}

static void
report_json(const VmbBackupResult *result)
{
    VmbJson *line = vmb_view_new("domain");
    vmb_json_add_string(line, "domain", result->domain);
    vmb_json_add_string(line, "uuid", result->uuid);
    vmb_json_add_string(line, "status", result->error == NULL ? "ok" : "failed");
    vmb_json_add(line, "point", result->manifest != NULL ? vmb_view_point(result->manifest) : NULL);
    vmb_json_add(line, "disks", view_disks(result));
    vmb_json_add(line, "reasons", vmb_view_reasons(result->reasons));
    vmb_json_add(line, "error", vmb_view_error(result->error));
    vmb_json_add_uint(line, "duration_ms", result->duration_ns / 1000000);
    vmb_output_json_line(line);
}

/* "" where nothing is special about it. */
static char *
describe_copied(const VmbBackupResult *result)
{
    guint64 copied = 0;
    for (guint i = 0; i < result->disks->len; i++)
        copied += ((const VmbBackupDisk *)result->disks->pdata[i])->copied;
    g_autofree char *size = vmb_units_format_size(copied);
    return copied > 0 ? g_strdup_printf(" (%s of the disks from its chain)", size) : g_strdup("");
}

static void
report_text(const VmbBackupResult *result)
{
    const VmbManifest *manifest = result->manifest;
    g_autofree char *copied = describe_copied(result);
    g_autofree char *stored = vmb_units_format_size(vmb_manifest_stored(manifest));
    g_autofree char *duration = vmb_units_format_duration(result->duration_ns);
    g_autofree char *frozen = vmb_units_format_duration(manifest->freeze_ns);
    vmb_output_line("%s/%s: %s, %u %s, %s, %s%s in %s%s%s", manifest->domain, manifest->id,
                    vmb_level_name(manifest->level), manifest->disks->len,
                    manifest->disks->len == 1 ? "disk" : "disks",
                    vmb_consistency_name(manifest->consistency), stored, copied, duration,
                    manifest->freeze_ns > 0 ? ", frozen for " : "",
                    manifest->freeze_ns > 0 ? frozen : "");
}

static void
report(const VmbBackupResult *result, gpointer data)
{
    Backup *backup = data;
    vmb_exit_tally_add(&backup->tally, result->error);
    backup->warnings += count_warnings(result->reasons);
    if (result->manifest != NULL)
        backup->stored += vmb_manifest_stored(result->manifest);
    if (backup->json)
        report_json(result);
    else if (result->manifest != NULL && !backup->command->quiet)
        report_text(result);
    if (result->error != NULL)
        vmb_log(VMB_LOG_ERROR, "%s", result->error->message);
    else if (vmb_signals_caught() != 0)
        vmb_notice("%s: the point %s was complete when the signal came, so it is kept",
                   result->domain, result->manifest->id);
}

static int
final_status(const Backup *backup)
{
    int status = vmb_exit_tally_status(&backup->tally);
    return status == VMB_EXIT_OK && backup->strict && backup->warnings > 0 ? VMB_EXIT_PARTIAL
                                                                           : status;
}

/* The last line of --json; @error: nothing could begin. */
static void
print_summary(const Backup *backup, const GError *error, int status)
{
    if (!backup->json)
        return;
    VmbJson *line = vmb_view_new("summary");
    vmb_json_add_uint(line, "domains", backup->tally.n_ok + backup->tally.n_failed);
    vmb_json_add_uint(line, "succeeded", backup->tally.n_ok);
    vmb_json_add_uint(line, "failed", backup->tally.n_failed);
    vmb_json_add_uint(line, "warnings", backup->warnings);
    vmb_json_add_uint(line, "stored", backup->stored);
    vmb_json_add(line, "error", vmb_view_error(error));
    vmb_json_add_uint(line, "exit_status", (guint64)status);
    vmb_output_json_line(line);
}

static int
fail(const Backup *backup, const GError *error)
{
    int status = vmb_command_fail(error);
    print_summary(backup, error, status);
    return status;
}

/* The domains to back up, each once: NULL-terminated array of char *. */
static GPtrArray *
choose_domains(const Backup *backup, GError **error)
{
    GPtrArray *chosen =
        backup->all || backup->running
            ? vmb_backup_all_domains(backup->job.uri, backup->running, error)
            : vmb_backup_distinct_domains(backup->job.uri, vmb_command_operands(backup->command));
    if (chosen != NULL)
        g_ptr_array_add(chosen, NULL);
    return chosen;
}

static gboolean
check_usage(const Backup *backup, GError **error)
{
    gboolean named = vmb_command_operands(backup->command)[0] != NULL;
    gboolean listed = backup->all || backup->running;
    if (listed && named)
        return vmb_error_set(error, VMB_ERROR_USAGE, "%s and DOMAIN exclude each other",
                             backup->all ? "--all" : "--running");
    if (!listed && !named)
        return vmb_error_set(error, VMB_ERROR_USAGE, "name a domain, or give --all or --running");
    if (backup->job.freeze_timeout_ns == 0)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--freeze-timeout: no time at all; --quiesce none does not freeze");
    for (guint i = 0; i < backup->disks->len; i++)
        if (g_ptr_array_find_with_equal_func(backup->exclude, backup->disks->pdata[i], g_str_equal,
                                             NULL))
            return vmb_error_set(error, VMB_ERROR_USAGE, "--disk and --exclude-disk both name '%s'",
                                 (const char *)backup->disks->pdata[i]);
    return vmb_point_state_check_tags(vmb_command_vector(backup->tags), error);
}

static int
run(Backup *backup)
{
    static const VmbWantedLevel levels[] = {VMB_WANT_AUTO, VMB_WANT_FULL, VMB_WANT_INCREMENTAL};
    static const VmbQuiesceMode modes[] = {VMB_QUIESCE_AUTO, VMB_QUIESCE_REQUIRE, VMB_QUIESCE_PAUSE,
                                           VMB_QUIESCE_NONE};
    g_autoptr(GError) error = NULL;
    if (!check_usage(backup, &error))
        return fail(backup, error);
    backup->job.repository = vmb_command_repository(backup->command, &error);
    if (backup->job.repository == NULL)
        return fail(backup, error);
    g_autoptr(VmbRepository) repository = vmb_repository_open(backup->job.repository, &error);
    if (repository == NULL)
        return fail(backup, error);
    backup->job.cancel = vmb_signals_install();
    backup->job.uri = backup->command->uri;
    backup->job.level = levels[backup->level];
    backup->job.quiesce = modes[backup->quiesce];
    backup->job.disks = vmb_command_vector(backup->disks);
    backup->job.exclude = vmb_command_vector(backup->exclude);
    backup->job.peers = vmb_command_vector(backup->peers);
    backup->job.tags = vmb_command_vector(backup->tags);
    g_autoptr(GPtrArray) domains = choose_domains(backup, &error);
    if (domains == NULL)
        return fail(backup, error);
    if (domains->pdata[0] == NULL)
        vmb_notice("there is no %sdomain, so there is nothing to back up",
                   backup->running ? "running " : "");
    g_autoptr(VmbProgressView) view = vmb_progress_view_start();
    vmb_backup_domains(&backup->job, (const char *const *)domains->pdata, backup->jobs, report,
                       backup);
    int status = final_status(backup);
    print_summary(backup, NULL, status);
    return status;
}

int
vmb_verb_backup(VmbCommand *command)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) exclude = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) peers = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) tags = g_ptr_array_new_with_free_func(g_free);
    Backup backup = {
        .command = command,
        .jobs = 1,
        .disks = disks,
        .exclude = exclude,
        .peers = peers,
        .tags = tags,
        .job = {.freeze_timeout_ns = FREEZE_DEFAULT_NS, .compress_level = VMB_COMPRESS_DEFAULT}};
    const VmbOption options[] = {
        {"all", 'a', VMB_OPTION_FLAG, NULL, "every domain, running or shut off", &backup.all},
        {"running", 0, VMB_OPTION_FLAG, NULL, "every running domain", &backup.running},
        {"level", 'l', VMB_OPTION_CHOICE, "auto|full|incremental",
         "what to store of each disk (auto: incremental where possible)", &backup.level},
        {"max-chain", 0, VMB_OPTION_NUMBER, "N",
         "images that a point may build on before a full is made of them (60; at most 200)",
         &backup.job.max_chain, VMB_MAX_CHAIN_LIMIT},
        {"no-compare", 0, VMB_OPTION_FLAG, NULL,
         "store a disk without a usable bitmap in full instead of comparing it",
         &backup.job.no_compare},
        {"quiesce", 0, VMB_OPTION_CHOICE, "auto|require|pause|none",
         "how to make the guest hold still for the instant of the backup (auto: freeze it if its "
         "agent answers)",
         &backup.quiesce},
        {"freeze-timeout", 0, VMB_OPTION_DURATION, "TIME", "longest freeze (10s; at most 60s)",
         &backup.job.freeze_timeout_ns, FREEZE_MAX_NS},
        {"disk", 0, VMB_OPTION_LIST, "TARGET[,...]", "only these disks, such as vda", disks},
        {"exclude-disk", 0, VMB_OPTION_LIST, "TARGET[,...]", "all but these disks", exclude},
        {"compress", 0, VMB_OPTION_PARSED, "zstd[:LEVEL]|none",
         "how to store data (zstd at its fastest level that pays)", &backup.job.compress_level, 0,
         parse_compress},
        {"jobs", 'j', VMB_OPTION_NUMBER, "N", "so many domains at a time (1)", &backup.jobs,
         MAX_JOBS},
        {"scratch-dir", 0, VMB_OPTION_STRING, "DIR",
         "where QEMU keeps what the guest overwrites meanwhile", &backup.job.scratch_dir},
        {"peer", 0, VMB_OPTION_EACH, "URI",
         "refuse if the libvirt there runs a domain whose newest point another host made", peers},
        {"tag", 0, VMB_OPTION_EACH, "TAG", "give the new point this tag, for prune --keep-tag", tags},
        {"lock-wait", 0, VMB_OPTION_DURATION, "TIME",
         "wait so long for another run on the same domain (0)", &backup.job.lock_wait_ns},
        {"strict", 0, VMB_OPTION_FLAG, NULL, "exit with status 3 when there was a warning",
         &backup.strict},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines, the last one a summary", &backup.json},
        {NULL},
    };
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    return run(&backup);
}
