/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which disks a backup takes, at which level, by which method, and why. */
#include "job/plan.h"
#include "job/chain-files.h"
#include "job/damage.h"
#include "repo/state.h"
#include "util/error.h"
#include "virt/bitmap-state.h"
#include "virt/checkpoint.h"

#include <string.h>

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
    if (!info->has_medium)
        return VMB_REASON_NO_MEDIUM;
    if (info->device == VMB_DEVICE_CDROM)
        return VMB_REASON_CDROM;
    if (info->device == VMB_DEVICE_FLOPPY)
        return VMB_REASON_FLOPPY;
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

/* The disk whose tables or digests are damaged has a range that covers all of it, so that others need not suffer;
 * unless no disk has one. */
static gboolean
is_about_disk(const VmbPointState *state, const VmbPoint *point, const char *id)
{
    gboolean any = FALSE;
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++) {
        const VmbDamage *damage = state->damage->pdata[i];
        const VmbManifestDisk *disk = vmb_manifest_find_disk(point->manifest, damage->disk);
        gboolean whole = disk != NULL && damage->offset == 0 && damage->length >= disk->size;
        if (whole && strcmp(damage->disk, id) == 0)
            return TRUE;
        any |= whole;
    }
    return !any;
}

/* Something that everything else of the point depends on was found damaged by a verification. */
static gboolean
metadata_is_damaged(const GArray *links, const char *id, const char *domain, char **detail)
{
    for (guint i = 0; i < links->len; i++) {
        VmbPoint *point = g_array_index(links, VmbChainLink, i).point;
        g_auto(VmbPointState) state = {0};
        if (vmb_point_state_read(point, &state, NULL) && state.metadata_damaged &&
            is_about_disk(&state, point, id)) {
            *detail = g_strdup_printf("verification found tables or digests of %s/%s damaged",
                                      domain, point->id);
            return TRUE;
        }
    }
    return FALSE;
}

/* The parent must be readable as a chain before anything is built on it. With @digests they are read
 * to the end and checked, for a comparison to rely upon. */
static gboolean
parent_is_sound(GPtrArray *points, const VmbPlanDisk *disk, const char *domain, gboolean digests,
                guint *length, GError **error)
{
    g_autofree char *damage = NULL;
    g_autoptr(GArray) links = vmb_repo_chain(points, disk->parent, disk->info->id, error);
    if (links == NULL)
        return FALSE;
    *length = links->len;
    if (metadata_is_damaged(links, disk->info->id, domain, &damage))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "%s", damage);
    if (digests)
        return vmb_chain_files_check_digests(links, domain, error);
    g_autoptr(VmbChainFiles) files = vmb_chain_files_open(links, domain, FALSE, TRUE, error);
    return files != NULL;
}

static void
make_full(VmbPlanDisk *disk, VmbReasonCode reason)
{
    disk->level = VMB_LEVEL_FULL;
    disk->method = VMB_METHOD_FULL;
    disk->reason = reason;
    disk->parent = NULL;
    disk->parent_disk = NULL;
    disk->unchanged = disk->synthetic = FALSE;
}

/* What no comparison can mend; VMB_N_REASONS if there is a parent to build on. *@detail may get a
 * sentence with the particulars. */
static VmbReasonCode
why_full(const VmbBackupOptions *options, const VmbPlanDisk *disk, GPtrArray *points,
         const char *domain, char **detail)
{
    g_autoptr(GError) error = NULL;
    guint length = 0;
    if (disk->parent == NULL)
        return points->len == 0 ? VMB_REASON_FIRST_BACKUP : VMB_REASON_NEW_DISK;
    if (options->level == VMB_WANT_FULL)
        return VMB_REASON_FULL_REQUESTED;
    if (!parent_is_sound(points, disk, domain, FALSE, &length, &error)) {
        *detail = g_strdup(error->message);
        return VMB_REASON_PARENT_DAMAGED;
    }
    guint most = options->max_chain > 0 ? options->max_chain : VMB_MAX_CHAIN;
    return length >= most ? VMB_REASON_CHAIN_LIMIT : VMB_N_REASONS;
}

/* Why no bitmap can say what changed, as far as that is plain without asking libvirt. */
static VmbReasonCode
why_no_bitmap(const VmbPlanDisk *disk, char **detail)
{
    if (!disk->info->bitmaps) {
        *detail = g_strdup(disk->info->no_bitmaps_why);
        return VMB_REASON_NO_BITMAP_SUPPORT;
    }
    if (disk->parent->foreign)
        return VMB_REASON_ADOPTED;
    if (disk->parent_disk->checkpoint == NULL)
        return VMB_REASON_CHECKPOINT_MISSING;
    if (!vmb_source_layers_same_active(disk->parent_disk->layers, disk->layers))
        return VMB_REASON_SOURCE_CHANGED;
    if (!vmb_source_layers_same_below(disk->parent_disk->layers, disk->layers))
        return VMB_REASON_LAYER_CHANGED;
    return VMB_N_REASONS;
}

/* Without a bitmap the disk is compared with the digests of its chain, or stored in full if it must
 * not be, or if they cannot be relied upon: then *@detail tells. */
static void
do_without_bitmap(const VmbBackupOptions *options, VmbPlanDisk *disk, GPtrArray *points,
                  const char *domain, VmbReasonCode reason, char **detail)
{
    g_autoptr(GError) error = NULL;
    guint length = 0;
    if (options->no_compare || disk->at_limit) {
        /* At the limit of its chain it would be read whole, and still be a full. */
        make_full(disk, reason);
    } else if (!parent_is_sound(points, disk, domain, TRUE, &length, &error)) {
        g_free(*detail);
        *detail = g_strdup(error->message);
        make_full(disk, VMB_REASON_PARENT_DAMAGED);
    } else {
        disk->method = VMB_METHOD_COMPARE;
        disk->reason = reason;
        disk->unchanged = FALSE;
    }
}

/* What is needed to look at all disks of a domain. */
typedef struct {
    const VmbBackupOptions *options;
    VmbDomain *domain;
    gboolean offline;
    const char *name;
    GPtrArray *points;
    VmbPlan *plan;
    GPtrArray *details; /* char *, one for each disk of the plan, or NULL */
} Planning;

/* Asks libvirt about one checkpoint and all disks that would start from it. */
static gboolean
validate_checkpoint(Planning *planning, const char *checkpoint, GError **error)
{
    GPtrArray *disks = planning->plan->disks;
    g_autoptr(GPtrArray) targets = g_ptr_array_new();
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(guint));
    gboolean exists = FALSE;
    for (guint i = 0; i < disks->len; i++) {
        const VmbPlanDisk *disk = disks->pdata[i];
        if (disk->method == VMB_METHOD_BITMAP &&
            g_strcmp0(disk->parent_disk->checkpoint, checkpoint) == 0) {
            g_ptr_array_add(targets, disk->info->target);
            g_array_append_val(places, i);
        }
    }
    g_autofree gboolean *usable = g_new0(gboolean, targets->len + 1);
    g_ptr_array_add(targets, NULL);
    if (!vmb_checkpoint_exists(planning->domain, checkpoint, &exists, error))
        return FALSE;
    if (exists &&
        !vmb_checkpoint_validate(planning->domain, checkpoint,
                                 (const char *const *)targets->pdata, usable, error))
        return FALSE;
    for (guint i = 0; i < places->len; i++) {
        guint place = g_array_index(places, guint, i);
        if (!usable[i])
            do_without_bitmap(planning->options, disks->pdata[place], planning->points,
                              planning->name,
                              exists ? VMB_REASON_BITMAP_UNUSABLE : VMB_REASON_CHECKPOINT_MISSING,
                              (char **)&planning->details->pdata[place]);
    }
    return TRUE;
}

static gboolean
validate_checkpoints(Planning *planning, GError **error)
{
    GPtrArray *disks = planning->plan->disks;
    g_autoptr(GHashTable) asked = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < disks->len; i++) {
        const VmbPlanDisk *disk = disks->pdata[i];
        if (disk->method == VMB_METHOD_BITMAP &&
            g_hash_table_add(asked, disk->parent_disk->checkpoint) &&
            !validate_checkpoint(planning, disk->parent_disk->checkpoint, error))
            return FALSE;
    }
    return TRUE;
}

/* Nobody has the images of a shut-off domain open, so that they themselves can be asked. */
static void
look_at_stored_bitmaps(Planning *planning)
{
    for (guint i = 0; i < planning->plan->disks->len; i++) {
        VmbPlanDisk *disk = planning->plan->disks->pdata[i];
        if (disk->method != VMB_METHOD_BITMAP)
            continue;
        const VmbDiskLayer *active = disk->info->layers->pdata[0];
        VmbBitmapState state;
        vmb_bitmap_state_read(active->path, disk->parent_disk->checkpoint, &state);
        disk->method = VMB_METHOD_OFFLINE;
        disk->clean = state.clean;
        if (state.usable)
            continue;
        g_free(planning->details->pdata[i]);
        planning->details->pdata[i] = state.why;
        do_without_bitmap(planning->options, disk, planning->points, planning->name,
                          VMB_REASON_BITMAP_UNUSABLE, (char **)&planning->details->pdata[i]);
    }
}

/* Its newest point was made while it was shut off as well, and nobody has written to it since. */
static gboolean
is_unchanged(const Planning *planning, const VmbPlanDisk *disk)
{
    VmbConsistency consistency = disk->parent->manifest->consistency;
    return planning->offline && disk->parent_disk->size == disk->info->size &&
           (consistency == VMB_CONSISTENCY_OFFLINE || consistency == VMB_CONSISTENCY_PAUSED) &&
           vmb_source_layers_unchanged(disk->parent_disk->layers, disk->layers);
}

/* Its newest point reads as something else than the disk held: it has to be read, changed or not. What cannot be
 * found out is told by the reading. */
static gboolean
shows_damage(const Planning *planning, const VmbPlanDisk *disk)
{
    gboolean seen = FALSE;
    g_autoptr(GArray) links = vmb_repo_chain(planning->points, disk->parent, disk->info->id, NULL);
    g_autoptr(GArray) known = links != NULL ? vmb_damage_known(links, disk->info->id) : NULL;
    if (known == NULL || known->len == 0)
        return known == NULL;
    g_autoptr(VmbChainFiles) files =
        vmb_chain_files_open(links, planning->name, FALSE, FALSE, NULL);
    return files == NULL ||
           !vmb_damage_is_seen(known, vmb_chain_files_chain(files), &seen, NULL) || seen;
}

/* At its limit a disk that has to be read whole begins a new chain, instead of being compared. */
static gboolean
is_full_by_limit(const VmbPlanDisk *disk, const VmbBackupOptions *options)
{
    return disk->at_limit && disk->method == VMB_METHOD_FULL && !options->no_compare &&
           disk->reason != VMB_REASON_PARENT_DAMAGED;
}

static gboolean
report_disk(const VmbPlanDisk *disk, const VmbBackupOptions *options, const char *domain,
            const char *detail, GPtrArray *reasons, GError **error)
{
    const char *target = disk->info->target;
    g_autofree char *more = detail != NULL ? g_strdup_printf(" (%s)", detail) : g_strdup("");
    if (disk->level == VMB_LEVEL_INCREMENTAL) {
        if (disk->method == VMB_METHOD_COMPARE)
            vmb_reason_add(reasons, disk->reason, target,
                           "%s: disk %s is read whole and compared: %s%s", domain, target,
                           vmb_reason_meaning(disk->reason), more);
        return TRUE;
    }
    if (options->level == VMB_WANT_INCREMENTAL)
        return vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                             "%s: disk %s cannot be backed up incrementally [%s]: %s%s Nothing "
                             "was changed; without --level incremental this disk would be stored "
                             "in full", domain, target, vmb_reason_name(disk->reason),
                             vmb_reason_meaning(disk->reason), more);
    vmb_reason_add(reasons, disk->reason, target, "%s: disk %s in full: %s%s", domain, target,
                   vmb_reason_meaning(disk->reason), more);
    if (is_full_by_limit(disk, options))
        vmb_reason_add(reasons, VMB_REASON_CHAIN_LIMIT, target,
                       "%s: disk %s is not compared, because its chain has reached its greatest "
                       "length", domain, target);
    return TRUE;
}

static void
report_renamed(const VmbPlanDisk *disk, const char *domain, GPtrArray *reasons)
{
    const char *target = disk->info->target;
    if (disk->parent_disk != NULL && strcmp(disk->parent_disk->target, target) != 0)
        vmb_reason_add(reasons, VMB_REASON_DISK_RENAMED, target,
                       "%s: disk %s is the one that was %s in its newest point", domain, target,
                       disk->parent_disk->target);
}

/* A disk that the newest point holds and the domain has no more. */
static void
report_removed(const VmbDomainInfo *info, GPtrArray *points, const char *domain,
               GPtrArray *reasons)
{
    const VmbManifest *newest = NULL;
    for (guint i = 0; i < points->len; i++)
        if (((VmbPoint *)points->pdata[i])->manifest != NULL)
            newest = ((VmbPoint *)points->pdata[i])->manifest;
    for (guint d = 0; newest != NULL && d < newest->disks->len; d++) {
        const VmbManifestDisk *disk = newest->disks->pdata[d];
        gboolean there = FALSE;
        for (guint i = 0; i < info->disks->len && !there; i++)
            there = g_strcmp0(((VmbDiskInfo *)info->disks->pdata[i])->id, disk->id) == 0;
        if (!there)
            vmb_reason_add(reasons, VMB_REASON_DISK_REMOVED, disk->target,
                           "%s: disk %s of the newest point (%s) is no longer part of the domain; "
                           "%s still holds it", domain, disk->target, disk->id, newest->id);
    }
}

/* A chain at its limit whose bitmap is good becomes a full without being read whole. */
static void
settle_limits(Planning *planning)
{
    for (guint i = 0; i < planning->plan->disks->len; i++) {
        VmbPlanDisk *disk = planning->plan->disks->pdata[i];
        g_autoptr(GError) error = NULL;
        guint length = 0;
        if (!disk->at_limit || disk->level == VMB_LEVEL_FULL)
            continue;
        if (parent_is_sound(planning->points, disk, planning->name, TRUE, &length, &error)) {
            disk->level = VMB_LEVEL_FULL;
            disk->reason = VMB_REASON_CHAIN_LIMIT;
            disk->synthetic = TRUE;
            continue;
        }
        g_free(planning->details->pdata[i]);
        planning->details->pdata[i] = g_strdup(error->message);
        make_full(disk, VMB_REASON_PARENT_DAMAGED);
    }
}

static VmbPlanDisk *
plan_disk(const Planning *planning, const VmbDiskInfo *info, char **detail)
{
    VmbPlanDisk *disk = g_new0(VmbPlanDisk, 1);
    disk->info = info;
    disk->layers = vmb_source_layers(info);
    disk->parent = vmb_plan_newest_point(planning->points, info->id, &disk->parent_disk);
    disk->level = VMB_LEVEL_INCREMENTAL;
    disk->method = VMB_METHOD_BITMAP;
    disk->reason = why_full(planning->options, disk, planning->points, planning->name, detail);
    disk->at_limit = disk->reason == VMB_REASON_CHAIN_LIMIT;
    if (disk->reason != VMB_N_REASONS && !disk->at_limit) {
        make_full(disk, disk->reason);
        return disk;
    }
    disk->reason = VMB_N_REASONS;
    if (is_unchanged(planning, disk) && !shows_damage(planning, disk)) {
        disk->method = VMB_METHOD_OFFLINE;
        disk->unchanged = TRUE;
        return disk;
    }
    VmbReasonCode reason = why_no_bitmap(disk, detail);
    if (reason != VMB_N_REASONS)
        do_without_bitmap(planning->options, disk, planning->points, planning->name, reason,
                          detail);
    return disk;
}

static gboolean
plan_disks(Planning *planning, const VmbDomainInfo *info, GPtrArray *reasons, GError **error)
{
    VmbPlan *plan = planning->plan;
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = info->disks->pdata[i];
        VmbReasonCode why = why_skipped(planning->options, disk);
        if (why != VMB_N_REASONS) {
            skip(plan, disk, why, planning->name, reasons);
            continue;
        }
        char *detail = NULL;
        g_ptr_array_add(plan->disks, plan_disk(planning, disk, &detail));
        g_ptr_array_add(planning->details, detail);
    }
    return plan->disks->len > 0 ||
           vmb_error_set(error, VMB_ERROR_DOMAIN,
                         "%s: no disk is left to back up; nothing was changed. Name one with "
                         "--disk, or exclude fewer", planning->name);
}

VmbPlan *
vmb_plan_new(const VmbBackupOptions *options, VmbDomain *domain, const VmbDomainInfo *info,
             GPtrArray *points, GPtrArray *reasons, GError **error)
{
    g_autoptr(VmbPlan) plan = g_new0(VmbPlan, 1);
    g_autoptr(GPtrArray) details = g_ptr_array_new_with_free_func(g_free);
    Planning planning = {options, domain, info->offline, vmb_domain_name(domain), points, plan, details};
    plan->disks = g_ptr_array_new_with_free_func((GDestroyNotify)plan_disk_free);
    plan->skipped = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_skipped_disk_free);
    if (!check_targets(info, options->disks, planning.name, error) ||
        !check_targets(info, options->exclude, planning.name, error) ||
        !plan_disks(&planning, info, reasons, error))
        return NULL;
    if (info->offline)
        look_at_stored_bitmaps(&planning);
    else if (!validate_checkpoints(&planning, error))
        return NULL;
    settle_limits(&planning);
    for (guint i = 0; i < plan->disks->len; i++) {
        report_renamed(plan->disks->pdata[i], planning.name, reasons);
        if (!report_disk(plan->disks->pdata[i], options, planning.name, details->pdata[i], reasons,
                         error))
            return NULL;
    }
    report_removed(info, points, planning.name, reasons);
    return g_steal_pointer(&plan);
}

gboolean
vmb_plan_give_up_bitmap(VmbPlanDisk *disk, const VmbBackupOptions *options, GPtrArray *points,
                        const char *domain, VmbReasonCode reason, const char *detail,
                        GPtrArray *reasons, GError **error)
{
    g_autofree char *more = g_strdup(detail);
    do_without_bitmap(options, disk, points, domain, reason, &more);
    return report_disk(disk, options, domain, more, reasons, error);
}

gboolean
vmb_plan_give_up_bitmaps(VmbPlan *plan, const VmbBackupOptions *options, GPtrArray *points,
                         const char *domain, GPtrArray *reasons, GError **error)
{
    for (guint i = 0; i < plan->disks->len; i++) {
        VmbPlanDisk *disk = plan->disks->pdata[i];
        if (disk->method == VMB_METHOD_BITMAP &&
            !vmb_plan_give_up_bitmap(disk, options, points, domain, VMB_REASON_BITMAP_UNUSABLE,
                                     "libvirt refuses to begin with it", reasons, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
vmb_plan_give_up_parent(VmbPlanDisk *disk, const VmbBackupOptions *options, const char *domain,
                        const char *detail, GPtrArray *reasons, GError **error)
{
    make_full(disk, VMB_REASON_PARENT_DAMAGED);
    return report_disk(disk, options, domain, detail, reasons, error);
}

/* What has no local file is told apart by the XML alone. */
static gboolean
same_image(const VmbPlanDisk *disk, const VmbDiskInfo *now)
{
    g_autoptr(GPtrArray) layers = vmb_source_layers(now);
    if (layers->len == 0 || disk->layers->len == 0)
        return layers->len == disk->layers->len;
    const VmbSourceLayer *a = disk->layers->pdata[0], *b = layers->pdata[0];
    return a->inode == 0 ? b->inode == 0 && g_strcmp0(a->path, b->path) == 0
                         : vmb_source_layers_same_active(disk->layers, layers);
}

gboolean
vmb_plan_check_images(const VmbPlan *plan, const VmbDomainInfo *now, const char *domain,
                      GError **error)
{
    for (guint i = 0; i < plan->disks->len; i++) {
        const VmbPlanDisk *disk = plan->disks->pdata[i];
        gboolean same = FALSE;
        for (guint d = 0; d < now->disks->len && !same; d++) {
            const VmbDiskInfo *info = now->disks->pdata[d];
            same = strcmp(info->target, disk->info->target) == 0 && same_image(disk, info);
        }
        if (!same)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "%s: disk %s got another image while the backup began; run the "
                                 "backup again", domain, disk->info->target);
    }
    return TRUE;
}

guint64
vmb_plan_survey_unit(const VmbDiskInfo *info)
{
    gboolean plain = info->cluster_size == VMB_BLOCK_SIZE && info->layers->len == 1;
    return plain ? 0 : MAX(info->cluster_size, VMB_BLOCK_SIZE);
}
