/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checkpoints that libvirt has no record of, although their bitmaps are in the images. */
#include "job/redefine.h"
#include "job/plan.h"
#include "util/fault.h"
#include "virt/checkpoint-redefine.h"
#include "virt/checkpoint.h"

#define NS_PER_S G_GINT64_CONSTANT(1000000000)

static gboolean
may_have_bitmap(const VmbDiskInfo *disk)
{
    return disk->has_medium && !disk->readonly && disk->bitmaps;
}

/* The checkpoint from which the disk's next increment would start, if it is this repository's. */
static const char *
wanted_checkpoint(const char *repository_id, const VmbDiskInfo *disk, GPtrArray *points)
{
    const VmbManifestDisk *entry = NULL;
    if (!may_have_bitmap(disk))
        return NULL;
    const VmbPoint *point = vmb_plan_newest_point(points, disk->id, &entry);
    if (point == NULL || point->foreign || entry->checkpoint == NULL ||
        !vmb_checkpoint_is_ours(entry->checkpoint, repository_id))
        return NULL;
    return entry->checkpoint;
}

/* The checkpoints that are needed, each once; borrowed. */
static GPtrArray *
wanted_checkpoints(const char *repository_id, const VmbDomainInfo *info, GPtrArray *points)
{
    GPtrArray *names = g_ptr_array_new();
    for (guint i = 0; i < info->disks->len; i++) {
        const char *name = wanted_checkpoint(repository_id, info->disks->pdata[i], points);
        if (name != NULL && !g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL))
            g_ptr_array_add(names, (gpointer)name);
    }
    return names;
}

/* Did any point make this checkpoint with this disk? *@time_ns: when. */
static gboolean
made_with(GPtrArray *points, const char *checkpoint, const char *disk_id, gint64 *time_ns)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        const VmbManifestDisk *entry =
            point->manifest != NULL ? vmb_manifest_find_disk(point->manifest, disk_id) : NULL;
        if (entry == NULL || g_strcmp0(entry->checkpoint, checkpoint) != 0)
            continue;
        *time_ns = point->manifest->time_ns;
        return TRUE;
    }
    return FALSE;
}

/* All disks that may hold a bitmap of it, not only those that still need it: what the record does
 * not name could never be deleted by libvirt. NULL-terminated, borrowed. */
static GPtrArray *
targets_of(const VmbDomainInfo *info, GPtrArray *points, const char *checkpoint, gint64 *time_ns)
{
    GPtrArray *targets = g_ptr_array_new();
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = info->disks->pdata[i];
        if (may_have_bitmap(disk) && made_with(points, checkpoint, disk->id, time_ns))
            g_ptr_array_add(targets, disk->target);
    }
    g_ptr_array_add(targets, NULL);
    return targets;
}

static gboolean
redefine(VmbDomain *domain, const VmbDomainInfo *info, GPtrArray *points, const char *name,
         GPtrArray *reasons, GError **error)
{
    gint64 time_ns = 0;
    GPtrArray *defined = NULL;
    g_autoptr(GPtrArray) targets = targets_of(info, points, name, &time_ns);
    if (!vmb_checkpoint_redefine(domain, name, time_ns / NS_PER_S,
                                 (const char *const *)targets->pdata, &defined, error))
        return FALSE;
    if (defined == NULL)
        return TRUE;
    g_ptr_array_add(defined, NULL);
    g_autofree char *list = g_strjoinv(", ", (char **)defined->pdata);
    g_ptr_array_unref(defined);
    vmb_reason_add(reasons, VMB_REASON_CHECKPOINT_REDEFINED, NULL,
                   "%s: libvirt had no whole record of the checkpoint %s; it is defined again, for "
                   "%s",
                   vmb_domain_name(domain), name, list);
    return vmb_fault_point("checkpoint-redefined", error);
}

gboolean
vmb_redefine_checkpoints(const char *repository_id, VmbDomain *domain, const VmbDomainInfo *info,
                         GPtrArray *points, GPtrArray *reasons, GError **error)
{
    g_autoptr(GPtrArray) names = wanted_checkpoints(repository_id, info, points);
    for (guint i = 0; i < names->len; i++)
        if (!redefine(domain, info, points, names->pdata[i], reasons, error))
            return FALSE;
    return TRUE;
}

GPtrArray *
vmb_redefine_missing(const char *repository_id, const VmbDomainInfo *info, GPtrArray *points,
                     const GPtrArray *known)
{
    g_autoptr(GPtrArray) names = wanted_checkpoints(repository_id, info, points);
    GPtrArray *missing = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < names->len; i++)
        if (!g_ptr_array_find_with_equal_func((GPtrArray *)known, names->pdata[i], g_str_equal,
                                              NULL))
            g_ptr_array_add(missing, g_strdup(names->pdata[i]));
    return missing;
}
