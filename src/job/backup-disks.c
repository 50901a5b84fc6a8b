/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Step 8 of a backup: each disk of the running job, one after the other. */
#include "job/backup-offline.h"
#include "image/overlap.h"
#include "job/chain-files.h"
#include "job/disk-backup.h"
#include "job/merge.h"
#include "job/save-config.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/log.h"
#include "util/units.h"

static gboolean
is_by_bitmap(const VmbPlanDisk *plan)
{
    return plan->method == VMB_METHOD_BITMAP ||
           (plan->method == VMB_METHOD_OFFLINE && !plan->unchanged);
}

static VmbManifestDisk *
describe(const VmbBackupRun *run, const VmbPlanDisk *plan)
{
    VmbManifestDisk *disk = vmb_manifest_disk_new();
    const VmbDiskInfo *info = plan->info;
    gboolean incremental = plan->level == VMB_LEVEL_INCREMENTAL;
    gboolean bitmap = is_by_bitmap(plan);
    disk->target = g_strdup(info->target);
    disk->id = g_strdup(info->id);
    disk->bus = g_strdup(info->bus);
    disk->serial = g_strdup(info->serial);
    disk->size = info->size;
    disk->level = plan->level;
    disk->method = plan->method;
    disk->reason = plan->reason;
    disk->parent = incremental ? g_strdup(plan->parent->id) : NULL;
    disk->synthetic_from = plan->synthetic ? g_strdup(plan->parent->id) : NULL;
    disk->base_checkpoint = bitmap && incremental ? g_strdup(plan->parent_disk->checkpoint) : NULL;
    if (run->offline != NULL)
        disk->checkpoint = g_strdup(vmb_offline_checkpoint(run, plan));
    else if (info->bitmaps)
        disk->checkpoint = g_strdup(run->checkpoint);
    g_clear_pointer(&disk->layers, g_ptr_array_unref);
    disk->layers = g_ptr_array_ref(plan->layers);
    disk->image = vmb_layout_image(info->target);
    disk->digests = vmb_layout_digests(info->target);
    return disk;
}

static void
end_job_of_stalled_run(gpointer data)
{
    VmbBackupRun *run = data;
    if (run->job != NULL)
        vmb_backup_job_end(run->job, NULL);
}

/* What an incremental builds on: the parent's chain, open, and its name for the image's header. */
typedef struct {
    GArray *links;
    VmbChainFiles *files;
    char *backing, *context;
    GArray *damaged; /* VmbDamagedRange */
} Parent;

static void
parent_clear(Parent *parent)
{
    g_clear_pointer(&parent->files, vmb_chain_files_free);
    g_clear_pointer(&parent->links, g_array_unref);
    g_clear_pointer(&parent->backing, g_free);
    g_clear_pointer(&parent->context, g_free);
    g_clear_pointer(&parent->damaged, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Parent, parent_clear)

static gboolean
open_parent(VmbBackupRun *run, const VmbPlanDisk *plan, Parent *parent, VmbDiskBackup *backup,
            GError **error)
{
    gboolean compare = plan->method == VMB_METHOD_COMPARE;
    const char *checkpoint = plan->parent_disk->checkpoint;
    parent->links = vmb_repo_chain(run->points, plan->parent, plan->info->id, error);
    if (parent->links == NULL)
        return FALSE;
    parent->files =
        vmb_chain_files_open(parent->links, run->result->domain, FALSE, compare || plan->synthetic,
                             error);
    if (parent->files == NULL)
        return FALSE;
    if (is_by_bitmap(plan))
        parent->context = run->offline != NULL
                              ? g_strconcat("qemu:dirty-bitmap:", checkpoint, NULL)
                              : g_strconcat("qemu:dirty-bitmap:backup-", plan->info->target, NULL);
    parent->backing = vmb_layout_backing_file(plan->parent->id, plan->parent_disk->image);
    backup->dirty_context = parent->context;
    backup->parent = vmb_chain_files_chain(parent->files);
    backup->compare = compare;
    backup->synthetic = plan->synthetic;
    for (guint i = 0; plan->synthetic && i < parent->links->len; i++)
        backup->parent_frames |= g_array_index(parent->links, VmbChainLink, i).disk->compressed;
    parent->damaged = vmb_damage_known(parent->links, plan->info->id);
    g_array_append_vals(parent->damaged, backup->found->data, backup->found->len);
    backup->damaged = parent->damaged;
    backup->parent_size = plan->parent_disk->size;
    backup->backing_file = plan->synthetic ? NULL : parent->backing;
    backup->unit = compare ? 0 : vmb_plan_survey_unit(plan->info);
    return TRUE;
}

/* A full that is nothing but the chain in one image. */
static gboolean
merge_unchanged(const VmbBackupRun *run, const Parent *parent, VmbDiskBackup *backup,
                VmbManifestDisk *entry, GError **error)
{
    VmbMerge merge = {.links = parent->links,
                      .n_layers = parent->links->len,
                      .domain = run->result->domain,
                      .image_fd = backup->image_fd,
                      .digests_fd = backup->digests_fd,
                      .cancel = run->stop,
                      .progress = run->progress};
    if (!vmb_merge_layers(&merge, entry, NULL, error))
        return FALSE;
    backup->copied = entry->data_blocks * VMB_BLOCK_SIZE;
    return TRUE;
}

/* What dropping the parent will free. Not knowing it is no reason to fail. */
static void
note_replaced(const Parent *parent, const VmbDiskBackup *backup, const VmbPlanDisk *plan,
              VmbManifestDisk *entry)
{
    guint64 bytes = 0;
    g_autoptr(VmbQcow2Reader) above = vmb_qcow2_reader_open(
        backup->image_fd, vmb_round_up(plan->info->size, 512), backup->label, NULL);
    g_autoptr(VmbQcow2Reader) below = vmb_qcow2_reader_open(
        vmb_chain_files_image_fd(parent->files), vmb_round_up(plan->parent_disk->size, 512),
        backup->label, NULL);
    if (above != NULL && below != NULL && vmb_overlap_bytes(above, below, &bytes, NULL))
        entry->replaced_bytes = bytes;
}

static void
report_size(VmbBackupRun *run, const VmbPlanDisk *plan, guint64 contradicted)
{
    const char *target = plan->info->target;
    if (plan->parent != NULL && plan->parent_disk->size != plan->info->size)
        vmb_reason_add(run->reasons, VMB_REASON_RESIZED, target,
                       "%s: disk %s has %" G_GUINT64_FORMAT " bytes now, and had %"
                       G_GUINT64_FORMAT, run->result->domain, target, plan->info->size,
                       plan->parent_disk->size);
    if (contradicted > 0)
        vmb_reason_add(run->reasons, VMB_REASON_BITMAP_CONTRADICTED, target,
                       "%s: disk %s: %" G_GUINT64_FORMAT " bytes read as zero although the bitmap "
                       "says that they did not change; they are stored as zero",
                       run->result->domain, target, contradicted);
}

static void
report_read(VmbBackupRun *run, const VmbPlanDisk *plan, const VmbDiskBackup *backup)
{
    const char *target = plan->info->target;
    if (backup->healed > 0)
        vmb_reason_add(run->reasons, VMB_REASON_DAMAGE_HEALED, target,
                       "%s: disk %s: %" G_GUINT64_FORMAT " damaged blocks of its chain were taken "
                       "from the guest again; older points that need them stay damaged",
                       run->result->domain, target, backup->healed);
    VmbBackupDisk *disk = g_new0(VmbBackupDisk, 1);
    disk->target = g_strdup(target);
    disk->read = backup->read;
    disk->copied = backup->copied;
    disk->healed = backup->healed * VMB_BLOCK_SIZE;
    g_ptr_array_add(run->result->disks, disk);
}

/* Blocks differ that the bitmap calls clean. If all of them are damaged in the chain, the bitmap is as good as
 * before: *@why says so then. */
static void
ask_digests(const VmbBackupRun *run, const Parent *parent, const VmbDiskBackup *backup,
            GError **why)
{
    const char *domain = run->result->domain;
    guint found = backup->found->len;
    if (backup->differing->len == 0 ||
        !vmb_chain_files_check_digests(parent->links, domain, NULL))
        return;
    g_autoptr(VmbChainFiles) files =
        vmb_chain_files_open(parent->links, domain, FALSE, TRUE, NULL);
    if (files == NULL || !vmb_damage_look(vmb_chain_files_chain(files), backup->differing,
                                          backup->found, NULL) ||
        backup->found->len - found < backup->differing->len)
        return;
    g_clear_error(why);
    vmb_error_set(why, VMB_ERROR_DAMAGE,
                  "%s: the block at disk offset %" G_GUINT64_FORMAT " is damaged in its chain: its "
                  "content does not match its digest; `vmbackup verify` tells more", backup->label,
                  g_array_index(backup->differing, guint64, 0));
}

static gboolean
make_disk(VmbBackupRun *run, const VmbPlanDisk *plan, const Parent *parent, VmbDiskBackup *backup,
          VmbManifestDisk *entry, guint64 *contradicted, GError **error)
{
    if (!plan->unchanged)
        return vmb_disk_backup(backup, entry, contradicted, error);
    return plan->synthetic ? merge_unchanged(run, parent, backup, entry, error)
                           : vmb_disk_backup_nothing(backup, entry, error);
}

static gboolean
read_disk(VmbBackupRun *run, const VmbPlanDisk *plan, const VmbDiskBackup *base,
          VmbManifestDisk *entry, GError **error)
{
    VmbDiskBackup backup = *base;
    g_auto(Parent) parent = {0};
    g_autoptr(GArray) differing = g_array_new(FALSE, FALSE, sizeof(guint64));
    g_autoptr(GError) why = NULL;
    guint64 contradicted = 0;
    backup.differing = differing;
    if (plan->parent != NULL && !open_parent(run, plan, &parent, &backup, error))
        return FALSE;
    if (!make_disk(run, plan, &parent, &backup, entry, &contradicted, &why))
        ask_digests(run, &parent, &backup, &why);
    if (backup.found->len > 0 && parent.links != NULL)
        vmb_damage_note(parent.links, plan->info->id, backup.found);
    if (why != NULL) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    if (plan->level == VMB_LEVEL_INCREMENTAL)
        note_replaced(&parent, &backup, plan, entry);
    report_read(run, plan, &backup);
    report_size(run, plan, contradicted);
    return TRUE;
}

/* A running domain's QEMU serves all disks already; a shut-off one's are served one by one. */
static gboolean
read_served(VmbBackupRun *run, const VmbPlanDisk *plan, const VmbDiskBackup *backup,
            VmbManifestDisk *entry, GError **error)
{
    g_autoptr(VmbNbdServer) server = NULL;
    if (run->offline != NULL && !plan->unchanged) {
        server = vmb_offline_serve(run, plan, error);
        if (server == NULL)
            return FALSE;
    }
    if (read_disk(run, plan, backup, entry, error))
        return TRUE;
    g_autofree char *complaint = server != NULL ? vmb_nbd_server_complaint(server) : NULL;
    if (complaint != NULL)
        vmb_info("%s: the server: %s", backup->label, complaint);
    return FALSE;
}

/* @found: VmbDamagedRange that an earlier attempt came upon; what this one does is added. */
static gboolean
store_disk(VmbBackupRun *run, const VmbPlanDisk *plan, GArray *found, GError **error)
{
    g_autoptr(VmbManifestDisk) entry = describe(run, plan);
    g_autofree char *label =
        g_strdup_printf("%s disk %s", run->result->domain, plan->info->target);
    g_auto(VmbFd) image = vmb_transaction_create(run->transaction, entry->image, error);
    if (image < 0)
        return FALSE;
    g_auto(VmbFd) digests = vmb_transaction_create(run->transaction, entry->digests, error);
    if (digests < 0)
        return FALSE;
    VmbDiskBackup backup = {.label = label,
                            .socket = run->offline != NULL ? run->offline->socket
                                                           : run->scratch->socket,
                            .export_name = plan->info->target,
                            .size = plan->info->size,
                            .image_fd = image,
                            .digests_fd = digests,
                            .compress_level = run->options->compress_level,
                            .found = found,
                            .cancel = run->stop,
                            .on_stall = end_job_of_stalled_run,
                            .stall_data = run,
                            .progress = run->progress};
    if (!read_served(run, plan, &backup, entry, error))
        return FALSE;
    g_ptr_array_add(run->manifest->disks, g_steal_pointer(&entry));
    return TRUE;
}

static gboolean
discard_disk(VmbBackupRun *run, const VmbPlanDisk *plan, GError **error)
{
    g_autofree char *image = vmb_layout_image(plan->info->target);
    g_autofree char *digests = vmb_layout_digests(plan->info->target);
    vmb_progress_add_total(run->progress, vmb_round_up(plan->info->size, 512));
    return vmb_transaction_discard(run->transaction, image, error) &&
           vmb_transaction_discard(run->transaction, digests, error);
}

/* The job goes on, and the disk is read once more: compared if it contradicts its bitmap, in full if its parent
 * cannot be read. @may_heal: only some of that is damaged, and is now known to be. */
static gboolean
plan_again(VmbBackupRun *run, VmbPlanDisk *plan, gboolean may_heal, GError *why, GError **error)
{
    const char *domain = run->result->domain;
    if (is_by_bitmap(plan) && g_error_matches(why, VMB_ERROR, VMB_ERROR_NO_INCREMENTAL))
        return vmb_plan_give_up_bitmap(plan, run->options, run->points, domain,
                                       VMB_REASON_SPOT_CHECK_FAILED, why->message, run->reasons,
                                       error);
    if (plan->parent == NULL || !g_error_matches(why, VMB_ERROR, VMB_ERROR_DAMAGE)) {
        g_propagate_error(error, g_error_copy(why));
        return FALSE;
    }
    if (may_heal) {
        vmb_notice("%s; it is taken from the guest again", why->message);
        return TRUE;
    }
    return vmb_plan_give_up_parent(plan, run->options, domain, why->message, run->reasons, error);
}

static gboolean
back_up_disk(VmbBackupRun *run, VmbPlanDisk *plan, GError **error)
{
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(VmbDamagedRange));
    for (gboolean healing = FALSE;;) {
        g_autoptr(GError) why = NULL;
        guint known = found->len;
        if (store_disk(run, plan, found, &why))
            return TRUE;
        gboolean may_heal = found->len > known && !healing;
        healing |= may_heal;
        if (!plan_again(run, plan, may_heal, why, error) || !discard_disk(run, plan, error))
            return FALSE;
    }
}

static gboolean
check_images(VmbBackupRun *run, GError **error)
{
    g_autoptr(VmbDomainInfo) now = vmb_domain_inspect(run->domain, error);
    return now != NULL && vmb_plan_check_images(run->plan, now, run->result->domain, error);
}

gboolean
vmb_backup_read_disks(VmbBackupRun *run, GError **error)
{
    GPtrArray *disks = run->plan->disks;
    vmb_progress_phase(run->progress, "reading");
    for (guint i = 0; i < disks->len; i++)
        vmb_progress_add_total(run->progress,
                               vmb_round_up(((VmbPlanDisk *)disks->pdata[i])->info->size, 512));
    if (!check_images(run, error) ||
        !vmb_save_tpm(run->transaction, run->manifest, run->info, run->result->domain,
                      run->reasons, run->stop, error))
        return FALSE;
    for (guint i = 0; i < disks->len; i++)
        if (!back_up_disk(run, disks->pdata[i], error))
            return FALSE;
    return TRUE;
}
