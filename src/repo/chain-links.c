/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The chain of one disk through the manifests, from a point down to its full. */
#include "repo/repository-private.h"
#include "util/error.h"

#include <string.h>

static VmbPoint *
find_id(const GPtrArray *points, const char *id)
{
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, id) == 0)
            return points->pdata[i];
    return NULL;
}

/* The newest point below @sequence that holds the disk and is itself not damaged. */
static const char *
last_before(const GPtrArray *points, const char *disk_id, guint64 sequence)
{
    const char *id = NULL;
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL && point->manifest->sequence < sequence &&
            vmb_manifest_find_disk(point->manifest, disk_id) != NULL)
            id = point->id;
    }
    return id;
}

static const char *
full_after(const GPtrArray *points, const char *disk_id, guint64 sequence)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest == NULL || point->manifest->sequence <= sequence)
            continue;
        const VmbManifestDisk *disk = vmb_manifest_find_disk(point->manifest, disk_id);
        if (disk != NULL && disk->level == VMB_LEVEL_FULL)
            return point->id;
    }
    return NULL;
}

/* Which points of the disk a break just below @link leaves alone. The manifests tell no more of
 * those before it than that they do not need what is broken. */
static char *
tell_intact(const GPtrArray *points, const char *disk_id, const VmbChainLink *link)
{
    guint64 sequence = link->point->manifest->sequence;
    const VmbPoint *parent =
        link->disk->parent != NULL ? find_id(points, link->disk->parent) : NULL;
    guint64 below = parent != NULL && parent->manifest != NULL
                        ? MIN(parent->manifest->sequence, sequence)
                        : sequence;
    const char *before = last_before(points, disk_id, below);
    const char *after = full_after(points, disk_id, sequence);
    if (before != NULL && after != NULL)
        return g_strdup_printf("points up to %s and from the full %s on do not need it", before,
                               after);
    if (before != NULL)
        return g_strdup_printf("points up to %s do not need it", before);
    if (after != NULL)
        return g_strdup_printf("points from the full %s on do not need it", after);
    return g_strdup("no other point holds this disk without it");
}

static gboolean G_GNUC_PRINTF(4, 5) broken(const GPtrArray *points, const VmbChainLink *link,
                                           GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *name = vmb_point_name(link->point);
    g_autofree char *intact = tell_intact(points, link->disk->id, link);
    return vmb_error_set(
        error, VMB_ERROR_DAMAGE,
        "%s disk %s cannot be read: %s; %s. `vmbackup backup --level full %s` begins a new "
        "chain",
        name, link->disk->target, message, intact, link->point->manifest->domain);
}

static gboolean
follow(const GPtrArray *points, VmbChainLink *link, GError **error)
{
    const char *id = link->disk->parent;
    VmbPoint *parent = find_id(points, id);
    if (parent == NULL)
        return broken(points, link, error, "its parent %s is missing", id);
    if (parent->manifest == NULL)
        return broken(points, link, error, "its parent %s is damaged (%s)", id,
                      parent->damage->message);
    /* Ever lower numbers also mean that no loop is possible. */
    if (parent->manifest->sequence >= link->point->manifest->sequence)
        return broken(points, link, error, "its parent %s is not older", id);
    const VmbManifestDisk *disk = vmb_manifest_find_disk(parent->manifest, link->disk->id);
    if (disk == NULL)
        return broken(points, link, error, "its parent %s does not hold the disk '%s'", id,
                      link->disk->id);
    if (link->disk->base_checkpoint != NULL &&
        g_strcmp0(link->disk->base_checkpoint, disk->checkpoint) != 0)
        return broken(points, link, error,
                      "it was made since the checkpoint %s, but its parent %s has %s",
                      link->disk->base_checkpoint, id,
                      disk->checkpoint != NULL ? disk->checkpoint : "none");
    link->point = parent;
    link->disk = disk;
    return TRUE;
}

GArray *
vmb_repo_chain(GPtrArray *points, VmbPoint *point, const char *disk_id, GError **error)
{
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(VmbChainLink));
    g_autofree char *name = vmb_point_name(point);
    if (point->manifest == NULL) {
        g_propagate_error(error, g_error_copy(point->damage));
        return NULL;
    }
    VmbChainLink link = {point, vmb_manifest_find_disk(point->manifest, disk_id)};
    if (link.disk == NULL) {
        vmb_error_set(error, VMB_ERROR_DOMAIN,
                      "%s holds no disk '%s'; `vmbackup show %s` lists its disks", name, disk_id,
                      name);
        return NULL;
    }
    g_array_append_val(links, link);
    while (link.disk->level != VMB_LEVEL_FULL) {
        if (!follow(points, &link, error))
            return NULL;
        g_array_append_val(links, link);
    }
    return g_steal_pointer(&links);
}
