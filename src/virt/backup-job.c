/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One pull-mode backup job: begun with a new checkpoint, ended or rolled back. */
#include "virt/backup-job.h"
#include "virt/backup-xml.h"
#include "virt/call.h"
#include "virt/checkpoint.h"
#include "virt/reconnect.h"
#include "virt/stray-job.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>
#include <sys/un.h>

/* An aborted job is gone within some ten milliseconds; a QEMU that is stuck may need libvirt's own
 * limit of 30 s, and that once more. */
#define END_NS (70 * G_GUINT64_CONSTANT(1000000000))
#define END_PAUSE_US (5 * 1000)
#define END_PAUSE_MAX_US (200 * 1000)
/* A begin that was cut off is in the daemon's hands for some instants more. */
#define LATE_NS (5 * G_GUINT64_CONSTANT(1000000000))
#define LATE_PAUSE_US (250 * 1000)

struct VmbBackupJob {
    VmbDomain *domain;
    char *socket;
    char *scratch_dir;
    char *checkpoint; /* NULL: none is made */
    char *xml, *checkpoint_xml;
    gboolean job_attempted; /* begin was called and the job is not known to have ended */
    gboolean uncertain;     /* whether that begin failed is not known */
    gboolean hangs;         /* its end was tried in vain, and not for want of a connection */
    gboolean checkpoint_attempted;
    gboolean keep_checkpoint;
    gboolean rolled_back;
    char *lost; /* of its begin libvirt has kept a record that refuses all others: a sentence */
    gboolean had_io_error; /* already before the job: not ours to resume */
};

VmbBackupJob *
vmb_backup_job_new(VmbDomain *domain, const VmbBackupJobSpec *spec)
{
    VmbBackupJob *job = g_new0(VmbBackupJob, 1);
    job->domain = vmb_domain_ref(domain);
    job->socket = g_strdup(spec->socket);
    job->scratch_dir = spec->n_disks > 0 ? g_path_get_dirname(spec->disks[0].scratch) : NULL;
    job->xml = vmb_backup_job_xml(spec);
    job->checkpoint_xml = vmb_backup_job_checkpoint_xml(spec);
    if (job->checkpoint_xml != NULL)
        job->checkpoint = g_strdup(spec->checkpoint);
    return job;
}

static gboolean
begin_error(VmbBackupJob *job, GError **error)
{
    g_autoptr(GError) local = NULL;
    const char *name = vmb_domain_name(job->domain);
    if (vmb_virt_error_code() == VIR_ERR_CHECKPOINT_INCONSISTENT)
        return vmb_virt_error(error, VMB_ERROR_NO_INCREMENTAL,
                              "domain '%s': a bitmap that the incremental backup needs is unusable",
                              name);
    vmb_virt_error(&local, VMB_ERROR_FAILED, "domain '%s': cannot begin the backup job", name);
    job->uncertain = vmb_call_expired(NULL) || g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean
state_step(VmbDomain *domain, gpointer state, GError **error)
{
    return vmb_domain_state(domain, state, error);
}

static gboolean
begin(VmbBackupJob *job, GError **error)
{
    VMB_DOMAIN_CALL(job->domain);
    if (virDomainBackupBegin(vmb_domain_handle(job->domain), job->xml, job->checkpoint_xml,
                             VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) < 0)
        return begin_error(job, error);
    return TRUE;
}

gboolean
vmb_backup_job_begin(VmbBackupJob *job, GError **error)
{
    VmbDomainState state;
    if (strlen(job->socket) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return vmb_error_set(
            error, VMB_ERROR_USAGE,
            "the socket path '%s' is longer than the 107 bytes that the system allows",
            job->socket);
    /* A connection that is lost shows here, where nothing has begun yet. */
    if (!vmb_virt_reconnecting(job->domain, state_step, &state, error))
        return FALSE;
    job->had_io_error = state.io_error;
    job->job_attempted = TRUE;
    job->checkpoint_attempted = job->checkpoint != NULL;
    return begin(job, error) && vmb_fault_point("job-started", error);
}

gboolean
vmb_backup_job_begin_again(VmbBackupJob *job, const VmbBackupJobSpec *spec, GError **error)
{
    gboolean exists = FALSE;
    /* As far as is known libvirt leaves nothing behind; but the guest waits, so one question must
     * do. */
    if (job->checkpoint != NULL &&
        (!vmb_checkpoint_exists(job->domain, job->checkpoint, &exists, error) ||
         (exists && !vmb_checkpoint_delete(job->domain, job->checkpoint, error))))
        return FALSE;
    g_free(job->xml);
    job->xml = vmb_backup_job_xml(spec);
    return begin(job, error) && vmb_fault_point("job-started", error);
}

gboolean
vmb_backup_job_is_uncertain(VmbBackupJob *job)
{
    return job->uncertain;
}

const char *
vmb_backup_job_lost(VmbBackupJob *job)
{
    return job->lost;
}

gboolean
vmb_backup_job_is_active(VmbBackupJob *job)
{
    gboolean active = FALSE;
    g_autofree char *socket = NULL;
    return vmb_backup_xml_active(job->domain, &active, &socket, NULL) && active &&
           g_strcmp0(socket, job->socket) == 0;
}

gboolean
vmb_backup_job_scratch_used(VmbBackupJob *job, guint64 *bytes, GError **error)
{
    VMB_DOMAIN_CALL(job->domain);
    virTypedParameterPtr params = NULL;
    int n = 0, type = VIR_DOMAIN_JOB_NONE;
    unsigned long long used = 0;
    if (virDomainGetJobStats(vmb_domain_handle(job->domain), &type, &params, &n, 0) < 0)
        return vmb_virt_error(error, VMB_ERROR_FAILED,
                              "domain '%s': cannot ask how much of the scratch space is used",
                              vmb_domain_name(job->domain));
    int found = virTypedParamsGetULLong(params, n, VIR_DOMAIN_JOB_DISK_TEMP_USED, &used);
    virTypedParamsFree(params, n);
    if (found != 1)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "domain '%s': the backup job is no longer active",
                             vmb_domain_name(job->domain));
    *bytes = used;
    return TRUE;
}

/* *@active: the job that is running has just this socket. */
static gboolean
ask_own(VmbDomain *domain, const char *socket, gboolean *active, GError **error)
{
    g_autofree char *other = NULL;
    if (!vmb_backup_xml_active(domain, active, &other, error))
        return FALSE;
    *active = *active && g_strcmp0(other, socket) == 0;
    return TRUE;
}

/* Between the end of the backup and that of libvirt's job record, another begin would block. */
static gboolean
record_is_gone(VmbDomain *domain)
{
    VMB_DOMAIN_CALL(domain);
    virDomainJobInfo info = {0};
    if (virDomainGetJobInfo(vmb_domain_handle(domain), &info) < 0)
        return vmb_virt_error_code() != VIR_ERR_INTERNAL_ERROR;
    return info.type == VIR_DOMAIN_JOB_NONE;
}

static gboolean
wait_until_gone(VmbDomain *domain, const char *socket, GError **error)
{
    guint64 deadline = vmb_units_monotonic() + END_NS;
    gulong pause = END_PAUSE_US;
    while (vmb_units_monotonic() < deadline) {
        gboolean active = FALSE;
        if (!ask_own(domain, socket, &active, error))
            return FALSE;
        if (!active && record_is_gone(domain))
            return TRUE;
        g_usleep(pause);
        pause = MIN(pause * 2, END_PAUSE_MAX_US);
    }
    return vmb_error_set(
        error, VMB_ERROR_FAILED,
        "domain '%s': the backup job did not end within a minute; `virsh domjobabort "
        "%s` ends it by hand",
        vmb_domain_name(domain), vmb_domain_name(domain));
}

typedef struct {
    const char *socket;
    gboolean ended;
} Ending;

static gboolean
abort_job(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    return virDomainAbortJob(vmb_domain_handle(domain)) == 0 ||
           vmb_virt_error(error, VMB_ERROR_FAILED, "domain '%s': cannot end the backup job",
                          vmb_domain_name(domain));
}

static gboolean
end_step(VmbDomain *domain, gpointer data, GError **error)
{
    Ending *ending = data;
    gboolean active = FALSE;
    g_autoptr(GError) local = NULL;
    if (!ask_own(domain, ending->socket, &active, error))
        return FALSE;
    if (!active)
        return TRUE;
    if (!abort_job(domain, &local)) {
        /* It may have ended by itself in this instant, with the domain or by another hand. */
        if (!ask_own(domain, ending->socket, &active, NULL) || active) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    ending->ended = TRUE;
    return wait_until_gone(domain, ending->socket, error);
}

gboolean
vmb_backup_job_end_by_socket(VmbDomain *domain, const char *socket, gboolean *ended, GError **error)
{
    Ending ending = {socket, FALSE};
    gboolean done = vmb_virt_reconnecting(domain, end_step, &ending, error);
    if (ended != NULL)
        *ended = ending.ended;
    return done;
}

static gboolean
resume_step(VmbDomain *domain, gpointer data, GError **error)
{
    VmbDomainState state;
    if (!vmb_domain_state(domain, &state, error))
        return FALSE;
    if (!state.io_error)
        return TRUE;
    vmb_warning("domain '%s' was paused by QEMU for an I/O error during the backup; resuming it",
                vmb_domain_name(domain));
    return vmb_domain_resume(domain, error);
}

/* A full scratch file pauses the guest, and the end of the job does not resume it. */
static void
resume_after_io_error(VmbBackupJob *job)
{
    g_autoptr(GError) local = NULL;
    if (!job->had_io_error && !vmb_virt_reconnecting(job->domain, resume_step, NULL, &local) &&
        !g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN))
        vmb_log(VMB_LOG_ERROR, "%s", local->message);
}

gboolean
vmb_backup_job_end(VmbBackupJob *job, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (!vmb_fault_point("before-job-end", error))
        return FALSE;
    if (!vmb_backup_job_end_by_socket(job->domain, job->socket, NULL, &local)) {
        job->hangs = !g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT) &&
                     !g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN);
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    job->job_attempted = FALSE;
    resume_after_io_error(job);
    return vmb_fault_point("job-ended", error);
}

void
vmb_backup_job_keep_checkpoint(VmbBackupJob *job)
{
    job->keep_checkpoint = TRUE;
}

/* The job may appear some instants after its begin was cut off, or whenever QEMU goes on. */
static gboolean
end_late(VmbBackupJob *job, GError **error)
{
    guint64 until = vmb_units_monotonic() + LATE_NS;
    /* The connection was given up with the begin. */
    if (vmb_connection_reopen(vmb_domain_connection(job->domain), NULL))
        vmb_domain_refresh(job->domain, NULL);
    for (;;) {
        /* Behind a begin that hangs in QEMU, an abort would only wait. */
        gboolean ended = FALSE, occupied = vmb_domain_is_occupied(job->domain);
        if (!occupied && !vmb_backup_job_end_by_socket(job->domain, job->socket, &ended, error))
            return FALSE;
        if (ended)
            return TRUE;
        if (vmb_units_monotonic() >= until && occupied)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "domain '%s': QEMU has not answered yet whether the job begins",
                                 vmb_domain_name(job->domain));
        if (vmb_units_monotonic() >= until)
            return TRUE;
        g_usleep(LATE_PAUSE_US);
    }
}

/* libvirt's daemon may have died in the begin, with or without QEMU's job. */
static gboolean
end_uncertain(VmbBackupJob *job, GError **error)
{
    gboolean ended = FALSE;
    if (!end_late(job, error) ||
        (job->scratch_dir != NULL &&
         !vmb_stray_job_end(job->domain, job->scratch_dir, job->socket, &ended, error)))
        return FALSE;
    job->lost = vmb_domain_lost_job(job->domain);
    return TRUE;
}

static gboolean
end_attempted(VmbBackupJob *job, GError **error)
{
    if (job->hangs)
        return vmb_error_set(error, VMB_ERROR_FAILED, "domain '%s': the job is left to the guard",
                             vmb_domain_name(job->domain));
    if (job->uncertain)
        return end_uncertain(job, error);
    return vmb_backup_job_end_by_socket(job->domain, job->socket, NULL, error);
}

/* With its domain a job has ended, unless only libvirt has lost that. */
static gboolean
may_go_on(const VmbBackupJob *job, const GError *error)
{
    return !g_error_matches(error, VMB_ERROR, VMB_ERROR_DOMAIN) ||
           (job->scratch_dir != NULL && vmb_stray_domain_is_lost(job->domain, job->scratch_dir));
}

/* Where a rollback fails, the next run finds the leftovers by its journal. */
gboolean
vmb_backup_job_roll_back(VmbBackupJob *job)
{
    g_autoptr(GError) job_error = NULL, checkpoint_error = NULL;
    if (job->rolled_back)
        return !job->job_attempted;
    job->rolled_back = TRUE;
    if (job->job_attempted) {
        gboolean ended = end_attempted(job, &job_error);
        job->job_attempted = !ended && may_go_on(job, job_error);
        if (job->job_attempted) {
            vmb_log(VMB_LOG_ERROR, "%s", job_error->message);
            return FALSE;
        }
        resume_after_io_error(job);
    }
    if (job->checkpoint_attempted && !job->keep_checkpoint &&
        !(job->uncertain
              ? vmb_checkpoint_purge(job->domain, job->checkpoint, NULL, &checkpoint_error)
              : vmb_checkpoint_delete(job->domain, job->checkpoint, &checkpoint_error)))
        vmb_warning("%s", checkpoint_error->message);
    return TRUE;
}

void
vmb_backup_job_free(VmbBackupJob *job)
{
    if (job == NULL)
        return;
    vmb_backup_job_roll_back(job);
    vmb_domain_unref(job->domain);
    g_free(job->socket);
    g_free(job->scratch_dir);
    g_free(job->lost);
    g_free(job->checkpoint);
    g_free(job->xml);
    g_free(job->checkpoint_xml);
    g_free(job);
}
