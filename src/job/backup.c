/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a backup of one domain, from its locks to its report. */
#include "job/backup-offline.h"
#include "job/bind.h"
#include "job/identity.h"
#include "job/reconcile.h"
#include "job/redefine.h"
#include "job/save-config.h"
#include "repo/journal.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/host.h"
#include "util/log.h"
#include "util/units.h"
#include "virt/checkpoint.h"
#include "virt/guest-facts.h"
#include "virt/stray-job.h"

#include <string.h>

#define GUEST_FACTS_TIMEOUT_S 5
/* How often, and how far apart, libvirt is asked whether a job whose server is gone has ended. */
#define JOB_GONE_LOOKS 10
#define JOB_GONE_PAUSE_US (50 * 1000)

static void
backup_disk_free(gpointer data)
{
    VmbBackupDisk *disk = data;
    g_free(disk->target);
    g_free(disk);
}

VmbBackupResult *
vmb_backup_result_new(const char *domain)
{
    VmbBackupResult *result = g_new0(VmbBackupResult, 1);
    result->domain = g_strdup(domain);
    result->disks = g_ptr_array_new_with_free_func(backup_disk_free);
    result->reasons = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    return result;
}

void
vmb_backup_result_free(VmbBackupResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    vmb_manifest_free(result->manifest);
    g_ptr_array_unref(result->disks);
    g_ptr_array_unref(result->reasons);
    g_clear_error(&result->error);
    g_free(result);
}

/* ---- letting go ---- */

/* The journal may go once nothing that it names is left. */
void
vmb_backup_clear_journal(VmbBackupRun *run)
{
    g_autoptr(GError) error = NULL;
    gboolean exists = TRUE;
    if (!run->journal_written || run->scratch_left)
        return;
    int fd = vmb_repo_domain_fd(run->repo_domain);
    if (!vmb_checkpoint_exists(run->domain, run->checkpoint, &exists, &error) || exists)
        return;
    VmbJournal rest = {.stale = run->stale};
    gboolean ok = run->stale != NULL ? vmb_journal_write(fd, &rest, &error)
                                     : vmb_journal_clear(fd, &error);
    if (!ok)
        vmb_warning("%s; the next run tidies up", error->message);
    run->journal_written = !ok;
}

void
vmb_backup_run_clear(VmbBackupRun *run)
{
    gboolean ended = run->job == NULL || vmb_backup_job_roll_back(run->job);
    if (!ended && run->guard != NULL) {
        vmb_guard_hand_over(run->guard);
        run->scratch->keep = TRUE;
    }
    g_clear_pointer(&run->watch, vmb_scratch_watch_free);
    g_clear_pointer(&run->target_watch, vmb_target_watch_free);
    g_clear_pointer(&run->job, vmb_backup_job_free);
    g_clear_pointer(&run->guard, vmb_guard_free);
    if (run->scratch != NULL && !run->scratch->keep)
        run->scratch_left = !vmb_scratch_remove(run->scratch);
    g_clear_pointer(&run->scratch, vmb_scratch_free);
    g_clear_pointer(&run->transaction, vmb_transaction_free);
    if (run->published == VMB_UNPUBLISHED && ended)
        vmb_backup_clear_journal(run);
    g_clear_pointer(&run->offline, vmb_offline_free);
    g_clear_pointer(&run->job_disks, g_free);
    g_clear_pointer(&run->bases, g_free);
    g_clear_pointer(&run->nonce, g_free);
    g_clear_pointer(&run->checkpoint, g_free);
    g_clear_pointer(&run->manifest, vmb_manifest_free);
    g_clear_pointer(&run->plan, vmb_plan_free);
    g_clear_pointer(&run->info, vmb_domain_info_free);
    g_clear_pointer(&run->stale, g_strfreev);
    g_clear_pointer(&run->points, g_ptr_array_unref);
    g_clear_pointer(&run->pins, vmb_pins_free);
    g_clear_pointer(&run->repo_domain, vmb_repo_domain_free);
    g_clear_pointer(&run->lock, vmb_lock_free);
    g_clear_pointer(&run->host_lock, vmb_lock_free);
    g_clear_pointer(&run->domain, vmb_domain_unref);
    g_clear_pointer(&run->connection, vmb_connection_unref);
    g_clear_pointer(&run->repository, vmb_repository_free);
    g_clear_pointer(&run->progress, vmb_progress_free);
    if (run->stop_handler != 0)
        g_cancellable_disconnect(run->options->cancel, run->stop_handler);
    g_clear_object(&run->stop);
}

/* ---- steps 1 to 3 ---- */

static gboolean
find_domain(VmbBackupRun *run, const char *name, GError **error)
{
    VmbDomainState state;
    run->repository = vmb_repository_open(run->options->repository, error);
    if (run->repository == NULL || !vmb_repository_check_writable(run->repository, error))
        return FALSE;
    run->connection = vmb_connection_open(run->options->uri, error);
    if (run->connection == NULL)
        return FALSE;
    run->domain = vmb_domain_lookup(run->connection, name, error);
    if (run->domain == NULL || !vmb_domain_state(run->domain, &state, error))
        return FALSE;
    g_free(run->result->domain);
    run->result->domain = g_strdup(vmb_domain_name(run->domain));
    run->result->uuid = g_strdup(vmb_domain_uuid(run->domain));
    run->was_paused = state.paused;
    return TRUE;
}

static gboolean
take_locks(VmbBackupRun *run, GError **error)
{
    const VmbBackupOptions *options = run->options;
    g_autofree char *what = g_strdup_printf("domain %s", run->result->domain);
    g_autofree char *part = g_strdup_printf("domain %s in the repository", run->result->domain);
    run->host_lock = vmb_lock_take_host(run->result->uuid, options->lock_wait_ns, what, run->stop,
                                        error);
    if (run->host_lock == NULL)
        return FALSE;
    run->repo_domain = vmb_repo_domain_open(run->repository, run->result->uuid, TRUE, error);
    if (run->repo_domain == NULL)
        return FALSE;
    run->lock = vmb_lock_take(vmb_repo_domain_fd(run->repo_domain), VMB_LAYOUT_LOCK, TRUE,
                              options->lock_wait_ns, part, run->stop, error);
    return run->lock != NULL && vmb_fault_point("backup-locked", error);
}

static gboolean
reconcile(VmbBackupRun *run, GError **error)
{
    gboolean ours = FALSE;
    g_autofree char *what = NULL;
    run->pins = vmb_pins_take_newest(run->repo_domain, run->stop, &run->points, error);
    if (run->pins == NULL ||
        !vmb_identity_check(run->repository, run->domain, run->points, run->options->peers,
                            run->reasons, error) ||
        !vmb_reconcile(run->repo_domain, run->domain, run->points, run->reasons, &run->stale,
                       error))
        return FALSE;
    VmbDomainState state;
    if (!vmb_domain_state(run->domain, &state, error) ||
        (state.active && !vmb_domain_active_job(run->domain, NULL, &ours, &what, error)))
        return FALSE;
    if (what != NULL)
        return vmb_error_set(error, VMB_ERROR_LOCKED,
                             "domain %s is busy: %s. Nothing was changed; run the backup again "
                             "when that has ended", run->result->domain, what);
    return vmb_fault_point("backup-reconciled", error);
}

gboolean
vmb_backup_enter(VmbBackupRun *run, const char *name, GError **error)
{
    return find_domain(run, name, error) && take_locks(run, error) && reconcile(run, error);
}

gboolean
vmb_backup_inspect(VmbBackupRun *run, GError **error)
{
    run->info = vmb_domain_inspect(run->domain, error);
    if (run->info == NULL)
        return FALSE;
    vmb_bind_disks(run->info, run->points);
    return TRUE;
}

gboolean
vmb_backup_plan(VmbBackupRun *run, GError **error)
{
    if (!vmb_redefine_checkpoints(vmb_repository_id(run->repository), run->domain, run->info,
                                  run->points, run->reasons, error))
        return FALSE;
    run->plan = vmb_plan_new(run->options, run->domain, run->info, run->points, run->reasons,
                             error);
    return run->plan != NULL && vmb_fault_point("backup-inspected", error);
}

/* ---- step 4 ---- */

void
vmb_backup_name(VmbBackupRun *run)
{
    VmbManifest *manifest = run->manifest = vmb_manifest_new();
    manifest->repository = g_strdup(vmb_repository_id(run->repository));
    manifest->tool = g_strdup("vmbackup " VMB_VERSION);
    manifest->host = g_strdup(g_get_host_name());
    manifest->host_id = g_strdup(vmb_host_id());
    manifest->domain = g_strdup(run->result->domain);
    manifest->uuid = g_strdup(run->result->uuid);
    manifest->time_ns = vmb_units_now();
    run->checkpoint = vmb_checkpoint_new_name(manifest->repository);
    /* The random digits of the name are this run's nonce as well. */
    run->nonce = g_strdup(strrchr(run->checkpoint, '-') + 1);
}

static gboolean
begin_manifest(VmbBackupRun *run, GError **error)
{
    VmbDomainState state;
    if (!vmb_domain_state(run->domain, &state, error))
        return FALSE;
    vmb_backup_name(run);
    VmbManifest *manifest = run->manifest;
    manifest->transient = !state.persistent;
    manifest->quiesce = g_strdup(vmb_quiesce_mode_name(run->options->quiesce));
    g_clear_pointer(&manifest->reasons, g_ptr_array_unref);
    manifest->reasons = g_ptr_array_ref(run->reasons);
    g_clear_pointer(&manifest->skipped, g_ptr_array_unref);
    manifest->skipped = g_ptr_array_ref(run->plan->skipped);
    manifest->id = vmb_transaction_new_id(run->repo_domain, manifest->time_ns);
    return vmb_repo_domain_next_sequence(run->repo_domain, &manifest->sequence, error);
}

/* A guest without an agent is no news here: quiescing says what that means for the point. */
static void
ask_guest(VmbBackupRun *run)
{
    g_autoptr(GError) error = NULL;
    if (!run->info->agent_connected || run->was_paused)
        return;
    run->manifest->guest = vmb_guest_facts(run->domain, GUEST_FACTS_TIMEOUT_S, &error);
    if (run->manifest->guest == NULL)
        vmb_reason_add(run->reasons, VMB_REASON_GUEST_FACTS_MISSING, NULL,
                       "%s: no facts from the guest: %s", run->result->domain, error->message);
}

gboolean
vmb_backup_stage(VmbBackupRun *run, GError **error)
{
    run->transaction = vmb_transaction_begin(run->repo_domain, error);
    if (run->transaction == NULL || !begin_manifest(run, error))
        return FALSE;
    for (guint i = 0; run->options->tags != NULL && run->options->tags[i] != NULL; i++)
        vmb_point_state_add_tag(vmb_transaction_state(run->transaction), run->options->tags[i]);
    ask_guest(run);
    return vmb_save_config(run->transaction, run->manifest, run->info, run->result->domain,
                           run->reasons, error);
}

/* ---- the whole ---- */

gboolean
vmb_backup_check_cancelled(VmbBackupRun *run, GError **error)
{
    return !g_cancellable_is_cancelled(run->stop) ||
           vmb_error_set(error, VMB_ERROR_CANCELLED,
                         "%s: the backup was cancelled; nothing was kept of it and older points "
                         "are intact", run->result->domain);
}

static gboolean
run_running(VmbBackupRun *run, GError **error)
{
    return vmb_backup_inspect(run, error) && vmb_backup_plan(run, error) &&
           vmb_backup_stage(run, error) && vmb_backup_check_cancelled(run, error) &&
           vmb_backup_start_job(run, error) && vmb_backup_check_cancelled(run, error) &&
           vmb_backup_read_disks(run, error) && vmb_backup_check_cancelled(run, error) &&
           vmb_backup_publish(run, error);
}

static gboolean
run_steps(VmbBackupRun *run, const char *name, GError **error)
{
    VmbDomainState state;
    gboolean started = FALSE;
    if (!vmb_backup_enter(run, name, error) || !vmb_domain_state(run->domain, &state, error))
        return FALSE;
    if (!state.active && vmb_backup_offline(run, &started, error))
        return TRUE;
    return (state.active || started) && run_running(run, error);
}

/* The server closes its connections some ten milliseconds before libvirt takes the job off its list. */
static gboolean
job_is_gone(VmbBackupRun *run)
{
    gboolean gone = !vmb_backup_job_is_active(run->job);
    for (int i = 0; !gone && i < JOB_GONE_LOOKS; i++) {
        g_usleep(JOB_GONE_PAUSE_US);
        gone = !vmb_backup_job_is_active(run->job);
    }
    return gone;
}

/* Reading fails when the job is gone: why it is gone says more. NULL: it is there, or nobody knows. */
static const char *
why_job_is_gone(VmbBackupRun *run, const GError *error)
{
    VmbDomainState state;
    gboolean reading = run->watch != NULL && !run->live &&
                       run->manifest->disks->len < run->plan->disks->len &&
                       g_error_matches(error, VMB_ERROR, VMB_ERROR_FAILED);
    if (run->offline != NULL || !vmb_domain_state(run->domain, &state, NULL))
        return NULL;
    if (!state.active && run->job == NULL)
        return "the domain was shut down before the backup job began";
    if (!state.active)
        return "the domain was shut down while it was backed up, and the job ended with it";
    if (reading && run->job != NULL && job_is_gone(run))
        return "somebody else ended the backup job";
    return NULL;
}

/* Why libvirt refuses further jobs, after a begin of which nobody knows the outcome; NULL: it does not. */
static const char *
end_uncertain(VmbBackupRun *run)
{
    if (run->job == NULL || !vmb_backup_job_is_uncertain(run->job))
        return NULL;
    vmb_backup_job_roll_back(run->job);
    return vmb_backup_job_lost(run->job);
}

static void
explain_failure(VmbBackupRun *run, GError **error)
{
    const char *lost_job = end_uncertain(run);
    gboolean lost = run->scratch != NULL &&
                    vmb_stray_domain_is_lost(run->domain, run->scratch->dir);
    const char *why = lost ? "libvirt takes the domain for shut off, which it is not"
                           : why_job_is_gone(run, *error);
    const char *rest =
        lost ? "Older points are intact; scratch images and journal are kept. Do not start the "
               "domain: it runs, perhaps frozen, and backups are refused until libvirt has found "
               "it again, see vmbackup-recovery(7), \"A job that libvirt has lost\""
        : lost_job != NULL
            ? "Nothing is kept of this run, and older points are intact, but "
            : "Nothing is kept of this run; older points are intact, and the next run goes on "
              "from them";
    GError *cause = g_error_new((*error)->domain, (*error)->code, "%s: %s%s%s. %s%s",
                                run->result->domain, why != NULL ? why : "",
                                why != NULL ? ": " : "", (*error)->message, rest,
                                !lost && lost_job != NULL ? lost_job : "");
    g_clear_error(error);
    *error = cause;
}

void
vmb_backup_explain(VmbBackupRun *run, GError **error)
{
    GError *cause = NULL;
    if ((run->watch != NULL && vmb_scratch_watch_fired(run->watch, &cause)) ||
        (run->target_watch != NULL && vmb_target_watch_fired(run->target_watch, &cause))) {
        g_clear_error(error);
        *error = cause;
    } else if (run->options->cancel != NULL && g_cancellable_is_cancelled(run->options->cancel)) {
        const char *lost_job = end_uncertain(run);
        if (lost_job != NULL)
            vmb_log(VMB_LOG_ERROR, "%s: %s", run->result->domain, lost_job);
        g_clear_error(error);
        vmb_backup_check_cancelled(run, error);
    } else if (run->journal_written && run->published == VMB_UNPUBLISHED) {
        explain_failure(run, error);
    }
}

static void
forward_cancel(GCancellable *cancel, gpointer data)
{
    g_cancellable_cancel(data);
}

VmbBackupResult *
vmb_backup_domain(const VmbBackupOptions *options, const char *name)
{
    g_autoptr(VmbBackupResult) result = vmb_backup_result_new(name);
    guint64 start = vmb_units_monotonic();
    {
        g_auto(VmbBackupRun) run = {.options = options, .result = result};
        run.reasons = result->reasons;
        run.stop = g_cancellable_new();
        run.progress = vmb_progress_new(name);
        if (options->cancel != NULL)
            run.stop_handler = g_cancellable_connect(options->cancel, G_CALLBACK(forward_cancel),
                                                     run.stop, NULL);
        if (!run_steps(&run, name, &result->error))
            vmb_backup_explain(&run, &result->error);
        if (run.published != VMB_UNPUBLISHED)
            result->manifest = g_steal_pointer(&run.manifest);
    }
    result->duration_ns = vmb_units_monotonic() - start;
    return g_steal_pointer(&result);
}
