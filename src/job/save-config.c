/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The domain's configuration goes into the point: XML, NVRAM, kernel, TPM state. */
#include "job/save-config.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/stall.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>

#define TPM_TRIES 5
/* The state of a TPM takes some KiB; what is larger is something else. */
#define TPM_MAX_BYTES (16 * 1024 * 1024)

/* A file of the host that may be absent from the configuration (@path NULL). */
static gboolean
save_file(VmbTransaction *transaction, VmbManifest *manifest, const char *name, const char *role,
          const char *path, const char *domain, GPtrArray *reasons, GError **error)
{
    if (path == NULL)
        return TRUE;
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        vmb_reason_add(reasons, VMB_REASON_CONFIG_UNREADABLE, NULL,
                       "%s: the %s file %s cannot be read: %s", domain, role, path,
                       g_strerror(errno));
        return TRUE;
    }
    if (!S_ISREG(st.st_mode)) {
        vmb_reason_add(reasons, VMB_REASON_CONFIG_UNREADABLE, NULL,
                       "%s: the %s file %s is no regular file", domain, role, path);
        return TRUE;
    }
    return vmb_transaction_copy_file(transaction, manifest, name, role, path, fd, error);
}

gboolean
vmb_save_config(VmbTransaction *transaction, VmbManifest *manifest, const VmbDomainInfo *info,
                const char *domain, GPtrArray *reasons, GError **error)
{
    const struct {
        const char *name, *role, *path;
    } files[] = {{"nvram.fd", "nvram", info->nvram},
                 {"kernel", "kernel", info->kernel},
                 {"initrd", "initrd", info->initrd},
                 {"dtb", "dtb", info->dtb}};
    if (!vmb_transaction_add_file(transaction, manifest, "domain.xml", "inactive-xml", NULL,
                                  info->inactive_xml, strlen(info->inactive_xml), error) ||
        (info->live_xml != NULL &&
         !vmb_transaction_add_file(transaction, manifest, "domain-live.xml", "live-xml", NULL,
                                   info->live_xml, strlen(info->live_xml), error)))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        if (!save_file(transaction, manifest, files[i].name, files[i].role, files[i].path, domain,
                       reasons, error))
            return FALSE;
    return vmb_fault_point("config-saved", error);
}

static gboolean
check_tpm_size(const char *directory, GError **error)
{
    guint64 total = 0;
    g_auto(VmbIoMark) mark = vmb_io_mark();
    g_autoptr(GDir) dir = g_dir_open(directory, 0, error);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(directory, name, NULL);
        struct stat st;
        if (lstat(path, &st) == 0)
            total += S_ISDIR(st.st_mode) ? TPM_MAX_BYTES + 1 : (guint64)st.st_size;
    }
    if (dir == NULL)
        return FALSE;
    return total <= TPM_MAX_BYTES ||
           vmb_error_set(error, VMB_ERROR_FAILED, "it is larger than any TPM state");
}

/* The archive in a form that depends on the files alone. */
static GBytes *
archive(const char *directory, GCancellable *cancel, GError **error)
{
    g_autoptr(GBytes) output = NULL;
    g_auto(VmbIoMark) mark = vmb_io_mark();
    g_autoptr(GSubprocess) tar = g_subprocess_new(
        G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE, error, "tar", "-C",
        directory, "--sort=name", "--format=posix",
        "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "-cf", "-", "--exclude=.lock",
        ".", NULL);
    if (tar == NULL)
        return NULL;
    if (!g_subprocess_communicate(tar, NULL, cancel, &output, NULL, error)) {
        g_subprocess_force_exit(tar);
        return NULL;
    }
    if (!g_subprocess_get_successful(tar)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "tar could not read all of it");
        return NULL;
    }
    return g_steal_pointer(&output);
}

static GBytes *
archive_stable(const char *directory, GCancellable *cancel, GError **error)
{
    g_autoptr(GBytes) before =
        check_tpm_size(directory, error) ? archive(directory, cancel, error) : NULL;
    for (int i = 0; before != NULL && i < TPM_TRIES; i++) {
        GBytes *after = archive(directory, cancel, error);
        if (after != NULL && g_bytes_equal(before, after))
            return after;
        g_bytes_unref(before);
        before = after;
    }
    if (before != NULL)
        vmb_error_set(error, VMB_ERROR_FAILED, "it kept changing while it was read");
    return NULL;
}

gboolean
vmb_save_tpm(VmbTransaction *transaction, VmbManifest *manifest, const VmbDomainInfo *info,
             const char *domain, GPtrArray *reasons, GCancellable *cancel, GError **error)
{
    g_autoptr(GError) problem = NULL;
    if (info->tpm_dir == NULL)
        return TRUE;
    g_autoptr(GBytes) tar = archive_stable(info->tpm_dir, cancel, &problem);
    if (tar == NULL) {
        vmb_reason_add(reasons, VMB_REASON_CONFIG_UNREADABLE, NULL,
                       "%s: the TPM state in %s is not in the point: %s", domain, info->tpm_dir,
                       problem->message);
        return TRUE;
    }
    gsize length = 0;
    const void *content = g_bytes_get_data(tar, &length);
    return vmb_transaction_add_file(transaction, manifest, "tpm.tar", "tpm", info->tpm_dir, content,
                                    length, error);
}
