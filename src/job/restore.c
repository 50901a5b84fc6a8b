/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a restore: look, check, write under temporary names, publish, define. */
#include "job/restore-run.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/units.h"

#include <fcntl.h>

static void
restored_disk_free(VmbRestoredDisk *disk)
{
    g_free(disk->target);
    g_free(disk->path);
    g_free(disk);
}

void
vmb_restore_result_free(VmbRestoreResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_free(result->point);
    g_free(result->xml_path);
    g_free(result->defined);
    g_ptr_array_unref(result->disks);
    g_ptr_array_unref(result->missing);
    g_free(result);
}

void
vmb_restore_run_clear(VmbRestoreRun *run)
{
    g_clear_pointer(&run->defined, vmb_defined_free);
    if (run->tpm_dir != NULL)
        vmb_fs_remove_tree(AT_FDCWD, run->tpm_dir, NULL);
    g_clear_pointer(&run->tpm_dir, g_free);
    g_clear_pointer(&run->stage, vmb_restore_stage_free);
    g_clear_pointer(&run->disks, g_ptr_array_unref);
    g_clear_pointer(&run->pins, vmb_pins_free);
    g_clear_pointer(&run->points, g_ptr_array_unref);
    g_clear_pointer(&run->xml, g_free);
    g_clear_pointer(&run->connection, vmb_connection_unref);
    g_clear_pointer(&run->repository, vmb_repository_free);
    g_clear_pointer(&run->progress, vmb_progress_free);
}

static gboolean
find_point(VmbRestoreRun *run, GError **error)
{
    run->repository = vmb_repository_open(run->options->repository, error);
    if (run->repository == NULL)
        return FALSE;
    run->pins = vmb_pins_take_named(run->repository, run->options->point, run->options->cancel,
                                    &run->point, &run->points, error);
    if (run->pins == NULL)
        return FALSE;
    if (run->point->manifest == NULL) {
        g_propagate_prefixed_error(error, g_error_copy(run->point->damage),
                                   "%s cannot be restored, its manifest is damaged; other points "
                                   "may be whole (`vmbackup list`): ", run->options->point);
        return FALSE;
    }
    run->result->domain = g_strdup(run->point->manifest->domain);
    run->result->uuid = g_strdup(run->point->uuid);
    run->result->point = g_strdup(run->point->id);
    return TRUE;
}

/* Before anything is written: would libvirt take the domain? */
static gboolean
check_define(VmbRestoreRun *run, GError **error)
{
    g_autofree char *name = NULL, *uuid = NULL, *conflict = NULL;
    if (!run->options->define && !run->options->start)
        return TRUE;
    run->connection = vmb_connection_open(run->options->uri, error);
    if (run->connection == NULL || !vmb_define_identity(run->xml, &name, &uuid, error) ||
        !vmb_define_conflict(run->connection, name, uuid, &conflict, error))
        return FALSE;
    return conflict == NULL ||
           vmb_error_set(error, VMB_ERROR_DOMAIN,
                         "%s; nothing was restored. Give the restored domain another name with "
                         "--name, which also gives it a new UUID and new MAC addresses", conflict);
}

static gboolean
check_space(VmbRestoreRun *run, GError **error)
{
    guint64 need = 16 * VMB_MIB, available; /* tables and small files */
    const char *directory = vmb_restore_stage_directory(run->stage);
    for (guint i = 0; i < run->disks->len; i++) {
        const VmbRestoreDisk *disk = run->disks->pdata[i];
        need += disk->data + disk->data / 1024;
        vmb_progress_add_total(run->progress, disk->data);
    }
    for (guint i = 0; i < run->point->manifest->files->len; i++)
        need += ((VmbManifestFile *)run->point->manifest->files->pdata[i])->size;
    if (!vmb_restore_stage_free_space(run->stage, &available, error))
        return FALSE;
    if (available >= need)
        return TRUE;
    g_autofree char *have = vmb_units_format_size(available);
    g_autofree char *want = vmb_units_format_size(need);
    return vmb_error_set(error, VMB_ERROR_NO_SPACE,
                         "%s has %s free, but the restored files need %s; nothing was written",
                         directory, have, want);
}

static gboolean
define(VmbRestoreRun *run, GError **error)
{
    gboolean lost = run->options->lost != NULL && run->options->lost->len > 0;
    if (lost && run->connection != NULL && !run->options->force_define) {
        vmb_warning("%s/%s: something of it is lost, so the domain is not defined; the files are "
                    "in %s. --force-define defines it all the same", run->result->domain,
                    run->result->point, run->options->to);
        g_clear_pointer(&run->connection, vmb_connection_unref);
    }
    if (run->connection == NULL) {
        vmb_restore_stage_keep(run->stage);
        return TRUE;
    }
    run->defined = vmb_defined_new(run->connection, run->xml, error);
    if (run->defined == NULL || !vmb_restore_tpm(run, error) ||
        !vmb_fault_point("restore-defined", error))
        return FALSE;
    vmb_defined_keep(run->defined);
    g_clear_pointer(&run->tpm_dir, g_free);
    vmb_restore_stage_keep(run->stage);
    run->result->defined = g_strdup(vmb_defined_name(run->defined));
    if (!run->options->start)
        return TRUE;
    if (!vmb_defined_start(run->defined, error)) {
        g_prefix_error(error, "everything is restored and the domain is defined, but: ");
        return FALSE;
    }
    run->result->started = TRUE;
    return TRUE;
}

static gboolean
run_steps(VmbRestoreRun *run, GError **error)
{
    if (run->options->destinations != NULL)
        return find_point(run, error) && vmb_restore_select(run, error) &&
               vmb_restore_out(run, error);
    g_autofree char *directory = g_canonicalize_filename(run->options->to, NULL);
    if (!find_point(run, error) || !vmb_restore_select(run, error) ||
        !vmb_restore_make_xml(run, directory, error) || !check_define(run, error))
        return FALSE;
    run->stage = vmb_restore_stage_new(directory, error);
    if (run->stage == NULL || !check_space(run, error) || !vmb_restore_write(run, error))
        return FALSE;
    vmb_progress_phase(run->progress, "writing to disk");
    return vmb_restore_stage_publish(run->stage, error) && define(run, error);
}

VmbRestoreResult *
vmb_restore(const VmbRestoreOptions *options, GError **error)
{
    g_autoptr(VmbRestoreResult) result = g_new0(VmbRestoreResult, 1);
    guint64 start = vmb_units_monotonic();
    result->disks = g_ptr_array_new_with_free_func((GDestroyNotify)restored_disk_free);
    result->missing = g_ptr_array_new_with_free_func(g_free);
    g_auto(VmbRestoreRun) run = {.options = options, .result = result};
    run.progress = vmb_progress_new(options->point);
    if (!run_steps(&run, error))
        return NULL;
    result->duration_ns = vmb_units_monotonic() - start;
    return g_steal_pointer(&result);
}
