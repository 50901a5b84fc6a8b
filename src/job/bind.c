/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which disk of the domain is which disk of the repository. */
#include "job/bind.h"
#include "job/source-layers.h"

/* A disk as the points know it. */
typedef struct {
    const VmbManifestDisk *disk; /* its newest entry */
    gboolean in_newest;          /* which is in the newest point */
    gboolean taken;
} Known;

static gboolean
holds(const GArray *known, const char *id)
{
    for (guint i = 0; i < known->len; i++)
        if (g_strcmp0(g_array_index(known, Known, i).disk->id, id) == 0)
            return TRUE;
    return FALSE;
}

static GArray *
known_disks(const GPtrArray *points)
{
    GArray *known = g_array_new(FALSE, FALSE, sizeof(Known));
    gboolean newest = TRUE;
    for (guint i = points->len; i-- > 0;) {
        const VmbManifest *manifest = ((VmbPoint *)points->pdata[i])->manifest;
        if (manifest == NULL)
            continue;
        for (guint d = 0; d < manifest->disks->len; d++) {
            Known entry = {.disk = manifest->disks->pdata[d], .in_newest = newest};
            if (!holds(known, entry.disk->id))
                g_array_append_val(known, entry);
        }
        newest = FALSE;
    }
    return known;
}

static gboolean
has_own_identity(const VmbDiskInfo *disk)
{
    return !g_str_has_prefix(disk->id, "target:");
}

typedef gboolean (*Fits)(const VmbDiskInfo *disk, const GPtrArray *layers, const Known *known);

static gboolean
fits_identity(const VmbDiskInfo *disk, const GPtrArray *layers, const Known *known)
{
    return has_own_identity(disk) && g_strcmp0(disk->id, known->disk->id) == 0;
}

/* Numbers of files are used again: under another path, one must have been a disk at the last backup. */
static gboolean
fits_source(const VmbDiskInfo *disk, const GPtrArray *layers, const Known *known)
{
    const GPtrArray *before = known->disk->layers;
    if (!vmb_source_layers_same_active(before, layers))
        return FALSE;
    const VmbSourceLayer *then = before->pdata[0], *now = layers->pdata[0];
    return known->in_newest || g_strcmp0(then->path, now->path) == 0;
}

static gboolean
fits_target(const VmbDiskInfo *disk, const GPtrArray *layers, const Known *known)
{
    return !has_own_identity(disk) && g_str_has_prefix(known->disk->id, "target:") &&
           g_strcmp0(disk->target, known->disk->target) == 0;
}

static void
set_id(VmbDiskInfo *disk, const char *id)
{
    char *copy = g_strdup(id);
    g_free(disk->id);
    disk->id = copy;
}

static gboolean
bind_disk(VmbDiskInfo *disk, const GPtrArray *layers, GArray *known, Fits fits)
{
    for (guint i = 0; i < known->len; i++) {
        Known *entry = &g_array_index(known, Known, i);
        if (entry->taken || !fits(disk, layers, entry))
            continue;
        entry->taken = TRUE;
        set_id(disk, entry->disk->id);
        return TRUE;
    }
    return FALSE;
}

static gboolean
is_used(const VmbDomainInfo *info, const GArray *known, const VmbDiskInfo *self, const char *id)
{
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *other = info->disks->pdata[i];
        if (other != self && g_strcmp0(other->id, id) == 0)
            return TRUE;
    }
    return holds(known, id);
}

static void
name_anew(const VmbDomainInfo *info, const GArray *known, VmbDiskInfo *disk)
{
    g_autofree char *base = has_own_identity(disk) ? g_strdup(disk->id)
                                                   : g_strconcat("target:", disk->target, NULL);
    g_autofree char *id = g_strdup(base);
    for (guint n = 2; is_used(info, known, disk, id); n++) {
        g_free(id);
        id = g_strdup_printf("%s~%u", base, n);
    }
    set_id(disk, id);
}

void
vmb_bind_disks(VmbDomainInfo *info, const GPtrArray *points)
{
    static const Fits rules[] = {fits_identity, fits_source, fits_target};
    g_autoptr(GArray) known = known_disks(points);
    g_autoptr(GPtrArray) layers = g_ptr_array_new_with_free_func((GDestroyNotify)g_ptr_array_unref);
    g_autofree gboolean *bound = g_new0(gboolean, info->disks->len + 1);
    /* Drives for media are in no point; one may have the target that a disk had. */
    g_autofree gboolean *never = g_new0(gboolean, info->disks->len + 1);
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = info->disks->pdata[i];
        g_ptr_array_add(layers, vmb_source_layers(disk));
        never[i] = disk->device == VMB_DEVICE_CDROM || disk->device == VMB_DEVICE_FLOPPY;
    }
    for (guint r = 0; r < G_N_ELEMENTS(rules); r++)
        for (guint i = 0; i < info->disks->len; i++)
            if (!bound[i] && !never[i])
                bound[i] = bind_disk(info->disks->pdata[i], layers->pdata[i], known, rules[r]);
    for (guint i = 0; i < info->disks->len; i++)
        if (!bound[i])
            name_anew(info, known, info->disks->pdata[i]);
}
