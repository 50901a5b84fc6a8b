/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Test program: does single steps of the libvirt layer as told on standard input, one line each. */
#include "virt/backup-job.h"
#include "virt/checkpoint.h"
#include "virt/guest-facts.h"
#include "virt/quiesce.h"
#include "util/json.h"
#include "util/log.h"
#include "util/units.h"

#include <stdio.h>
#include <string.h>

/* Usage: virt-driver URI DOMAIN. Each line is a command with words; each answer is a line of JSON:
 * {"ok": bool, "code": number, "error": text, ...}. */
typedef struct {
    VmbDomain *domain;
    VmbGuard *guard;
    VmbQuiesce *quiesce;
    VmbBackupJob *job;
    char *job_xml, *checkpoint_xml;
    GPtrArray *reasons;
} Driver;

typedef gboolean (*Command)(Driver *driver, char **words, VmbJson *answer, GError **error);

static gboolean
do_state(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    VmbDomainState state;
    if (!vmb_domain_state(driver->domain, &state, error))
        return FALSE;
    vmb_json_add_bool(answer, "active", state.active);
    vmb_json_add_bool(answer, "paused", state.paused);
    vmb_json_add_bool(answer, "io_error", state.io_error);
    vmb_json_add_bool(answer, "persistent", state.persistent);
    return TRUE;
}

static VmbJson *
disk_json(const VmbDiskInfo *disk)
{
    VmbJson *object = json_object_new_object();
    VmbJson *layers = json_object_new_array();
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_string(object, "format", disk->format);
    vmb_json_add_uint(object, "device", disk->device);
    vmb_json_add_bool(object, "readonly", disk->readonly);
    vmb_json_add_bool(object, "has_medium", disk->has_medium);
    vmb_json_add_bool(object, "bitmaps", disk->bitmaps);
    vmb_json_add_string(object, "why", disk->no_bitmaps_why);
    vmb_json_add_uint(object, "size", disk->size);
    for (guint i = 0; i < disk->layers->len; i++) {
        const VmbDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        json_object_array_add(layers, json_object_new_string(layer->path ? layer->path : "?"));
    }
    vmb_json_add(object, "layers", layers);
    return object;
}

static gboolean
do_inspect(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    g_autoptr(VmbDomainInfo) info = vmb_domain_inspect(driver->domain, error);
    if (info == NULL)
        return FALSE;
    VmbJson *disks = json_object_new_array();
    for (guint i = 0; i < info->disks->len; i++)
        json_object_array_add(disks, disk_json(g_ptr_array_index(info->disks, i)));
    vmb_json_add(answer, "disks", disks);
    vmb_json_add_string(answer, "nvram", info->nvram);
    vmb_json_add_string(answer, "tpm_dir", info->tpm_dir);
    vmb_json_add_bool(answer, "agent_channel", info->agent_channel);
    vmb_json_add_bool(answer, "agent_connected", info->agent_connected);
    vmb_json_add_uint(answer, "qemu_uid", info->qemu_uid);
    vmb_json_add_string(answer, "inactive_xml", info->inactive_xml);
    return TRUE;
}

/* active-job [OWN-SOCKET] */
static gboolean
do_active_job(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    gboolean ours = FALSE;
    g_autofree char *what = NULL;
    if (!vmb_domain_active_job(driver->domain, words[1], &ours, &what, error))
        return FALSE;
    vmb_json_add_string(answer, "what", what);
    vmb_json_add_bool(answer, "ours", ours);
    return TRUE;
}

static gboolean
add_names(VmbJson *answer, GPtrArray *names)
{
    VmbJson *array = json_object_new_array();
    if (names == NULL)
        return FALSE;
    for (guint i = 0; i < names->len; i++)
        json_object_array_add(array, json_object_new_string(g_ptr_array_index(names, i)));
    vmb_json_add(answer, "names", array);
    g_ptr_array_unref(names);
    return TRUE;
}

static gboolean
do_domains(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return add_names(answer, vmb_domain_list(vmb_domain_connection(driver->domain), TRUE, error));
}

static gboolean
do_checkpoints(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return add_names(answer, vmb_checkpoint_list(driver->domain, error));
}

/* targets CHECKPOINT */
static gboolean
do_targets(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return add_names(answer, vmb_checkpoint_targets(driver->domain, words[1], error));
}

/* validate CHECKPOINT TARGET... */
static gboolean
do_validate(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    const char *const *targets = (const char *const *)words + 2;
    guint n = g_strv_length(words + 2);
    g_autofree gboolean *usable = g_new0(gboolean, n + 1);
    if (!vmb_checkpoint_validate(driver->domain, words[1], targets, usable, error))
        return FALSE;
    for (guint i = 0; i < n; i++)
        vmb_json_add_bool(answer, targets[i], usable[i]);
    return TRUE;
}

/* delete CHECKPOINT */
static gboolean
do_delete(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return vmb_checkpoint_delete(driver->domain, words[1], error);
}

/* job SOCKET CHECKPOINT|- TARGET:SCRATCH:BASE|-:BITMAP(0|1)... */
static gboolean
do_job(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    guint n = g_strv_length(words + 3);
    g_autofree VmbBackupJobDisk *disks = g_new0(VmbBackupJobDisk, n);
    g_autoptr(GPtrArray) parts = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    for (guint i = 0; i < n; i++) {
        char **part = g_strsplit(words[3 + i], ":", 4);
        g_ptr_array_add(parts, part);
        if (g_strv_length(part) != 4)
            return vmb_error_set(error, VMB_ERROR_USAGE, "wrong disk %s", words[3 + i]);
        disks[i] = (VmbBackupJobDisk){part[0], part[1], strcmp(part[2], "-") != 0 ? part[2] : NULL,
                                      strcmp(part[3], "1") == 0};
    }
    VmbBackupJobSpec spec = {words[1], strcmp(words[2], "-") != 0 ? words[2] : NULL, disks, n};
    driver->job = vmb_backup_job_new(driver->domain, &spec);
    g_free(driver->job_xml);
    g_free(driver->checkpoint_xml);
    driver->job_xml = vmb_backup_job_xml(&spec);
    driver->checkpoint_xml = vmb_backup_job_checkpoint_xml(&spec);
    return TRUE;
}

static gboolean
do_begin(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return vmb_backup_job_begin(driver->job, error);
}

static gboolean
do_end(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return vmb_backup_job_end(driver->job, error);
}

static gboolean
do_keep(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    vmb_backup_job_keep_checkpoint(driver->job);
    return TRUE;
}

static gboolean
do_job_free(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    g_clear_pointer(&driver->job, vmb_backup_job_free);
    return TRUE;
}

static gboolean
do_scratch_used(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    guint64 bytes = 0;
    vmb_json_add_bool(answer, "active", vmb_backup_job_is_active(driver->job));
    if (!vmb_backup_job_scratch_used(driver->job, &bytes, error))
        return FALSE;
    vmb_json_add_uint(answer, "bytes", bytes);
    return TRUE;
}

/* end-by-socket SOCKET */
static gboolean
do_end_by_socket(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    gboolean ended = FALSE;
    if (!vmb_backup_job_end_by_socket(driver->domain, words[1], &ended, error))
        return FALSE;
    vmb_json_add_bool(answer, "ended", ended);
    return TRUE;
}

/* guard SOCKET BUDGET-MS MAY-FREEZE MAY-PAUSE */
static gboolean
do_guard(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    VmbGuardSpec spec = {vmb_connection_uri(vmb_domain_connection(driver->domain)),
                         vmb_domain_uuid(driver->domain),
                         words[1],
                         "",
                         g_ascii_strtoull(words[2], NULL, 10) * 1000000,
                         strcmp(words[3], "1") == 0,
                         strcmp(words[4], "1") == 0};
    driver->guard = vmb_guard_start(&spec, error);
    return driver->guard != NULL;
}

static gboolean
do_guard_state(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    vmb_json_add_bool(answer, "alive", vmb_guard_alive(driver->guard));
    vmb_json_add_bool(answer, "fired", vmb_guard_fired(driver->guard));
    return TRUE;
}

static gboolean
do_guard_free(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    g_clear_pointer(&driver->guard, vmb_guard_free);
    return TRUE;
}

/* quiesce MODE BUDGET-MS */
static gboolean
do_quiesce(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    VmbQuiesceMode mode;
    if (!vmb_quiesce_mode_parse(words[1], &mode, error))
        return FALSE;
    driver->quiesce = vmb_quiesce_new(
        driver->domain, mode, g_ascii_strtoull(words[2], NULL, 10) * 1000000, driver->guard);
    return TRUE;
}

static gboolean
do_enter(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return vmb_quiesce_enter(driver->quiesce, driver->reasons, error);
}

static gboolean
do_leave(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    static const char *const names[] = {"not", "paused", "filesystems"};
    guint64 filesystems = 0, ns = 0;
    gboolean ok = vmb_quiesce_leave(driver->quiesce, driver->reasons, error);
    VmbQuiesced result = vmb_quiesce_result(driver->quiesce, &filesystems, &ns);
    vmb_json_add_string(answer, "result", names[result]);
    vmb_json_add_uint(answer, "filesystems", filesystems);
    vmb_json_add_uint(answer, "ns", ns);
    return ok;
}

/* The three steps of the frozen moment without a pause for the next command in between. */
static gboolean
do_enter_begin_leave(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    if (!vmb_quiesce_enter(driver->quiesce, driver->reasons, error))
        return FALSE;
    gboolean begun = vmb_backup_job_begin(driver->job, error);
    return do_leave(driver, words, answer, begun ? error : NULL) && begun;
}

/* The three calls of libvirt with nothing around them, for comparing the time. */
static gboolean
do_bare_freeze_begin_thaw(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    virDomainPtr domain = vmb_domain_handle(driver->domain);
    guint64 start = vmb_units_monotonic();
    int frozen = virDomainFSFreeze(domain, NULL, 0, 0);
    int begun = virDomainBackupBegin(domain, driver->job_xml, driver->checkpoint_xml,
                                     VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL);
    int thawed = virDomainFSThaw(domain, NULL, 0, 0);
    vmb_json_add_uint(answer, "ns", vmb_units_monotonic() - start);
    return (frozen > 0 && begun == 0 && thawed > 0) ||
           vmb_virt_error(error, VMB_ERROR_FAILED, "freeze %d, begin %d, thaw %d", frozen, begun,
                          thawed);
}

static gboolean
do_quiesce_free(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    g_clear_pointer(&driver->quiesce, vmb_quiesce_free);
    return TRUE;
}

/* thaw-leftover TIMEOUT-S */
static gboolean
do_thaw_leftover(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    gboolean frozen = FALSE;
    if (!vmb_quiesce_thaw_leftover(driver->domain, atoi(words[1]), &frozen, error))
        return FALSE;
    vmb_json_add_bool(answer, "was_frozen", frozen);
    return TRUE;
}

/* facts TIMEOUT-S */
static gboolean
do_facts(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    VmbJson *facts = vmb_guest_facts(driver->domain, atoi(words[1]), error);
    if (facts == NULL)
        return FALSE;
    vmb_json_add(answer, "facts", facts);
    return TRUE;
}

static gboolean
do_reopen(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    return vmb_connection_reopen(vmb_domain_connection(driver->domain), error) &&
           vmb_domain_refresh(driver->domain, error);
}

static const struct {
    const char *name;
    guint words; /* at least, the name included */
    Command command;
} commands[] = {
    {"state", 1, do_state},
    {"inspect", 1, do_inspect},
    {"active-job", 1, do_active_job},
    {"domains", 1, do_domains},
    {"checkpoints", 1, do_checkpoints},
    {"targets", 2, do_targets},
    {"validate", 2, do_validate},
    {"delete", 2, do_delete},
    {"job", 4, do_job},
    {"begin", 1, do_begin},
    {"end", 1, do_end},
    {"keep", 1, do_keep},
    {"job-free", 1, do_job_free},
    {"scratch-used", 1, do_scratch_used},
    {"end-by-socket", 2, do_end_by_socket},
    {"guard", 5, do_guard},
    {"guard-state", 1, do_guard_state},
    {"guard-free", 1, do_guard_free},
    {"quiesce", 3, do_quiesce},
    {"enter", 1, do_enter},
    {"leave", 1, do_leave},
    {"enter-begin-leave", 1, do_enter_begin_leave},
    {"bare-freeze-begin-thaw", 1, do_bare_freeze_begin_thaw},
    {"quiesce-free", 1, do_quiesce_free},
    {"thaw-leftover", 2, do_thaw_leftover},
    {"facts", 2, do_facts},
    {"reopen", 1, do_reopen},
};

static gboolean
dispatch(Driver *driver, char **words, VmbJson *answer, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_strcmp0(words[0], commands[i].name) == 0 && g_strv_length(words) >= commands[i].words)
            return commands[i].command(driver, words, answer, error);
    }
    return vmb_error_set(error, VMB_ERROR_USAGE, "unknown command");
}

/* Reasons that were added since the last answer. */
static void
add_reasons(Driver *driver, VmbJson *answer)
{
    VmbJson *names = json_object_new_array();
    for (guint i = 0; i < driver->reasons->len; i++) {
        const VmbReason *reason = g_ptr_array_index(driver->reasons, i);
        json_object_array_add(names, json_object_new_string(vmb_reason_name(reason->code)));
    }
    g_ptr_array_set_size(driver->reasons, 0);
    vmb_json_add(answer, "reasons", names);
}

static void
answer_line(Driver *driver, char *line)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJson) answer = json_object_new_object();
    g_auto(GStrv) words = g_strsplit(g_strchomp(line), " ", -1);
    guint64 start = vmb_units_monotonic();
    gboolean ok = dispatch(driver, words, answer, &error);
    vmb_json_add_uint(answer, "took", vmb_units_monotonic() - start);
    vmb_json_add_bool(answer, "ok", ok);
    if (error != NULL) {
        vmb_json_add_uint(answer, "code", (guint64)error->code);
        vmb_json_add_string(answer, "error", error->message);
    }
    add_reasons(driver, answer);
    printf("%s\n", json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
}

int
main(int argc, char **argv)
{
    Driver driver = {0};
    g_autoptr(GError) error = NULL;
    char line[8192];
    if (argc > 1 && strcmp(argv[1], VMB_GUARD_VERB) == 0)
        return vmb_guard_main(argc, argv);
    if (argc != 3)
        return 2;
    vmb_log_set_level(VMB_LOG_DEBUG);
    g_autoptr(VmbConnection) connection = vmb_connection_open(argv[1], &error);
    if (connection != NULL)
        driver.domain = vmb_domain_lookup(connection, argv[2], &error);
    if (driver.domain == NULL) {
        fprintf(stderr, "code %d: %s\n", error->code, error->message);
        return 1;
    }
    driver.reasons = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    while (fgets(line, sizeof line, stdin) != NULL)
        answer_line(&driver, line);
    vmb_quiesce_free(driver.quiesce);
    vmb_backup_job_free(driver.job);
    vmb_guard_free(driver.guard);
    g_free(driver.job_xml);
    g_free(driver.checkpoint_xml);
    g_ptr_array_unref(driver.reasons);
    vmb_domain_unref(driver.domain);
    return 0;
}
