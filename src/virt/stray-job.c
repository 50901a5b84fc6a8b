/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A backup job that QEMU has and libvirt does not know, as its daemon died while it began. */
#include "virt/stray-job.h"
#include "virt/backup-xml.h"
#include "virt/call.h"
#include "virt/image-lock.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/log.h"
#include "util/units.h"

#include <libvirt/libvirt-qemu.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A cancelled job ends at once, but for requests that are under way. */
#define CANCEL_NS (30 * G_GUINT64_CONSTANT(1000000000))
#define CANCEL_PAUSE_US (50 * 1000)
/* A QEMU that ends closes its images within that. */
#define LEAVING_NS (5 * G_GUINT64_CONSTANT(1000000000))
/* libvirt's own calls give QEMU 30 s. */
#define BUSY_NS (35 * G_GUINT64_CONSTANT(1000000000))
#define LEAVING_PAUSE_US (100 * 1000)
/* What libvirt names the jobs of its backups: "backup-TARGET-NODE". */
#define JOB_PREFIX "backup-"
/* In /proc/net/unix: flags of a socket that listens, and the longest file that is read. */
#define LISTENS "00010000"
#define UNIX_SOCKETS_MAX (16 * VMB_MIB)

typedef struct {
    VmbDomain *domain;
    const char *scratch_dir, *socket;
} Stray;

/* ---- QEMU's monitor ---- */

/* Takes @arguments (NULL: none). *@result (may be NULL) is what it returns; free with
 * json_object_put(). */
static gboolean
command(const Stray *stray, const char *name, VmbJson *arguments, VmbJson **result, GError **error)
{
    VMB_DOMAIN_CALL(stray->domain);
    VmbJson *value = NULL;
    const char *text = "an error without a text";
    char *raw = NULL;
    g_autoptr(VmbJson) request = json_object_new_object();
    vmb_json_add_string(request, "execute", name);
    if (arguments != NULL)
        vmb_json_add(request, "arguments", arguments);
    if (virDomainQemuMonitorCommand(vmb_domain_handle(stray->domain),
                                    json_object_to_json_string(request), &raw, 0) < 0)
        return vmb_virt_error(error, VMB_ERROR_FAILED,
                              "domain '%s': QEMU's monitor does not answer",
                              vmb_domain_name(stray->domain));
    g_autoptr(VmbJson) reply = vmb_json_parse(raw, strlen(raw), error);
    free(raw);
    if (reply == NULL)
        return FALSE;
    if (json_object_object_get_ex(reply, "return", &value)) {
        if (result != NULL)
            *result = json_object_get(value);
        return TRUE;
    }
    if (json_object_object_get_ex(reply, "error", &value))
        vmb_json_get_string(value, "desc", &text, NULL);
    return vmb_error_set(error, VMB_ERROR_FAILED, "domain '%s': QEMU refuses '%s': %s",
                         vmb_domain_name(stray->domain), name, text);
}

static gboolean
command_on(const Stray *stray, const char *name, const char *key, const char *object,
           GError **error)
{
    VmbJson *arguments = json_object_new_object();
    vmb_json_add_string(arguments, key, object);
    return command(stray, name, arguments, NULL, error);
}

/* An array that @name returns. */
static VmbJson *
query(const Stray *stray, const char *name, VmbJson *arguments, GError **error)
{
    VmbJson *result = NULL;
    if (!command(stray, name, arguments, &result, error))
        return NULL;
    if (json_object_is_type(result, json_type_array))
        return result;
    json_object_put(result);
    vmb_error_set(error, VMB_ERROR_FAILED, "domain '%s': QEMU answers '%s' in an unknown form",
                  vmb_domain_name(stray->domain), name);
    return NULL;
}

/* ---- jobs ---- */

typedef enum { JOB_OF_OTHERS, JOB_CAN_END, JOB_ENDING, JOB_ENDED } JobState;

static JobState
judge(VmbJson *job, const char **id)
{
    static const char *const running[] = {"created", "running", "paused", "ready", "standby", NULL};
    const char *type = NULL, *status = NULL;
    if (!vmb_json_get_string(job, "type", &type, NULL) || strcmp(type, "backup") != 0 ||
        !vmb_json_get_string(job, "id", id, NULL) || !g_str_has_prefix(*id, JOB_PREFIX) ||
        !vmb_json_get_string(job, "status", &status, NULL))
        return JOB_OF_OTHERS;
    if (strcmp(status, "concluded") == 0)
        return JOB_ENDED;
    return g_strv_contains(running, status) ? JOB_CAN_END : JOB_ENDING;
}

/* One look at all jobs: those that run are told to end, those that have ended are dismissed; what has become
 * of them shows at the next look. *@left: there were any. libvirt runs one backup of a domain at a time, so that
 * these are all of the same begin. */
static gboolean
end_jobs_once(const Stray *stray, gboolean *left, GError **error)
{
    *left = FALSE;
    g_autoptr(VmbJson) jobs = query(stray, "query-jobs", NULL, error);
    for (gsize i = 0; jobs != NULL && i < json_object_array_length(jobs); i++) {
        const char *id = NULL;
        g_autoptr(GError) local = NULL;
        JobState state = judge(json_object_array_get_idx(jobs, i), &id);
        *left |= state != JOB_OF_OTHERS;
        if ((state == JOB_CAN_END && !command_on(stray, "job-cancel", "id", id, &local)) ||
            (state == JOB_ENDED && !command_on(stray, "job-dismiss", "id", id, &local)))
            vmb_debug("%s", local->message);
    }
    return jobs != NULL;
}

static gboolean
end_jobs(const Stray *stray, GError **error)
{
    guint64 deadline = vmb_units_monotonic() + CANCEL_NS;
    gboolean left = FALSE;
    if (!end_jobs_once(stray, &left, error) || !vmb_fault_point("stray-job-cancelled", error))
        return FALSE;
    while (left) {
        if (vmb_units_monotonic() > deadline)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "domain '%s': a backup job that libvirt does not know runs in "
                                 "QEMU, and does not end; a stop of the domain ends it",
                                 vmb_domain_name(stray->domain));
        g_usleep(CANCEL_PAUSE_US);
        if (!end_jobs_once(stray, &left, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- the NBD server ---- */

static gboolean
listens(const char *socket)
{
    g_autofree char *text = NULL;
    gsize length = 0;
    if (!g_file_get_contents("/proc/net/unix", &text, &length, NULL) || length > UNIX_SOCKETS_MAX)
        return FALSE;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        const char *path = strchr(*line, '/');
        if (path != NULL && strcmp(path, socket) == 0 && strstr(*line, " " LISTENS " ") != NULL)
            return TRUE;
    }
    return FALSE;
}

/* ---- the scratch images ---- */

static gboolean
is_in(const char *directory, const char *path)
{
    gsize length = strlen(directory);
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}

/* Whether a node stands on a scratch image. Of one whose backing file was given beside it, QEMU
 * tells the name as "json:" and an object with the member "file". */
static gboolean
is_scratch(const Stray *stray, const char *name)
{
    VmbJson *file = NULL;
    if (!g_str_has_prefix(name, "json:"))
        return is_in(stray->scratch_dir, name);
    const char *text = name + strlen("json:"), *path = NULL;
    g_autoptr(VmbJson) object = vmb_json_parse(text, strlen(text), NULL);
    return object != NULL && vmb_json_get_object(object, "file", &file, NULL) &&
           vmb_json_get_string(file, "filename", &path, NULL) && is_in(stray->scratch_dir, path);
}

/* Names (char *) of QEMU's nodes of the scratch images, each image before the file that it stands
 * on. */
static GPtrArray *
find_nodes(const Stray *stray, GError **error)
{
    VmbJson *arguments = json_object_new_object();
    vmb_json_add_bool(arguments, "flat", TRUE);
    g_autoptr(VmbJson) nodes = query(stray, "query-named-block-nodes", arguments, error);
    if (nodes == NULL)
        return NULL;
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (gsize i = 0; i < json_object_array_length(nodes); i++) {
        VmbJson *node = json_object_array_get_idx(nodes, i);
        const char *name = NULL, *driver = NULL, *file = NULL;
        /* Names that QEMU has made up, with a '#', are of nodes that go with those above them. */
        if (vmb_json_get_string(node, "node-name", &name, NULL) && name[0] != '#' &&
            vmb_json_get_string(node, "drv", &driver, NULL) &&
            vmb_json_get_string(node, "file", &file, NULL) && is_scratch(stray, file))
            g_ptr_array_insert(names, strcmp(driver, "file") == 0 ? -1 : 0, g_strdup(name));
    }
    return names;
}

static gboolean
drop_nodes(const Stray *stray, const GPtrArray *names, GError **error)
{
    for (guint i = 0; i < names->len; i++)
        if (!command_on(stray, "blockdev-del", "node-name", names->pdata[i], error))
            return FALSE;
    return TRUE;
}

/* ---- whether there is one ---- */

/* By QEMU's locks; also where we may not look at its descriptors. */
static gboolean
is_locked(const char *scratch_dir)
{
    g_autoptr(GDir) dir = g_dir_open(scratch_dir, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(scratch_dir, name, NULL);
        g_autofree char *who = NULL;
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR) && vmb_image_writer(path, &who, NULL) &&
            who != NULL)
            return TRUE;
    }
    return FALSE;
}

static gboolean
has_open(const char *pid, const char *scratch_dir)
{
    g_autofree char *fds = g_build_filename("/proc", pid, "fd", NULL);
    g_autoptr(GDir) dir = g_dir_open(fds, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *link = g_build_filename(fds, name, NULL);
        g_autofree char *path = g_file_read_link(link, NULL);
        if (path != NULL && is_in(scratch_dir, path))
            return TRUE;
    }
    return FALSE;
}

gboolean
vmb_stray_images_in_use(const char *scratch_dir)
{
    g_autofree char *own = g_strdup_printf("%d", (int)getpid());
    char *real = realpath(scratch_dir, NULL);
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    gboolean found = real != NULL && is_locked(real);
    const char *pid;
    /* What is only prepared for a job is open, and not locked. */
    while (real != NULL && !found && dir != NULL && (pid = g_dir_read_name(dir)) != NULL)
        found = g_ascii_isdigit(pid[0]) && strcmp(pid, own) != 0 && has_open(pid, real);
    free(real);
    return found;
}

/* Also after a QEMU that ends has had the time to close them. */
static gboolean
stay_in_use(const char *scratch_dir)
{
    guint64 deadline = vmb_units_monotonic() + LEAVING_NS;
    while (vmb_stray_images_in_use(scratch_dir)) {
        if (vmb_units_monotonic() > deadline)
            return TRUE;
        g_usleep(LEAVING_PAUSE_US);
    }
    return FALSE;
}

/* For libvirt; while it says SHUTDOWN, there is still one that ends. */
static gboolean
has_no_qemu(VmbDomain *domain)
{
    VMB_DOMAIN_CALL(domain);
    /* Its handle may be of the daemon that has died. */
    if (!vmb_domain_refresh(domain, NULL))
        return vmb_virt_error_code() == VIR_ERR_NO_DOMAIN;
    return virDomainIsActive(vmb_domain_handle(domain)) == 0;
}

gboolean
vmb_stray_domain_is_lost(VmbDomain *domain, const char *scratch_dir)
{
    return (domain == NULL || has_no_qemu(domain)) && stay_in_use(scratch_dir);
}

static gboolean
lost_error(const Stray *stray, GError **error)
{
    return vmb_error_set(
        error, VMB_ERROR_FAILED,
        "domain '%s': libvirt says that it is shut off, but a QEMU has the scratch images in %s "
        "open still: libvirt's daemon has died while a backup job began, and has lost the running "
        "domain. Do not start it; vmbackup-recovery(7) says how libvirt finds it again (\"A job "
        "that libvirt has lost\")",
        vmb_domain_name(stray->domain), stray->scratch_dir);
}

static gboolean
end_found(const Stray *stray, const GPtrArray *nodes, GError **error)
{
    vmb_warning("domain '%s': libvirt's daemon has died while a backup job began, and QEMU has the "
                "job or what was prepared for it still; that is ended by QEMU's monitor",
                vmb_domain_name(stray->domain));
    return end_jobs(stray, error) &&
           (!listens(stray->socket) || command(stray, "nbd-server-stop", NULL, NULL, error)) &&
           drop_nodes(stray, nodes, error) && vmb_fault_point("stray-job-ended", error);
}

/* QEMU is there and answers, and libvirt has no backup. */
static gboolean
end_unknown(const Stray *stray, gboolean *ended, GError **error)
{
    gboolean active = FALSE;
    g_autofree char *socket = NULL;
    if (!vmb_backup_xml_active(stray->domain, &active, &socket, error))
        return FALSE;
    if (active)
        return vmb_error_set(error, VMB_ERROR_LOCKED,
                             "domain '%s': another backup job is active, and QEMU has the scratch "
                             "images in %s open still; that can be ended once the job is over",
                             vmb_domain_name(stray->domain), stray->scratch_dir);
    g_autoptr(GPtrArray) nodes = find_nodes(stray, error);
    if (nodes == NULL || (nodes->len > 0 && !end_found(stray, nodes, error)))
        return FALSE;
    *ended = nodes->len > 0;
    return TRUE;
}

gboolean
vmb_stray_job_end(VmbDomain *domain, const char *scratch_dir, const char *socket, gboolean *ended,
                  GError **error)
{
    Stray stray = {domain, scratch_dir, socket};
    guint64 deadline = vmb_units_monotonic() + BUSY_NS;
    VmbDomainState state;
    *ended = FALSE;
    while (vmb_stray_images_in_use(scratch_dir)) {
        if (vmb_stray_domain_is_lost(domain, scratch_dir))
            return lost_error(&stray, error);
        if (!vmb_domain_state(domain, &state, error))
            return FALSE;
        /* Somebody's question to QEMU passes; the end of a QEMU as well. */
        if (state.active && !vmb_domain_is_occupied(domain))
            return end_unknown(&stray, ended, error);
        if (vmb_units_monotonic() > deadline)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "domain '%s': QEMU has the scratch images in %s open still, and "
                                 "does not answer",
                                 vmb_domain_name(domain), scratch_dir);
        g_usleep(LEAVING_PAUSE_US);
    }
    return TRUE;
}
