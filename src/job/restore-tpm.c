/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state of an emulated TPM goes where libvirt looks for it: without it a guest loses its keys. */
#include "job/restore-run.h"
#include "util/error.h"
#include "util/rundir.h"

#include <errno.h>

static const VmbManifestFile *
find_tpm(const VmbManifest *manifest)
{
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = manifest->files->pdata[i];
        if (g_strcmp0(file->role, "tpm") == 0)
            return file;
    }
    return NULL;
}

/* Owners are kept by number; libvirt hands the directory to swtpm's user at the start. */
static gboolean
unpack(const char *archive, const char *directory, GError **error)
{
    g_autoptr(GSubprocess) tar =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE, error, "tar", "-C", directory,
                         "--numeric-owner", "--same-permissions", "-xf", archive, NULL);
    if (tar == NULL || !g_subprocess_wait(tar, NULL, error))
        return FALSE;
    return g_subprocess_get_successful(tar) ||
           vmb_error_set(error, VMB_ERROR_FAILED, "tar could not unpack %s", archive);
}

gboolean
vmb_restore_tpm(VmbRestoreRun *run, GError **error)
{
    const VmbManifestFile *file = find_tpm(run->point->manifest);
    g_autofree char *directory =
        vmb_defined_tpm_dir(run->defined, vmb_connection_uri(run->connection), run->xml);
    if (file == NULL || directory == NULL)
        return TRUE;
    g_autofree char *archive =
        g_build_filename(vmb_restore_stage_directory(run->stage), file->name, NULL);
    g_autofree char *parent = g_path_get_dirname(directory);
    if (!vmb_make_dirs(parent, 0711, error))
        return FALSE;
    if (mkdir(directory, 0700) < 0)
        return vmb_error_errno(error, errno,
                               "cannot make the directory %s for the TPM state; if it exists, "
                               "another domain's state may be in it: move it away and restore "
                               "again", directory);
    run->tpm_dir = g_strdup(directory);
    return unpack(archive, directory, error);
}
