/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a check-up: can each domain, disk by disk, be backed up incrementally? */
#include "job/doctor-private.h"
#include "job/bind.h"
#include "job/plan.h"
#include "job/redefine.h"
#include "job/scratch-place.h"
#include "job/scratch-space.h"
#include "job/scratch.h"
#include "repo/journal.h"
#include "repo/layout.h"
#include "repo/lock.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/rundir.h"
#include "virt/checkpoint.h"
#include "virt/guest-facts.h"
#include "virt/stray-job.h"

#include <string.h>

#define AGENT_TIMEOUT_S 5

void
vmb_doctor_line_free(VmbDoctorLine *line)
{
    g_free(line->domain);
    g_free(line->disk);
    g_free(line->topic);
    g_free(line->message);
    g_free(line->advice);
    g_free(line);
}

VmbDoctorLine *
vmb_doctor_say(VmbDoctor *doctor, VmbDoctorGrade grade, const char *disk, const char *topic,
               const char *format, ...)
{
    VmbDoctorLine *line = g_new0(VmbDoctorLine, 1);
    va_list args;
    va_start(args, format);
    line->grade = grade;
    line->domain = g_strdup(doctor->name);
    line->disk = g_strdup(disk);
    line->topic = g_strdup(topic);
    line->message = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(doctor->lines, line);
    return line;
}
/* Short, because there is one in every other line. */
#define say vmb_doctor_say

/* ---- the host ---- */

static void
check_directory(VmbDoctor *doctor, const char *topic, const char *path, const char *option)
{
    guint64 available = 0;
    g_autofree char *existing = g_strdup(path);
    while (!g_file_test(existing, G_FILE_TEST_EXISTS)) {
        char *up = g_path_get_dirname(existing);
        g_free(existing);
        existing = up;
    }
    if (!g_file_test(existing, G_FILE_TEST_IS_DIR) || access(existing, W_OK | X_OK) < 0) {
        VmbDoctorLine *line = say(doctor, VMB_DOCTOR_PROBLEM, NULL, topic,
                                  "%s cannot be written", existing);
        line->advice = g_strdup_printf("run as root, or choose another place%s%s",
                                       option != NULL ? " with " : "",
                                       option != NULL ? option : "");
        return;
    }
    vmb_fs_free_space(existing, &available, NULL);
    g_autofree char *size = vmb_units_format_size(available);
    gboolean tight = option != NULL && available < 2 * VMB_SCRATCH_FLOOR + 64 * VMB_MIB;
    VmbDoctorLine *line = say(doctor, tight ? VMB_DOCTOR_PROBLEM : VMB_DOCTOR_OK, NULL, topic,
                              "%s has %s free", path, size);
    if (tight)
        line->advice = g_strdup_printf("choose a place with more room with %s", option);
}

static void
check_host(VmbDoctor *doctor)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *scratch = doctor->options->scratch_dir != NULL
                                   ? g_canonicalize_filename(doctor->options->scratch_dir, NULL)
                                   : vmb_scratch_default_dir();
    g_autofree char *run = vmb_run_dir(&error);
    check_directory(doctor, "scratch", scratch, "--scratch-dir DIR");
    if (run != NULL)
        check_directory(doctor, "socket", run, NULL);
    else
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "socket", "%s", error->message);
}

static void
check_security(VmbDoctor *doctor, const VmbDomainInfo *info)
{
    g_autofree char *scratch = doctor->options->scratch_dir != NULL
                                   ? g_canonicalize_filename(doctor->options->scratch_dir, NULL)
                                   : vmb_scratch_default_dir();
    g_autofree char *run = vmb_run_dir(NULL);
    if (g_strcmp0(info->security_model, "apparmor") != 0 || run == NULL)
        return;
    VmbDoctorLine *line = say(doctor, VMB_DOCTOR_NOTE, NULL, "apparmor",
                              "AppArmor confines QEMU; it must allow the socket and the scratch "
                              "files");
    line->advice = g_strdup_printf(
        "add these lines to /etc/apparmor.d/local/abstractions/libvirt-qemu and restart the "
        "domain:  %s/vmbackup-*/nbd.sock rw,  %s/vmbackup-*/* rwk,", run, scratch);
}

/* ---- one domain ---- */

/* What a backup would refuse before it begins. */
static void
check_places(VmbDoctor *doctor, const VmbDomainInfo *info)
{
    g_autoptr(GError) error = NULL;
    const VmbDoctorOptions *options = doctor->options;
    g_autofree char *scratch = options->scratch_dir != NULL
                                   ? g_canonicalize_filename(options->scratch_dir, NULL)
                                   : vmb_scratch_default_dir();
    g_autofree char *run = vmb_run_dir(NULL);
    if (vmb_scratch_place_check(scratch, options->repository, info->qemu_uid, info->qemu_gid,
                                &error) &&
        (run == NULL || vmb_scratch_place_check(run, options->repository, info->qemu_uid,
                                                info->qemu_gid, &error)))
        return;
    say(doctor, VMB_DOCTOR_PROBLEM, NULL, "scratch", "%s", error->message);
}

static void
check_agent(VmbDoctor *doctor, const VmbDomainInfo *info)
{
    g_autoptr(GError) error = NULL;
    if (!info->agent_channel) {
        VmbDoctorLine *line = say(doctor, VMB_DOCTOR_PROBLEM, NULL, "agent",
                                  "the domain has no channel for a guest agent, so points are only "
                                  "crash-consistent");
        line->advice = g_strdup_printf(
            "printf \"<channel type='unix'><target type='virtio' "
            "name='org.qemu.guest_agent.0'/></channel>\" > /tmp/agent.xml && virsh attach-device %s "
            "/tmp/agent.xml --live --config, and install qemu-guest-agent in the guest",
            doctor->name);
        return;
    }
    if (!info->agent_connected) {
        VmbDoctorLine *line = say(doctor, VMB_DOCTOR_PROBLEM, NULL, "agent",
                                  "the guest agent is not running, so points are only "
                                  "crash-consistent");
        line->advice = g_strdup("in the guest: apt-get install qemu-guest-agent (or your system's "
                                "package), and systemctl enable --now qemu-guest-agent");
        return;
    }
    VmbJson *facts = vmb_guest_facts(doctor->domain, AGENT_TIMEOUT_S, &error);
    if (facts != NULL) {
        say(doctor, VMB_DOCTOR_OK, NULL, "agent", "the guest agent answers");
        json_object_put(facts);
        return;
    }
    VmbDoctorLine *line = say(doctor, VMB_DOCTOR_PROBLEM, NULL, "agent",
                              "the guest agent is connected but does not answer: %s",
                              error->message);
    line->advice = g_strdup("in the guest: systemctl restart qemu-guest-agent");
}

static char *
advice_for_bitmaps(VmbDoctor *doctor, const VmbDiskInfo *disk)
{
    const VmbDiskLayer *active = disk->layers->len > 0 ? disk->layers->pdata[0] : NULL;
    const char *path = active != NULL && active->path != NULL ? active->path : "IMAGE";
    if (g_strcmp0(disk->format, "qcow2") == 0)
        return g_strdup_printf("virsh shutdown %s && qemu-img amend -o compat=1.1 %s && virsh start "
                               "%s", doctor->name, path, doctor->name);
    return g_strdup_printf("virsh shutdown %s && qemu-img convert -O qcow2 %s %s.qcow2, then let the "
                           "disk point to it with type='qcow2' (virsh edit %s); otherwise this disk "
                           "is read whole each time", doctor->name, path, path, doctor->name);
}

static void
report_disk(VmbDoctor *doctor, const VmbPlanDisk *disk)
{
    const char *target = disk->info->target;
    if (disk->method == VMB_METHOD_BITMAP || disk->method == VMB_METHOD_OFFLINE) {
        say(doctor, VMB_DOCTOR_OK, target, "disk", "the next backup is incremental");
    } else if (disk->level == VMB_LEVEL_INCREMENTAL && disk->info->bitmaps) {
        say(doctor, VMB_DOCTOR_NOTE, target, "disk",
            "the next backup reads the whole disk and stores what differs [%s]: %s",
            vmb_reason_name(disk->reason), vmb_reason_meaning(disk->reason));
    } else if (!disk->info->bitmaps) {
        VmbDoctorLine *line =
            say(doctor, VMB_DOCTOR_PROBLEM, target, "disk", 
                "no backup by bitmap is possible, so it is read whole each time and only what "
                "differs is stored: %s",
                disk->info->no_bitmaps_why != NULL ? disk->info->no_bitmaps_why
                                                   : vmb_reason_meaning(disk->reason));
        line->advice = advice_for_bitmaps(doctor, disk->info);
    } else {
        say(doctor, doctor->repository != NULL ? VMB_DOCTOR_NOTE : VMB_DOCTOR_OK, target, "disk",
            "it can be backed up incrementally; the next backup is a full, though [%s]: %s",
            vmb_reason_name(disk->reason), vmb_reason_meaning(disk->reason));
    }
}

static GPtrArray *
known_points(VmbDoctor *doctor, VmbRepoDomain **repo_domain)
{
    const char *uuid = vmb_domain_uuid(doctor->domain);
    GPtrArray *points = NULL;
    if (doctor->repository != NULL)
        *repo_domain = vmb_repo_domain_open(doctor->repository, uuid, FALSE, NULL);
    if (*repo_domain != NULL)
        points = vmb_repo_domain_points(*repo_domain, NULL);
    return points != NULL ? points : g_ptr_array_new();
}

/* A backup tries that before it decides what to do with the disks; here nothing is changed. */
static void
check_records(VmbDoctor *doctor, const VmbDomainInfo *info, GPtrArray *points)
{
    g_autoptr(GPtrArray) known = vmb_checkpoint_list(doctor->domain, NULL);
    if (doctor->repository == NULL || known == NULL)
        return;
    g_autoptr(GPtrArray) missing =
        vmb_redefine_missing(vmb_repository_id(doctor->repository), info, points, known);
    for (guint i = 0; i < missing->len; i++)
        say(doctor, VMB_DOCTOR_NOTE, NULL, "checkpoint",
            "libvirt has no record of %s; where its bitmaps are still in the images, it is defined "
            "again by the next backup, which then is incremental by them",
            (const char *)missing->pdata[i]);
}

/* The same decisions as a backup's, made quietly and without changing anything. */
static void
check_disks(VmbDoctor *doctor, VmbDomainInfo *info, GPtrArray *points)
{
    VmbBackupOptions options = {.level = VMB_WANT_AUTO};
    VmbLogLevel level = vmb_log_level();
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) reasons =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    vmb_bind_disks(info, points);
    vmb_log_set_level(MIN(level, VMB_LOG_ERROR)); /* the report says it, not the log */
    g_autoptr(VmbPlan) plan =
        vmb_plan_new(&options, doctor->domain, info, points, reasons, &error);
    vmb_log_set_level(level);
    if (plan == NULL) {
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "disk", "%s", error->message);
        return;
    }
    for (guint i = 0; i < plan->disks->len; i++)
        report_disk(doctor, plan->disks->pdata[i]);
    for (guint i = 0; i < plan->skipped->len; i++) {
        const VmbSkippedDisk *skipped = plan->skipped->pdata[i];
        say(doctor, VMB_DOCTOR_NOTE, skipped->target, "disk", "it is left out of backups: %s",
            vmb_reason_meaning(skipped->reason));
    }
    check_records(doctor, info, points);
}

static gboolean
is_at_work(VmbRepoDomain *repo_domain)
{
    return repo_domain != NULL &&
           vmb_lock_holder(vmb_repo_domain_fd(repo_domain), VMB_LAYOUT_LOCK) > 0;
}

/* TRUE if there is a job, other than that of a dead run. */
static gboolean
check_job(VmbDoctor *doctor, VmbRepoDomain *repo_domain)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJournal) journal = NULL;
    g_autofree char *what = NULL;
    gboolean ours = FALSE;
    if (repo_domain != NULL)
        vmb_journal_read(vmb_repo_domain_fd(repo_domain), &journal, NULL);
    if (!vmb_domain_active_job(doctor->domain, journal != NULL ? journal->socket : NULL, &ours,
                               &what, &error))
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "job", "%s", error->message);
    else if (what != NULL && !ours)
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "job", "busy, a backup would be refused: %s", what);
    return what != NULL && (!ours || is_at_work(repo_domain));
}

/* Its images are read without it. */
static void
check_shut_off(VmbDoctor *doctor, GPtrArray *points)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbDomainInfo) info = vmb_domain_inspect(doctor->domain, &error);
    if (info == NULL) {
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "domain", "%s", error->message);
        return;
    }
    say(doctor, VMB_DOCTOR_OK, NULL, "domain",
        "it is shut off; a backup reads its images, and neither starts it nor hinders its start");
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = info->disks->pdata[i];
        if (disk->offline_why != NULL && disk->device != VMB_DEVICE_CDROM &&
            disk->device != VMB_DEVICE_FLOPPY && !disk->readonly)
            say(doctor, VMB_DOCTOR_PROBLEM, disk->target, "disk",
                "it can only be backed up while the domain runs: %s", disk->offline_why);
    }
    check_disks(doctor, info, points);
}

/* TRUE, and says so, if libvirt only takes it for shut off. */
static gboolean
check_lost(VmbDoctor *doctor, VmbRepoDomain *repo_domain)
{
    g_autoptr(VmbJournal) journal = NULL;
    if (repo_domain != NULL)
        vmb_journal_read(vmb_repo_domain_fd(repo_domain), &journal, NULL);
    const char *scratch_dir = journal != NULL ? vmb_scratch_of_journal(journal) : NULL;
    if (scratch_dir == NULL || !vmb_stray_domain_is_lost(doctor->domain, scratch_dir))
        return FALSE;
    VmbDoctorLine *line = vmb_doctor_say(
        doctor, VMB_DOCTOR_PROBLEM, NULL, "domain",
        "libvirt says that it is shut off, but a QEMU has the scratch images of a dead run open still: libvirt has "
        "lost the running domain. Do not start it");
    line->advice = g_strdup("see vmbackup-recovery(7), \"A job that libvirt has lost\"");
    return TRUE;
}

static void
check_domain(VmbDoctor *doctor)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepoDomain) repo_domain = NULL;
    VmbDomainState state;
    if (doctor->options->repair)
        vmb_doctor_repair(doctor);
    if (!vmb_domain_state(doctor->domain, &state, &error)) {
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "domain", "%s", error->message);
        return;
    }
    g_autoptr(GPtrArray) points = known_points(doctor, &repo_domain);
    vmb_doctor_leftovers(doctor, repo_domain, points);
    if (!state.active) {
        if (!check_lost(doctor, repo_domain))
            check_shut_off(doctor, points);
        return;
    }
    gboolean job = check_job(doctor, repo_domain);
    g_autoptr(VmbDomainInfo) info = vmb_domain_inspect(doctor->domain, &error);
    if (info == NULL) {
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "domain", "%s", error->message);
        return;
    }
    if (!state.paused)
        check_agent(doctor, info);
    else
        say(doctor, VMB_DOCTOR_NOTE, NULL, "agent", "the domain is paused; the agent is not asked");
    /* Looking at bitmaps lets QEMU wait for whoever reads from the job, and the guest with it. */
    if (!job)
        check_disks(doctor, info, points);
    else
        say(doctor, VMB_DOCTOR_NOTE, NULL, "disk", "the disks are not looked at while a job is active");
    check_places(doctor, info);
    check_security(doctor, info);
}

/* Its points stay, and what its runs have left on this host can still be removed. */
static void
check_gone_domain(VmbDoctor *doctor)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) no_points = g_ptr_array_new();
    if (doctor->options->repair)
        vmb_doctor_repair(doctor);
    g_autoptr(VmbRepoDomain) repo_domain =
        vmb_repo_domain_open(doctor->repository, doctor->uuid, FALSE, &error);
    if (repo_domain == NULL) {
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "domain", "%s", error->message);
        return;
    }
    say(doctor, VMB_DOCTOR_NOTE, NULL, "domain",
        "%s does not know it; its points are kept, and can be restored",
        vmb_connection_uri(doctor->connection));
    vmb_doctor_leftovers(doctor, repo_domain, no_points);
}

static gboolean
check_named(VmbDoctor *doctor, const char *name, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *uuid = NULL;
    g_autoptr(VmbDomain) domain = vmb_domain_lookup(doctor->connection, name, &local);
    if (domain == NULL && doctor->repository != NULL &&
        g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN))
        uuid = vmb_repository_find_domain(doctor->repository, name, NULL);
    if (domain == NULL && uuid == NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    doctor->domain = domain;
    doctor->name = domain != NULL ? vmb_domain_name(domain) : name;
    doctor->uuid = domain != NULL ? vmb_domain_uuid(domain) : uuid;
    if (domain != NULL)
        check_domain(doctor);
    else
        check_gone_domain(doctor);
    doctor->domain = NULL;
    doctor->name = doctor->uuid = NULL;
    return TRUE;
}

static GPtrArray *
names_to_check(VmbDoctor *doctor, GError **error)
{
    const char *const *named = doctor->options->domains;
    if (named == NULL || named[0] == NULL) {
        g_autoptr(GPtrArray) all = vmb_domain_list(doctor->connection, FALSE, error);
        g_autoptr(GPtrArray) gone = NULL;
        if (all != NULL && doctor->repository != NULL) {
            gone = vmb_doctor_gone_domains(doctor, error);
            if (gone == NULL)
                return NULL;
        }
        for (guint i = 0; gone != NULL && i < gone->len; i++)
            g_ptr_array_add(all, g_strdup(gone->pdata[i]));
        return g_steal_pointer(&all);
    }
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; named[i] != NULL; i++)
        g_ptr_array_add(names, g_strdup(named[i]));
    return names;
}

static void
check_repository(VmbDoctor *doctor)
{
    g_autoptr(GError) error = NULL;
    if (doctor->repository != NULL && !vmb_repository_is_at_home(doctor->repository, &error))
        say(doctor, VMB_DOCTOR_PROBLEM, NULL, "repository", "%s", error->message);
}

GPtrArray *
vmb_doctor(const VmbDoctorOptions *options, GError **error)
{
    g_autoptr(GPtrArray) lines =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_doctor_line_free);
    g_autoptr(VmbRepository) repository = NULL;
    VmbDoctor doctor = {.options = options, .lines = lines};
    g_autoptr(VmbConnection) connection = doctor.connection =
        vmb_connection_open(options->uri, error);
    if (connection == NULL)
        return NULL;
    if (options->repository != NULL) {
        repository = doctor.repository = vmb_repository_open(options->repository, error);
        if (repository == NULL ||
            (options->repair && !vmb_repository_check_writable(repository, error)))
            return NULL;
    }
    say(&doctor, VMB_DOCTOR_OK, NULL, "libvirt", "connected to %s",
        vmb_connection_uri(connection));
    check_host(&doctor);
    check_repository(&doctor);
    g_autoptr(GPtrArray) names = names_to_check(&doctor, error);
    for (guint i = 0; names != NULL && i < names->len; i++) {
        if (g_cancellable_is_cancelled(options->cancel))
            break;
        if (!check_named(&doctor, names->pdata[i], error))
            return NULL;
    }
    return names != NULL ? g_steal_pointer(&lines) : NULL;
}
