/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Deleting our checkpoints, also where record and bitmaps no longer belong together. */
#include "virt/bitmap-disks.h"
#include "virt/call.h"
#include "virt/checkpoint-private.h"
#include "virt/image-bitmaps.h"
#include "virt/lifecycle.h"
#include "virt/reconnect.h"
#include "util/fault.h"
#include "util/log.h"

#include <string.h>

typedef struct {
    const char *name;
    gboolean purge; /* look for bitmaps without record as well */
    gboolean found;
    GPtrArray
        *targets; /* disks of a record that is being taken apart, in case the daemon restarts */
} Deletion;

static gboolean
contains(const GPtrArray *names, const char *name)
{
    return g_ptr_array_find_with_equal_func((GPtrArray *)names, name, g_str_equal, NULL);
}

/* ---- single steps ---- */

static gboolean
redefine(VmbDomain *domain, const char *name, const GPtrArray *targets, unsigned int flags,
         GError **error)
{
    return vmb_checkpoint_define(domain, name, g_get_real_time() / G_USEC_PER_SEC, targets, flags,
                                 error);
}

static gboolean
redefine_one(VmbDomain *domain, const char *name, const char *target, unsigned int flags,
             GError **error)
{
    g_autoptr(GPtrArray) targets = g_ptr_array_new();
    g_ptr_array_add(targets, (gpointer)target);
    return redefine(domain, name, targets, flags, error);
}

static gboolean
delete_record(VmbDomain *domain, const char *name, unsigned int flags, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    if (!vmb_checkpoint_look_up(domain, name, &checkpoint, error))
        return FALSE;
    if (checkpoint == NULL || virDomainCheckpointDelete(checkpoint, flags) == 0)
        return TRUE;
    return vmb_virt_error(error, VMB_ERROR_FAILED, "domain '%s': cannot delete the checkpoint %s",
                          vmb_domain_name(domain), name);
}

/* A failure that says something of this bitmap, and not of libvirt as a whole. */
static gboolean
is_about_bitmap(const GError *error)
{
    return g_error_matches(error, VMB_ERROR, VMB_ERROR_FAILED);
}

/* ---- an active domain ---- */

/* Sorts the disks of a record: those whose bitmap is there, by QEMU or by the image's directory
 * (which lists those that QEMU found broken as well), and those of which nobody can tell. */
static gboolean
sort_targets(VmbDomain *domain, const char *name, const GPtrArray *targets, GPtrArray *there,
             GPtrArray *unknown, GError **error)
{
    g_autoptr(GPtrArray) good = vmb_checkpoint_good_targets(domain, name, error);
    g_autoptr(GPtrArray) disks = good != NULL ? vmb_bitmap_disks(domain, error) : NULL;
    if (disks == NULL)
        return FALSE;
    for (guint i = 0; i < targets->len; i++) {
        char *target = targets->pdata[i];
        const VmbBitmapDisk *disk = vmb_bitmap_disk_find(disks, target);
        if (disk == NULL)
            continue; /* detached, with whatever its image holds */
        VmbBitmapPresence presence =
            contains(good, target) ? VMB_BITMAP_PRESENT : vmb_bitmap_disk_has(disk, name);
        if (presence == VMB_BITMAP_PRESENT)
            g_ptr_array_add(there, target);
        else if (presence == VMB_BITMAP_UNKNOWN)
            g_ptr_array_add(unknown, target);
    }
    return TRUE;
}

/* Reduces the record to @targets and deletes it with their bitmaps, all or none. */
static gboolean
delete_reduced(VmbDomain *domain, const char *name, const GPtrArray *targets, GError **error)
{
    if (targets->len == 0)
        return delete_record(domain, name, VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY, error);
    return redefine(domain, name, targets, 0, error) &&
           vmb_fault_point("checkpoint-taken-apart", error) &&
           delete_record(domain, name, 0, error);
}

/* A bitmap that is missing on one disk makes libvirt refuse the whole deletion: the record is made
 * to name only what is there. Where nobody can tell, each disk is tried alone. */
static gboolean
take_apart(VmbDomain *domain, Deletion *deletion, GError **error)
{
    const char *name = deletion->name;
    g_autoptr(GPtrArray) there = g_ptr_array_new();
    g_autoptr(GPtrArray) unknown = g_ptr_array_new();
    if (deletion->targets == NULL)
        deletion->targets = vmb_checkpoint_targets(domain, name, error);
    if (deletion->targets == NULL ||
        !sort_targets(domain, name, deletion->targets, there, unknown, error))
        return FALSE;
    for (guint i = 0; i < unknown->len; i++) {
        g_autoptr(GError) local = NULL;
        const char *target = unknown->pdata[i];
        if (redefine_one(domain, name, target, 0, &local) && delete_record(domain, name, 0, &local))
            continue;
        if (!is_about_bitmap(local)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vmb_debug("disk %s: %s", target, local->message);
    }
    return delete_reduced(domain, name, there, error);
}

/* Bitmaps without record: each is given one, by which libvirt then deletes it. */
static gboolean
delete_strays(VmbDomain *domain, Deletion *deletion, GError **error)
{
    const char *name = deletion->name;
    g_autoptr(GPtrArray) disks = vmb_bitmap_disks(domain, error);
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const VmbBitmapDisk *disk = disks->pdata[i];
        g_autoptr(GError) local = NULL;
        gboolean stored = vmb_bitmap_disk_has(disk, name) == VMB_BITMAP_PRESENT;
        unsigned int flags = stored ? 0 : VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE;
        if (redefine_one(domain, name, disk->target, flags, &local)) {
            deletion->found = TRUE;
            if (!vmb_fault_point("checkpoint-taken-apart", error) ||
                !delete_record(domain, name, 0, error))
                return FALSE;
        } else if (stored || vmb_virt_error_code() != VIR_ERR_CHECKPOINT_INCONSISTENT) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    return disks != NULL;
}

static gboolean
delete_active(VmbDomain *domain, Deletion *deletion, gboolean exists, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (deletion->targets != NULL)
        return (exists || redefine(domain, deletion->name, deletion->targets, 0, error)) &&
               take_apart(domain, deletion, error);
    if (!exists || delete_record(domain, deletion->name, 0, &local))
        return TRUE;
    if (!is_about_bitmap(local)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    vmb_debug("%s; taking it apart", local->message);
    return take_apart(domain, deletion, error);
}

/* ---- a shut-off domain ---- */

static gboolean
remove_stored(const VmbBitmapDisk *disk, const char *name, gboolean *found, GError **error)
{
    for (guint i = 0; i < disk->files->len; i++) {
        const char *file = disk->files->pdata[i];
        g_autoptr(GPtrArray) bitmaps = vmb_image_bitmaps_read(file, error);
        if (bitmaps == NULL)
            return FALSE;
        if (!vmb_image_bitmaps_have(bitmaps, name))
            continue;
        *found = TRUE;
        if (!vmb_image_bitmap_remove(file, name, error) ||
            !vmb_fault_point("bitmap-removed", error))
            return FALSE;
    }
    return TRUE;
}

/* Storage that hosts share may know no locks between them. */
static gboolean
check_not_elsewhere(VmbDomain *domain, const char *name, GError **error)
{
    VmbShutOff how;
    if (!vmb_shut_off_read(domain, &how, error))
        return FALSE;
    return !how.migrated ||
           vmb_error_set(
               error, VMB_ERROR_DOMAIN,
               "domain '%s' has migrated to another host, where its images may be in use, so "
               "the bitmaps of its checkpoint %s are left alone; release it there, or undefine "
               "it here with --checkpoints-metadata",
               vmb_domain_name(domain), name);
}

/* The images first: as long as one of them has its bitmap, the record names it. */
static gboolean
delete_shut_off(VmbDomain *domain, Deletion *deletion, gboolean exists, GError **error)
{
    const char *name = deletion->name;
    if (!check_not_elsewhere(domain, name, error))
        return FALSE;
    g_autoptr(GPtrArray) recorded =
        exists ? vmb_checkpoint_targets(domain, name, error) : g_ptr_array_new();
    g_autoptr(GPtrArray) disks = recorded != NULL ? vmb_bitmap_disks(domain, error) : NULL;
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const VmbBitmapDisk *disk = disks->pdata[i];
        g_autoptr(GError) local = NULL;
        gboolean wanted = contains(recorded, disk->target);
        if (!wanted && !deletion->purge)
            continue;
        if (disk->files->len == 0 && wanted)
            vmb_error_set(&local, VMB_ERROR_DOMAIN, "its image cannot be reached from here");
        if (local == NULL && remove_stored(disk, name, &deletion->found, &local))
            continue;
        return vmb_error_set(error, VMB_ERROR_DOMAIN,
                             "domain '%s' is shut off, and the bitmap of the checkpoint %s on disk "
                             "%s cannot be removed now (%s); that is tried again by the next run",
                             vmb_domain_name(domain), name, disk->target, local->message);
    }
    return disks != NULL &&
           (!exists ||
            delete_record(domain, name, VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY, error));
}

/* ---- both ---- */

static gboolean
delete_step(VmbDomain *domain, gpointer data, GError **error)
{
    Deletion *deletion = data;
    VmbDomainState state;
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    if (!vmb_checkpoint_look_up(domain, deletion->name, &checkpoint, error) ||
        !vmb_domain_state(domain, &state, error))
        return FALSE;
    gboolean exists = checkpoint != NULL;
    deletion->found |= exists;
    if (!exists && !deletion->purge && deletion->targets == NULL)
        return TRUE;
    if (!(state.active ? delete_active(domain, deletion, exists, error)
                       : delete_shut_off(domain, deletion, exists, error)))
        return FALSE;
    return !deletion->purge || !state.active || delete_strays(domain, deletion, error);
}

static gboolean delete (VmbDomain *domain, Deletion *deletion, GError **error)
{
    gboolean deleted = vmb_virt_reconnecting(domain, delete_step, deletion, error);
    g_clear_pointer(&deletion->targets, g_ptr_array_unref);
    return deleted && vmb_fault_point("checkpoint-deleted", error);
}

gboolean
vmb_checkpoint_delete(VmbDomain *domain, const char *name, GError **error)
{
    Deletion deletion = {.name = name};
    return delete (domain, &deletion, error);
}

gboolean
vmb_checkpoint_purge(VmbDomain *domain, const char *name, gboolean *found, GError **error)
{
    Deletion deletion = {.name = name, .purge = TRUE};
    gboolean deleted = delete (domain, &deletion, error);
    if (found != NULL)
        *found = deletion.found;
    return deleted;
}

GPtrArray *
vmb_checkpoint_stored_bitmaps(VmbDomain *domain, GPtrArray **unread, GError **error)
{
    g_autoptr(GPtrArray) disks = vmb_bitmap_disks(domain, error);
    if (disks == NULL)
        return NULL;
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    *unread = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < disks->len; i++) {
        const VmbBitmapDisk *disk = disks->pdata[i];
        gboolean read = disk->files->len > 0;
        for (guint f = 0; f < disk->files->len; f++) {
            g_autoptr(GPtrArray) bitmaps = vmb_image_bitmaps_read(disk->files->pdata[f], NULL);
            read &= bitmaps != NULL;
            for (guint b = 0; bitmaps != NULL && b < bitmaps->len; b++) {
                const char *name = ((VmbImageBitmap *)bitmaps->pdata[b])->name;
                if (!contains(names, name))
                    g_ptr_array_add(names, g_strdup(name));
            }
        }
        if (!read)
            g_ptr_array_add(*unread, g_strdup(disk->target));
    }
    return names;
}
