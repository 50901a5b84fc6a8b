/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether something else is at work on a domain: a backup, a migration, a block job. */
#include "virt/domain.h"
#include "virt/backup-xml.h"
#include "virt/call.h"
#include "virt/domain-xml.h"

#include <string.h>

/* A job that is just ending makes libvirt's answer fail for some milliseconds; it is asked again.
 */
#define JOB_ASK_PAUSE_US (50 * 1000)
/* A job of another program that is just beginning does so while libvirt makes its images. */
#define JOB_LOST_TRIES 200

/* QEMU answers within milliseconds. */
#define OCCUPIED_MS 5000
/* During a long job libvirt tells the time since that began; then it is seen by repetition whether
 * one call does not end. */
#define JOB_LOOKS 30
#define JOB_LOOK_PAUSE_US (100 * 1000)

static int
ask_control(VmbDomain *domain, guint64 *ms)
{
    VMB_DOMAIN_CALL(domain);
    virDomainControlInfo info = {0};
    if (virDomainGetControlInfo(vmb_domain_handle(domain), &info, 0) < 0)
        return VIR_DOMAIN_CONTROL_OK;
    *ms = info.stateTime;
    return (int)info.state;
}

gboolean
vmb_domain_is_occupied(VmbDomain *domain)
{
    guint64 ms = 0;
    int state = ask_control(domain, &ms);
    return state == VIR_DOMAIN_CONTROL_OCCUPIED || state == VIR_DOMAIN_CONTROL_JOB;
}

gboolean
vmb_domain_check_answers(VmbDomain *domain, GError **error)
{
    guint64 ms = 0;
    int state = ask_control(domain, &ms);
    for (int i = 0; i < JOB_LOOKS && state == VIR_DOMAIN_CONTROL_JOB; i++) {
        g_usleep(JOB_LOOK_PAUSE_US);
        state = ask_control(domain, &ms);
    }
    gboolean stuck = state == VIR_DOMAIN_CONTROL_JOB ||
                     (state == VIR_DOMAIN_CONTROL_OCCUPIED && ms >= OCCUPIED_MS);
    return !stuck ||
           vmb_error_set(
               error, VMB_ERROR_FAILED,
               "the QEMU of the domain '%s' has not answered libvirt for some seconds; it "
               "may be stopped, or hang in its storage",
               vmb_domain_name(domain));
}

static const char *
operation_name(int operation)
{
    switch (operation) {
    case VIR_DOMAIN_JOB_OPERATION_START:
        return "starting of the domain";
    case VIR_DOMAIN_JOB_OPERATION_SAVE:
        return "save";
    case VIR_DOMAIN_JOB_OPERATION_RESTORE:
        return "restore from a saved state";
    case VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
        return "incoming migration";
    case VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return "migration";
    case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT:
        return "snapshot";
    case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT:
        return "return to a snapshot";
    case VIR_DOMAIN_JOB_OPERATION_DUMP:
        return "memory dump";
    case VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return "backup";
    default:
        return "job of a kind unknown to vmbackup";
    }
}

static const char *
block_job_name(int type)
{
    switch (type) {
    case VIR_DOMAIN_BLOCK_JOB_TYPE_PULL:
        return "block pull";
    case VIR_DOMAIN_BLOCK_JOB_TYPE_COPY:
        return "block copy";
    case VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT:
    case VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT:
        return "block commit";
    default:
        return "block job";
    }
}

/* *@found: a backup job was there, and *@what and *@ours are set. */
static gboolean
ask_backup(VmbDomain *domain, const char *own_socket, gboolean *found, gboolean *ours, char **what,
           GError **error)
{
    g_autofree char *socket = NULL;
    if (!vmb_backup_xml_active(domain, found, &socket, error))
        return FALSE;
    if (!*found)
        return TRUE;
    *ours = own_socket != NULL && g_strcmp0(socket, own_socket) == 0;
    *what = g_strdup_printf("a backup job of %s is active (%s%s); `virsh domjobabort %s` ends it",
                            *ours ? "an earlier run of vmbackup" : "another program or run",
                            socket != NULL ? "its NBD socket is " : "push mode or TCP",
                            socket != NULL ? socket : "", vmb_domain_name(domain));
    return TRUE;
}

/* A daemon that dies in virDomainBackupBegin() leaves a record that says "backup" and of which
 * backup not. The daemons after it take that for a job, which nothing can end (libvirt 9.0). */
static char *
describe_lost(VmbDomain *domain)
{
    gboolean active = FALSE;
    g_autofree char *socket = NULL;
    if (!vmb_backup_xml_active(domain, &active, &socket, NULL) || active ||
        vmb_domain_is_occupied(domain))
        return NULL;
    return g_strdup(
        "libvirt has the record of a backup job that does not exist, as its daemon died while the "
        "job began, and refuses backups, snapshots and migrations of the domain, and once it is "
        "shut off its start (unless another program's backup is just beginning). A restart of "
        "libvirt's daemon while the domain is shut off ends that, and vmbackup-recovery(7) says "
        "how to do without (\"A job that libvirt has lost\")");
}

/* *@lost: libvirt could not tell, all the time. */
static int
ask_stats(VmbDomain *domain, virTypedParameterPtr *params, int *n, int *type, gboolean *lost)
{
    int rc = -1;
    *lost = FALSE;
    for (int i = 0; i < JOB_LOST_TRIES; i++) {
        rc = virDomainGetJobStats(vmb_domain_handle(domain), type, params, n, 0);
        if (rc == 0 || vmb_virt_error_code() != VIR_ERR_INTERNAL_ERROR)
            return rc;
        g_usleep(JOB_ASK_PAUSE_US);
    }
    *lost = TRUE;
    return rc;
}

char *
vmb_domain_lost_job(VmbDomain *domain)
{
    VMB_DOMAIN_CALL(domain);
    virTypedParameterPtr params = NULL;
    int n = 0, type = VIR_DOMAIN_JOB_NONE;
    gboolean lost = FALSE;
    if (ask_stats(domain, &params, &n, &type, &lost) == 0)
        virTypedParamsFree(params, n);
    return lost ? describe_lost(domain) : NULL;
}

static gboolean
ask_job(VmbDomain *domain, char **what, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virTypedParameterPtr params = NULL;
    int n = 0, type = VIR_DOMAIN_JOB_NONE, operation = 0;
    gboolean lost = FALSE;
    int rc = ask_stats(domain, &params, &n, &type, &lost);
    if (lost) {
        *what = describe_lost(domain);
        if (*what == NULL)
            *what = g_strdup("another backup is just beginning or ending");
        return TRUE;
    }
    if (rc < 0)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN,
                              "cannot ask which job the domain '%s' is running",
                              vmb_domain_name(domain));
    virTypedParamsGetInt(params, n, VIR_DOMAIN_JOB_OPERATION, &operation);
    virTypedParamsFree(params, n);
    if (type == VIR_DOMAIN_JOB_BOUNDED || type == VIR_DOMAIN_JOB_UNBOUNDED)
        *what = g_strdup_printf(
            "a %s is running; wait for its end, or end it by `virsh domjobabort %s`",
            operation_name(operation), vmb_domain_name(domain));
    return TRUE;
}

static gboolean
ask_block_jobs(VmbDomain *domain, char **what, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    char *xml = virDomainGetXMLDesc(vmb_domain_handle(domain), 0);
    if (xml == NULL)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot read the XML of the domain '%s'",
                              vmb_domain_name(domain));
    g_autoptr(VmbDomainInfo) info = vmb_domain_info_from_xml(xml, error);
    free(xml);
    if (info == NULL)
        return FALSE;
    for (guint i = 0; i < info->disks->len && *what == NULL; i++) {
        VmbDiskInfo *disk = g_ptr_array_index(info->disks, i);
        virDomainBlockJobInfo job = {0};
        if (!disk->has_medium ||
            virDomainGetBlockJobInfo(vmb_domain_handle(domain), disk->target, &job, 0) <= 0)
            continue;
        *what = g_strdup_printf("a %s of disk %s is running; wait for its end, or end it by `virsh "
                                "blockjob %s %s --abort`",
                                block_job_name(job.type), disk->target, vmb_domain_name(domain),
                                disk->target);
    }
    return TRUE;
}

gboolean
vmb_domain_active_job(VmbDomain *domain, const char *own_socket, gboolean *ours, char **what,
                      GError **error)
{
    gboolean mine = FALSE, found = FALSE;
    *what = NULL;
    if (ours != NULL)
        *ours = FALSE;
    if (!ask_backup(domain, own_socket, &found, &mine, what, error))
        return FALSE;
    if (ours != NULL)
        *ours = mine;
    if (found)
        return TRUE;
    return ask_job(domain, what, error) && (*what != NULL || ask_block_jobs(domain, what, error));
}
