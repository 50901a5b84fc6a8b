/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which disks a backup takes, at which level, by which method, and why. */
#include "job/plan.h"
#include "job/chain-files.h"
#include "util/error.h"
#include "virt/checkpoint.h"

static void
plan_disk_free(VmbPlanDisk *disk)
{
    g_clear_pointer(&disk->layers, g_ptr_array_unref);
    g_free(disk);
}

void
vmb_plan_free(VmbPlan *plan)
{
    if (plan == NULL)
        return;
    g_ptr_array_unref(plan->disks);
    g_ptr_array_unref(plan->skipped);
    g_free(plan);
}

VmbPoint *
vmb_plan_newest_point(GPtrArray *points, const char *id, const VmbManifestDisk **disk)
{
    for (guint i = points->len; i-- > 0;) {
        VmbPoint *point = points->pdata[i];
        if (point->manifest == NULL)
            continue;
        *disk = vmb_manifest_find_disk(point->manifest, id);
        if (*disk != NULL)
            return point;
    }
    return NULL;
}

static gboolean
contains(const char *const *list, const char *target)
{
    return list != NULL && g_strv_contains(list, target);
}

static gboolean
check_targets(const VmbDomainInfo *info, const char *const *targets, const char *domain,
              GError **error)
{
    for (guint t = 0; targets != NULL && targets[t] != NULL; t++) {
        gboolean found = FALSE;
        for (guint i = 0; i < info->disks->len && !found; i++)
            found = g_strcmp0(((VmbDiskInfo *)info->disks->pdata[i])->target, targets[t]) == 0;
        if (!found)
            return vmb_error_set(error, VMB_ERROR_USAGE,
                                 "domain %s has no disk '%s'; `virsh domblklist %s` lists its disks",
                                 domain, targets[t], domain);
    }
    return TRUE;
}

/* VMB_N_REASONS: the disk is taken. */
static VmbReasonCode
why_skipped(const VmbBackupOptions *options, const VmbDiskInfo *info)
{
    gboolean selective = options->disks != NULL && options->disks[0] != NULL;
    if (info->device == VMB_DEVICE_CDROM)
        return VMB_REASON_CDROM;
    if (info->device == VMB_DEVICE_FLOPPY)
        return VMB_REASON_FLOPPY;
    if (!info->has_medium)
        return VMB_REASON_NO_MEDIUM;
    if (info->readonly)
        return VMB_REASON_READ_ONLY;
    if (selective && !contains(options->disks, info->target))
        return VMB_REASON_DESELECTED;
    if (contains(options->exclude, info->target))
        return VMB_REASON_DESELECTED;
    return VMB_N_REASONS;
}

static void
skip(VmbPlan *plan, const VmbDiskInfo *info, VmbReasonCode why, const char *domain,
     GPtrArray *reasons)
{
    VmbSkippedDisk *skipped = g_new0(VmbSkippedDisk, 1);
    skipped->target = g_strdup(info->target);
    skipped->id = g_strdup(info->id);
    skipped->reason = why;
    skipped->size = info->size;
    g_ptr_array_add(plan->skipped, skipped);
    vmb_reason_add(reasons, why, info->target, "%s: disk %s is left out: %s", domain, info->target,
                   vmb_reason_meaning(why));
}

/* The parent must be readable as a chain before anything is built on it. */
static gboolean
parent_is_sound(GPtrArray *points, VmbPlanDisk *disk, const char *domain, guint *length,
                GError **error)
{
    g_autoptr(GArray) links = vmb_repo_chain(points, disk->parent, disk->info->id, error);
    if (links == NULL)
        return FALSE;
    *length = links->len;
    g_autoptr(VmbChainFiles) files = vmb_chain_files_open(links, domain, FALSE, TRUE, error);
    return files != NULL;
}

static void
make_full(VmbPlanDisk *disk, VmbReasonCode reason)
{
    disk->level = VMB_LEVEL_FULL;
    disk->reason = reason;
    disk->parent = NULL;
    disk->parent_disk = NULL;
}

/* What can be said without asking libvirt; VMB_N_REASONS if a bitmap may do. *@detail may get a
 * sentence with the particulars. */
static VmbReasonCode
why_full(const VmbBackupOptions *options, VmbPlanDisk *disk, GPtrArray *points, const char *domain,
         char **detail)
{
    g_autoptr(GError) error = NULL;
    guint length = 0;
    if (disk->parent == NULL)
        return points->len == 0 ? VMB_REASON_FIRST_BACKUP : VMB_REASON_NEW_DISK;
    if (options->level == VMB_WANT_FULL)
        return VMB_REASON_FULL_REQUESTED;
    if (!disk->info->bitmaps) {
        *detail = g_strdup(disk->info->no_bitmaps_why);
        return VMB_REASON_NO_BITMAP_SUPPORT;
    }
    if (disk->parent_disk->checkpoint == NULL)
        return VMB_REASON_CHECKPOINT_MISSING;
    if (!vmb_source_layers_same_active(disk->parent_disk->layers, disk->layers))
        return VMB_REASON_SOURCE_CHANGED;
    if (!vmb_source_layers_same_below(disk->parent_disk->layers, disk->layers))
        return VMB_REASON_LAYER_CHANGED;
    if (!parent_is_sound(points, disk, domain, &length, &error)) {
        *detail = g_strdup(error->message);
        return VMB_REASON_PARENT_DAMAGED;
    }
    return length >= VMB_MAX_CHAIN ? VMB_REASON_CHAIN_LIMIT : VMB_N_REASONS;
}

/* Asks libvirt about one checkpoint and all disks that would start from it. */
static gboolean
validate_checkpoint(VmbPlan *plan, VmbDomain *domain, const char *checkpoint, GError **error)
{
    g_autoptr(GPtrArray) targets = g_ptr_array_new();
    g_autoptr(GPtrArray) disks = g_ptr_array_new();
    gboolean exists = FALSE;
    for (guint i = 0; i < plan->disks->len; i++) {
        VmbPlanDisk *disk = plan->disks->pdata[i];
        if (disk->parent_disk != NULL && disk->level == VMB_LEVEL_INCREMENTAL &&
            g_strcmp0(disk->parent_disk->checkpoint, checkpoint) == 0) {
            g_ptr_array_add(targets, disk->info->target);
            g_ptr_array_add(disks, disk);
        }
    }
    g_autofree gboolean *usable = g_new0(gboolean, targets->len + 1);
    guint n = targets->len;
    g_ptr_array_add(targets, NULL);
    if (!vmb_checkpoint_exists(domain, checkpoint, &exists, error))
        return FALSE;
    if (exists && !vmb_checkpoint_validate(domain, checkpoint, (const char *const *)targets->pdata,
                                           usable, error))
        return FALSE;
    for (guint i = 0; i < n; i++)
        if (!usable[i])
            make_full(disks->pdata[i],
                      exists ? VMB_REASON_BITMAP_UNUSABLE : VMB_REASON_CHECKPOINT_MISSING);
    return TRUE;
}

static gboolean
validate_checkpoints(VmbPlan *plan, VmbDomain *domain, GError **error)
{
    g_autoptr(GHashTable) asked = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < plan->disks->len; i++) {
        VmbPlanDisk *disk = plan->disks->pdata[i];
        if (disk->level != VMB_LEVEL_INCREMENTAL)
            continue;
        const char *checkpoint = disk->parent_disk->checkpoint;
        if (g_hash_table_add(asked, (gpointer)checkpoint) &&
            !validate_checkpoint(plan, domain, checkpoint, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
report(VmbPlan *plan, const VmbBackupOptions *options, const char *domain, GPtrArray *details,
       GPtrArray *reasons, GError **error)
{
    for (guint i = 0; i < plan->disks->len; i++) {
        VmbPlanDisk *disk = plan->disks->pdata[i];
        const char *detail = details != NULL ? details->pdata[i] : NULL;
        if (disk->level == VMB_LEVEL_INCREMENTAL)
            continue;
        if (options->level == VMB_WANT_INCREMENTAL)
            return vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                                 "%s: disk %s cannot be backed up incrementally [%s]: %s%s%s "
                                 "Nothing was changed; without --level incremental this disk "
                                 "would be read in full",
                                 domain, disk->info->target, vmb_reason_name(disk->reason),
                                 vmb_reason_meaning(disk->reason), detail != NULL ? " " : "",
                                 detail != NULL ? detail : "");
        vmb_reason_add(reasons, disk->reason, disk->info->target, "%s: disk %s in full: %s%s%s%s",
                       domain, disk->info->target, vmb_reason_meaning(disk->reason),
                       detail != NULL ? " (" : "", detail != NULL ? detail : "",
                       detail != NULL ? ")" : "");
    }
    return TRUE;
}

static VmbPlanDisk *
plan_disk(const VmbBackupOptions *options, const VmbDiskInfo *info, GPtrArray *points,
          const char *domain, char **detail)
{
    VmbPlanDisk *disk = g_new0(VmbPlanDisk, 1);
    disk->info = info;
    disk->layers = vmb_source_layers(info);
    disk->parent = vmb_plan_newest_point(points, info->id, &disk->parent_disk);
    disk->reason = why_full(options, disk, points, domain, detail);
    disk->level = VMB_LEVEL_INCREMENTAL;
    if (disk->reason != VMB_N_REASONS)
        make_full(disk, disk->reason);
    return disk;
}

VmbPlan *
vmb_plan_new(const VmbBackupOptions *options, VmbDomain *domain, const VmbDomainInfo *info,
             GPtrArray *points, GPtrArray *reasons, GError **error)
{
    g_autoptr(VmbPlan) plan = g_new0(VmbPlan, 1);
    g_autoptr(GPtrArray) details = g_ptr_array_new_with_free_func(g_free);
    const char *name = vmb_domain_name(domain);
    plan->disks = g_ptr_array_new_with_free_func((GDestroyNotify)plan_disk_free);
    plan->skipped = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_skipped_disk_free);
    if (!check_targets(info, options->disks, name, error) ||
        !check_targets(info, options->exclude, name, error))
        return NULL;
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = info->disks->pdata[i];
        VmbReasonCode why = why_skipped(options, disk);
        if (why != VMB_N_REASONS) {
            skip(plan, disk, why, name, reasons);
            continue;
        }
        char *detail = NULL;
        g_ptr_array_add(plan->disks, plan_disk(options, disk, points, name, &detail));
        g_ptr_array_add(details, detail);
    }
    if (plan->disks->len == 0) {
        vmb_error_set(error, VMB_ERROR_DOMAIN, "%s: no disk is left to back up; nothing was changed",
                      name);
        return NULL;
    }
    if (!validate_checkpoints(plan, domain, error) ||
        !report(plan, options, name, details, reasons, error))
        return NULL;
    return g_steal_pointer(&plan);
}

gboolean
vmb_plan_give_up_bitmaps(VmbPlan *plan, const VmbBackupOptions *options, GPtrArray *reasons,
                         GError **error)
{
    for (guint i = 0; i < plan->disks->len; i++) {
        VmbPlanDisk *disk = plan->disks->pdata[i];
        if (disk->level != VMB_LEVEL_INCREMENTAL)
            continue;
        make_full(disk, VMB_REASON_BITMAP_UNUSABLE);
        if (options->level == VMB_WANT_INCREMENTAL)
            return vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                                 "disk %s: libvirt refuses its bitmap; nothing was changed; without "
                                 "--level incremental it would be read in full",
                                 disk->info->target);
        vmb_reason_add(reasons, VMB_REASON_BITMAP_UNUSABLE, disk->info->target,
                       "disk %s in full: libvirt refuses to begin with its bitmap",
                       disk->info->target);
    }
    return TRUE;
}
