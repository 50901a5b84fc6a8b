/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Giving libvirt back its record of a checkpoint whose bitmaps are still in the images. */
#include "virt/checkpoint-redefine.h"
#include "virt/bitmap-disks.h"
#include "virt/bitmap-state.h"
#include "virt/call.h"
#include "virt/checkpoint-private.h"
#include "virt/reconnect.h"
#include "util/log.h"

#include <string.h>

typedef struct {
    const char *name;
    gint64 time;
    const char *const *targets;
    GPtrArray *disks;   /* VmbBitmapDisk, as they are now */
    GPtrArray *defined; /* out */
} Redefinition;

static gboolean
contains(const GPtrArray *names, const char *name)
{
    return g_ptr_array_find_with_equal_func((GPtrArray *)names, name, g_str_equal, NULL);
}

static gboolean
is_about_bitmap(const GError *error)
{
    return g_error_matches(error, VMB_ERROR, VMB_ERROR_FAILED);
}

gboolean
vmb_checkpoint_define(VmbDomain *domain, const char *name, gint64 time, const GPtrArray *targets,
                      unsigned int flags, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    g_autoptr(GString) xml = g_string_new(NULL);
    g_autofree char *head = g_markup_printf_escaped(
        "<domaincheckpoint><name>%s</name><creationTime>%" G_GINT64_FORMAT "</creationTime><disks>",
        name, time);
    g_string_append(xml, head);
    for (guint i = 0; i < targets->len; i++) {
        g_autofree char *disk =
            g_markup_printf_escaped("<disk name='%s' checkpoint='bitmap' bitmap='%s'/>",
                                    (const char *)targets->pdata[i], name);
        g_string_append(xml, disk);
    }
    g_string_append(xml, "</disks></domaincheckpoint>");
    g_autoptr(VmbVirCheckpoint) checkpoint = virDomainCheckpointCreateXML(
        vmb_domain_handle(domain), xml->str, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | flags);
    return checkpoint != NULL ||
           vmb_virt_error(error, VMB_ERROR_FAILED, "domain '%s': cannot redefine the checkpoint %s",
                          vmb_domain_name(domain), name);
}

/* Disks of the record that may stay in it. FALSE if one of them has a bitmap that is broken:
 * libvirt can delete that only as long as the record names it, so the record is left as it is. */
static gboolean
keep_recorded(const Redefinition *job, const GPtrArray *recorded, const GPtrArray *good,
              GPtrArray *kept)
{
    for (guint i = 0; i < recorded->len; i++) {
        char *target = recorded->pdata[i];
        const VmbBitmapDisk *disk = vmb_bitmap_disk_find(job->disks, target);
        if (contains(good, target))
            g_ptr_array_add(kept, g_strdup(target));
        else if (disk != NULL && vmb_bitmap_disk_has(disk, job->name) != VMB_BITMAP_ABSENT)
            return FALSE;
    }
    return TRUE;
}

/* Each further disk is tried together with those that are known to be good: a failure leaves the
 * record as it was before, and a success is all there is to do. */
static gboolean
define_with_qemu(VmbDomain *domain, const Redefinition *job, GPtrArray *set, gboolean *changed,
                 GError **error)
{
    for (gsize i = 0; job->targets[i] != NULL; i++) {
        g_autoptr(GError) local = NULL;
        if (contains(set, job->targets[i]))
            continue;
        g_ptr_array_add(set, g_strdup(job->targets[i]));
        if (vmb_checkpoint_define(domain, job->name, job->time, set,
                                  VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE, &local)) {
            *changed = TRUE;
            continue;
        }
        g_ptr_array_set_size(set, (gint)set->len - 1);
        if (!is_about_bitmap(local)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vmb_info("disk %s: %s", job->targets[i], local->message);
    }
    return TRUE;
}

/* libvirt takes the word of whoever redefines a checkpoint of a shut-off domain. */
static gboolean
define_from_images(VmbDomain *domain, const Redefinition *job, GPtrArray *set, gboolean *changed,
                   GError **error)
{
    for (gsize i = 0; job->targets[i] != NULL; i++) {
        const VmbBitmapDisk *disk = vmb_bitmap_disk_find(job->disks, job->targets[i]);
        VmbBitmapState state = {0};
        if (contains(set, job->targets[i]) || disk == NULL || disk->files->len == 0)
            continue;
        vmb_bitmap_state_read(disk->files->pdata[0], job->name, &state);
        if (state.usable) {
            g_ptr_array_add(set, g_strdup(job->targets[i]));
            *changed = TRUE;
        } else {
            vmb_info("disk %s: %s", job->targets[i], state.why != NULL ? state.why : "no bitmap");
        }
        g_free(state.why);
    }
    return !*changed || vmb_checkpoint_define(domain, job->name, job->time, set, 0, error);
}

/* Bitmaps of the record that are good. */
static GPtrArray *
good_targets(VmbDomain *domain, const Redefinition *job, const GPtrArray *recorded, gboolean active,
             GError **error)
{
    if (active)
        return vmb_checkpoint_good_targets(domain, job->name, error);
    GPtrArray *good = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < recorded->len; i++) {
        const VmbBitmapDisk *disk = vmb_bitmap_disk_find(job->disks, recorded->pdata[i]);
        VmbBitmapState state = {0};
        if (disk != NULL && disk->files->len > 0)
            vmb_bitmap_state_read(disk->files->pdata[0], job->name, &state);
        if (state.usable)
            g_ptr_array_add(good, g_strdup(recorded->pdata[i]));
        g_free(state.why);
    }
    return good;
}

/* Whether the record lacks none of the targets. */
static gboolean
is_complete(const Redefinition *job, const GPtrArray *recorded)
{
    for (gsize i = 0; job->targets[i] != NULL; i++)
        if (!contains(recorded, job->targets[i]))
            return FALSE;
    return TRUE;
}

static gboolean
look(VmbDomain *domain, Redefinition *job, gboolean active, GPtrArray *set, gboolean *todo,
     GError **error)
{
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    *todo = TRUE;
    if (!vmb_checkpoint_look_up(domain, job->name, &checkpoint, error))
        return FALSE;
    g_clear_pointer(&job->disks, g_ptr_array_unref);
    job->disks = vmb_bitmap_disks(domain, error);
    if (job->disks == NULL || checkpoint == NULL)
        return job->disks != NULL;
    g_autoptr(GPtrArray) recorded = vmb_checkpoint_targets(domain, job->name, error);
    if (recorded == NULL)
        return FALSE;
    if (is_complete(job, recorded)) {
        *todo = FALSE;
        return TRUE;
    }
    g_autoptr(GPtrArray) good = good_targets(domain, job, recorded, active, error);
    *todo = good != NULL && keep_recorded(job, recorded, good, set);
    return good != NULL;
}

static gboolean
redefine_step(VmbDomain *domain, gpointer data, GError **error)
{
    Redefinition *job = data;
    VmbDomainState state;
    g_autoptr(GPtrArray) set = g_ptr_array_new_with_free_func(g_free);
    gboolean todo = FALSE, changed = FALSE;
    if (!vmb_domain_state(domain, &state, error) ||
        !look(domain, job, state.active, set, &todo, error))
        return FALSE;
    if (!todo)
        return TRUE;
    if (!(state.active ? define_with_qemu(domain, job, set, &changed, error)
                       : define_from_images(domain, job, set, &changed, error)))
        return FALSE;
    if (changed)
        job->defined = g_steal_pointer(&set);
    return TRUE;
}

gboolean
vmb_checkpoint_redefine(VmbDomain *domain, const char *name, gint64 time,
                        const char *const *targets, GPtrArray **defined, GError **error)
{
    Redefinition job = {.name = name, .time = time, .targets = targets};
    gboolean done = vmb_virt_reconnecting(domain, redefine_step, &job, error);
    g_clear_pointer(&job.disks, g_ptr_array_unref);
    *defined = job.defined;
    return done;
}
