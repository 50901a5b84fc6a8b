/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Step 5 to 7 of a backup: scratch, journal, guard, freeze, job, thaw. */
#include "job/backup-run.h"
#include "job/scratch-place.h"
#include "repo/journal.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/units.h"

#include <unistd.h>

/* Also of a domain that is paused now: it may be resumed before the freeze. */
static gboolean
may_freeze(const VmbBackupRun *run)
{
    return run->options->quiesce == VMB_QUIESCE_AUTO ||
           run->options->quiesce == VMB_QUIESCE_REQUIRE;
}

/* The guard resumes what this run has paused, and nothing else: it is told of that pause. */
static gboolean
may_pause(const VmbBackupRun *run)
{
    return run->options->quiesce == VMB_QUIESCE_PAUSE;
}

/* Hours may have passed in waiting for the locks. */
static gboolean
look_again(VmbBackupRun *run, GError **error)
{
    VmbDomainState state;
    if (!vmb_domain_state(run->domain, &state, error))
        return FALSE;
    run->was_paused = state.paused;
    run->had_io_error = state.io_error;
    return TRUE;
}

/* @pausing: if this run dies and the domain is found paused, then this run has done it. */
static gboolean
write_journal(VmbBackupRun *run, gboolean pausing, GError **error)
{
    VmbJournal journal = {.nonce = run->nonce,
                          .uri = (char *)vmb_connection_uri(run->connection),
                          .checkpoint = run->checkpoint,
                          .socket = run->scratch->socket,
                          .run_dir = run->scratch->run_dir,
                          .scratch_dir = run->scratch->dir,
                          .may_freeze = may_freeze(run),
                          .may_pause = pausing,
                          .was_running = !run->was_paused,
                          .time_ns = vmb_units_now(),
                          .pid = getpid(),
                          .point = run->manifest->id,
                          .stale = run->stale};
    if (!vmb_journal_write(vmb_repo_domain_fd(run->repo_domain), &journal, error))
        return FALSE;
    run->journal_written = TRUE;
    return TRUE;
}

static gboolean
begin_journal(VmbBackupRun *run, GError **error)
{
    return write_journal(run, may_pause(run) && !run->was_paused, error) &&
           vmb_fault_point("journal-written", error);
}

/* From here on a pause is somebody else's, which the next run must not end. */
static gboolean
note_resumed(VmbBackupRun *run, GError **error)
{
    return !may_pause(run) || run->was_paused || write_journal(run, FALSE, error);
}

static gboolean
start_guard(VmbBackupRun *run, GError **error)
{
    VmbGuardSpec spec = {.uri = vmb_connection_uri(run->connection),
                         .uuid = run->result->uuid,
                         .socket = run->scratch->socket,
                         .scratch_dir = run->scratch->dir,
                         .budget_ns = run->options->freeze_timeout_ns,
                         .may_freeze = may_freeze(run),
                         .may_pause = may_pause(run)};
    run->guard = vmb_guard_start(&spec, error);
    return run->guard != NULL && vmb_fault_point("guard-armed", error);
}

static VmbBackupJobSpec
describe_job(VmbBackupRun *run, gboolean bitmaps)
{
    GPtrArray *disks = run->plan->disks;
    g_free(run->job_disks);
    run->job_disks = g_new0(VmbBackupJobDisk, disks->len);
    for (guint i = 0; i < disks->len; i++) {
        const VmbPlanDisk *disk = disks->pdata[i];
        run->job_disks[i].target = disk->info->target;
        run->job_disks[i].scratch = run->scratch->paths->pdata[i];
        run->job_disks[i].checkpoint = disk->info->bitmaps && !run->no_checkpoint;
        if (run->bases != NULL)
            run->job_disks[i].incremental = bitmaps ? run->bases[i] : NULL;
        else if (bitmaps && disk->method == VMB_METHOD_BITMAP)
            run->job_disks[i].incremental = disk->parent_disk->checkpoint;
    }
    return (VmbBackupJobSpec){run->scratch->socket, run->checkpoint, run->job_disks, disks->len};
}

static gboolean
is_still_paused(const VmbBackupRun *run)
{
    VmbDomainState state;
    return run->was_paused && vmb_domain_state(run->domain, &state, NULL) && state.paused;
}

static void
record_quiesce(VmbBackupRun *run, VmbQuiesce *quiesce)
{
    VmbManifest *manifest = run->manifest;
    switch (vmb_quiesce_result(quiesce, &manifest->frozen_filesystems, &manifest->freeze_ns)) {
    case VMB_QUIESCED_FILESYSTEMS:
        manifest->consistency = VMB_CONSISTENCY_FILESYSTEM;
        break;
    case VMB_QUIESCED_PAUSED:
        manifest->consistency = VMB_CONSISTENCY_PAUSED;
        break;
    case VMB_QUIESCED_NOT:
        manifest->consistency =
            is_still_paused(run) ? VMB_CONSISTENCY_PAUSED : VMB_CONSISTENCY_CRASH;
        break;
    }
}

/* The bitmaps were validated, and yet one may be refused: once more, without them and in the same freeze. */
static gboolean
begin(VmbBackupRun *run, gboolean *refused, GError **error)
{
    g_autoptr(GError) first = NULL;
    if (vmb_backup_job_begin(run->job, &first))
        return TRUE;
    if (!g_error_matches(first, VMB_ERROR, VMB_ERROR_NO_INCREMENTAL)) {
        g_propagate_error(error, g_steal_pointer(&first));
        return FALSE;
    }
    *refused = TRUE;
    VmbBackupJobSpec spec = describe_job(run, FALSE);
    return vmb_backup_job_begin_again(run->job, &spec, error);
}

/* The guest is released before anything else is thought about. */
static gboolean
freeze_begin_thaw(VmbBackupRun *run, gboolean *refused, GError **error)
{
    g_autoptr(GError) leave_error = NULL;
    g_autoptr(VmbQuiesce) quiesce = vmb_quiesce_new(
        run->domain, run->options->quiesce, run->options->freeze_timeout_ns, run->guard);
    vmb_quiesce_set_job(quiesce, run->scratch->socket);
    if (!vmb_quiesce_enter(quiesce, run->reasons, error))
        return FALSE;
    run->manifest->time_ns = vmb_units_now();
    gboolean begun = begin(run, refused, error);
    gboolean left = vmb_quiesce_leave(quiesce, run->reasons, &leave_error);
    if (vmb_backup_job_is_uncertain(run->job))
        vmb_guard_beginning(run->guard);
    if (!begun)
        return FALSE;
    if (!left) {
        g_propagate_error(error, g_steal_pointer(&leave_error));
        return FALSE;
    }
    record_quiesce(run, quiesce);
    return TRUE;
}

/* A job that began after the locks were taken would let libvirt block our begin for 30 s. */
static gboolean
check_not_busy(VmbBackupRun *run, GError **error)
{
    gboolean ours = FALSE;
    g_autofree char *what = NULL;
    return vmb_domain_active_job(run->domain, NULL, &ours, &what, error) &&
           (what == NULL ||
            vmb_error_set(error, VMB_ERROR_LOCKED, "domain %s has become busy: %s",
                          run->result->domain, what));
}

static gboolean
begin_job(VmbBackupRun *run, GError **error)
{
    gboolean refused = FALSE;
    VmbBackupJobSpec spec = describe_job(run, TRUE);
    run->job = vmb_backup_job_new(run->domain, &spec);
    if (!freeze_begin_thaw(run, &refused, error))
        return FALSE;
    if (run->live) {
        run->bitmaps_refused = refused;
        return TRUE;
    }
    return (!refused || vmb_plan_give_up_bitmaps(run->plan, run->options, run->points,
                                                 run->result->domain, run->reasons, error));
}

/* Between inspection and the start of the job somebody may have changed the disks. */
static gboolean
check_disks_unchanged(VmbBackupRun *run, GError **error)
{
    g_autoptr(VmbDomainInfo) now = vmb_domain_inspect(run->domain, error);
    if (now == NULL)
        return FALSE;
    g_autofree char *changed = vmb_domain_info_compare_disks(run->info, now);
    if (changed != NULL)
        vmb_reason_add(run->reasons, VMB_REASON_DISKS_CHANGED, NULL,
                       "%s: these disks changed while the backup began: %s", run->result->domain,
                       changed);
    return TRUE;
}

/* What QEMU cannot reach is better said now than by QEMU while the guest is frozen. */
static gboolean
check_places(const VmbBackupRun *run, GError **error)
{
    const VmbDomainInfo *info = run->info;
    const char *repository = run->options->repository;
    return vmb_scratch_place_check(run->scratch->dir, repository, info->qemu_uid, info->qemu_gid,
                                   error) &&
           vmb_scratch_place_check(run->scratch->run_dir, repository, info->qemu_uid,
                                   info->qemu_gid, error);
}

gboolean
vmb_backup_start_job(VmbBackupRun *run, GError **error)
{
    vmb_progress_phase(run->progress, "starting the job");
    run->scratch = vmb_scratch_new(run->options->scratch_dir, run->nonce, run->plan, error);
    if (run->scratch == NULL || !check_places(run, error) ||
        !vmb_scratch_check_space(run->scratch, run->plan, run->result->domain, run->reasons,
                                 error) ||
        !vmb_domain_check_answers(run->domain, error) || !look_again(run, error) ||
        !begin_journal(run, error) ||
        !vmb_scratch_create(run->scratch, run->plan, run->info, error) ||
        !start_guard(run, error) || !check_not_busy(run, error))
        return FALSE;
    run->target_watch =
        vmb_target_watch_start(run->domain, run->scratch->socket, run->stop);
    if (!begin_job(run, error) || !note_resumed(run, error))
        return FALSE;
    run->watch = vmb_scratch_watch_start(run->scratch, run->domain, run->had_io_error, run->stop);
    return check_disks_unchanged(run, error);
}
