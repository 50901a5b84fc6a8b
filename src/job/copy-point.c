/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copying one point: its disks on top of what is there already, its other files, its protection and tags. */
#include "job/copy-private.h"
#include "image/overlap.h"
#include "image/qcow2-format.h"
#include "job/merge.h"
#include "repo/layout.h"
#include "repo/pins.h"
#include "repo/transaction.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>

typedef struct {
    const VmbCopyPoint *copy;
    GPtrArray *bases; /* VmbCopyBase, one for each disk */
} Bases;

/* ---- what is built upon ---- */

static gboolean
find_bases(GPtrArray *to_points, GPtrArray *wanted, gpointer user, GError **error)
{
    Bases *bases = user;
    const VmbCopyPoint *copy = bases->copy;
    const GPtrArray *disks = copy->point->manifest->disks;
    for (guint i = 0; i < disks->len; i++) {
        const VmbManifestDisk *disk = disks->pdata[i];
        GArray *links = vmb_repo_chain(copy->from_points, copy->point, disk->id, error);
        if (links == NULL)
            return FALSE;
        VmbCopyBase *base = vmb_copy_base_find(links, to_points, copy->max_chain);
        g_ptr_array_add(bases->bases, base);
        if (base->parent != NULL)
            g_ptr_array_add(wanted, base->parent);
    }
    return TRUE;
}

static gboolean
check_bases(const Bases *bases, GError **error)
{
    const VmbCopyPoint *copy = bases->copy;
    for (guint i = 0; i < bases->bases->len; i++) {
        VmbCopyBase *base = bases->bases->pdata[i];
        if (!vmb_copy_base_check(base, copy->name, copy->cancel, error))
            return FALSE;
        if (base->why != NULL)
            vmb_notice("%s/%s disk %s is copied as a full: %s", copy->name, copy->point->id,
                       g_array_index(base->links, VmbChainLink, 0).disk->target, base->why);
    }
    return TRUE;
}

/* What is certain to be written; a merged disk may need more. */
static gboolean
check_space(const Bases *bases, GError **error)
{
    const VmbCopyPoint *copy = bases->copy;
    guint64 need = 0, available = 0;
    for (guint i = 0; i < bases->bases->len; i++) {
        const VmbCopyBase *base = bases->bases->pdata[i];
        const VmbManifestDisk *disk = g_array_index(base->links, VmbChainLink, 0).disk;
        need += disk->digests_size;
        /* The filesystem may compress what we did not. */
        need += disk->compressed ? disk->stored_bytes : 0;
    }
    for (guint i = 0; i < copy->point->manifest->files->len; i++)
        need += ((VmbManifestFile *)copy->point->manifest->files->pdata[i])->size;
    if (!vmb_fs_free_space_fd(vmb_repo_domain_fd(copy->to), copy->to_path, &available, error))
        return FALSE;
    if (available >= need)
        return TRUE;
    g_autofree char *want = vmb_units_format_size(need);
    g_autofree char *have = vmb_units_format_size(available);
    return vmb_error_set(error, VMB_ERROR_NO_SPACE,
                         "%s has too little space: it needs %s, and %s are free there", copy->to_path,
                         want, have);
}

/* ---- a disk ---- */

static void
set_text(char **text, const char *value)
{
    char *copy = g_strdup(value);
    g_free(*text);
    *text = copy;
}

/* The first of the merged layers that no bitmap, but a comparison tells from the one below; NULL: none. */
static const VmbManifestDisk *
find_compared(const VmbCopyBase *base)
{
    for (guint i = 0; i < base->n_layers; i++) {
        const VmbManifestDisk *disk = g_array_index(base->links, VmbChainLink, i).disk;
        if (disk->base_checkpoint == NULL)
            return disk;
    }
    return NULL;
}

static void
become_full(VmbManifestDisk *entry, const VmbCopyBase *base)
{
    const VmbManifestDisk *oldest =
        g_array_index(base->links, VmbChainLink, base->n_layers - 1).disk;
    entry->level = VMB_LEVEL_FULL;
    entry->method = oldest->method;
    entry->reason = base->at_limit ? VMB_REASON_CHAIN_LIMIT : oldest->reason;
    set_text(&entry->parent, NULL);
    set_text(&entry->base_checkpoint, NULL);
    set_text(&entry->synthetic_from, oldest->synthetic_from);
}

static void
become_incremental(VmbManifestDisk *entry, const VmbCopyBase *base)
{
    const VmbManifestDisk *compared = find_compared(base);
    entry->level = VMB_LEVEL_INCREMENTAL;
    set_text(&entry->parent, base->parent->id);
    /* It holds all that has changed since then, and perhaps more. */
    set_text(&entry->base_checkpoint,
             compared == NULL ? base->parent_disk->checkpoint : NULL);
    if (entry->base_checkpoint == NULL && entry->method == VMB_METHOD_BITMAP) {
        entry->method = VMB_METHOD_COMPARE;
        entry->reason = compared != NULL ? compared->reason : entry->reason;
    }
}

static void
set_relations(VmbManifestDisk *entry, const VmbCopyBase *base)
{
    entry->replaced_bytes = VMB_BYTES_UNKNOWN;
    g_clear_pointer(&entry->replaced_by, g_free);
    for (guint i = 1; i < base->n_layers; i++)
        entry->folded += g_array_index(base->links, VmbChainLink, i).disk->folded + 1;
    if (base->parent == NULL)
        become_full(entry, base);
    else
        become_incremental(entry, base);
}

/* What dropping the parent will free there; that it cannot be found out is no reason to stop. */
static void
note_overlap(VmbManifestDisk *entry, const VmbCopyBase *base, int image)
{
    g_autoptr(GError) error = NULL;
    guint64 bytes = 0;
    g_auto(VmbFd) fd = base->parent != NULL
                           ? vmb_point_open_file(base->parent, base->parent_disk->image, &error)
                           : -1;
    g_autoptr(VmbQcow2Reader) below =
        fd >= 0 ? vmb_qcow2_reader_open(fd, vmb_round_up(base->parent_disk->size, VMB_QCOW2_SECTOR),
                                        base->parent->id, &error)
                : NULL;
    g_autoptr(VmbQcow2Reader) above =
        below != NULL ? vmb_qcow2_reader_open(image, vmb_round_up(entry->size, VMB_QCOW2_SECTOR),
                                              entry->target, &error)
                      : NULL;
    if (above != NULL && vmb_overlap_bytes(above, below, &bytes, &error))
        entry->replaced_bytes = bytes;
}

static gboolean
copy_disk(const VmbCopyPoint *copy, const VmbCopyBase *base, VmbTransaction *transaction,
          VmbManifestDisk *entry, VmbProgress *progress, GError **error)
{
    g_autofree char *backing =
        base->parent != NULL
            ? vmb_layout_backing_file(base->parent->id, base->parent_disk->image)
            : NULL;
    g_auto(VmbFd) image = vmb_transaction_create(transaction, entry->image, error);
    g_auto(VmbFd) digests =
        image >= 0 ? vmb_transaction_create(transaction, entry->digests, error) : -1;
    if (digests < 0)
        return FALSE;
    VmbMerge merge = {.links = base->links,
                      .n_layers = base->n_layers,
                      .domain = copy->name,
                      .backing_file = backing,
                      .image_fd = image,
                      .digests_fd = digests,
                      .cancel = copy->cancel,
                      .progress = progress};
    if (!vmb_merge_layers(&merge, entry, NULL, error))
        return FALSE;
    set_relations(entry, base);
    note_overlap(entry, base, image);
    return vmb_fault_point("copy-disk-written", error);
}

/* ---- what else a point has ---- */

static gboolean
copy_files(const VmbCopyPoint *copy, VmbTransaction *transaction, VmbManifest *manifest,
           GError **error)
{
    const GPtrArray *files = copy->point->manifest->files;
    g_ptr_array_set_size(manifest->files, 0);
    for (guint i = 0; i < files->len; i++) {
        const VmbManifestFile *file = files->pdata[i];
        g_auto(VmbFd) fd = vmb_point_open_file(copy->point, file->name, error);
        if (fd < 0 || !vmb_transaction_copy_file(transaction, manifest, file->name, file->role,
                                                 file->origin, fd, error))
            return FALSE;
        const VmbManifestFile *made = manifest->files->pdata[i];
        if (made->size != file->size ||
            memcmp(made->digest, file->digest, VMB_DIGEST_SIZE) != 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s/%s: %s differs from its digest; the point is not copied",
                                 copy->name, copy->point->id, file->name);
    }
    return TRUE;
}

/* Into the point in the making, so that it is never there without them. */
static gboolean
copy_marks(const VmbCopyPoint *copy, VmbTransaction *transaction, GError **error)
{
    VmbPointState *to = vmb_transaction_state(transaction);
    g_auto(VmbPointState) from = {0};
    g_autoptr(GError) local = NULL;
    if (!vmb_point_state_read(copy->point, &from, &local)) {
        if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vmb_warning("%s. Nobody knows whether the point is protected, so the copy is",
                    local->message);
        to->is_protected = TRUE;
        return TRUE;
    }
    to->is_protected = from.is_protected;
    for (guint i = 0; from.tags != NULL && i < from.tags->len; i++)
        vmb_point_state_add_tag(to, from.tags->pdata[i]);
    return TRUE;
}

/* ---- the whole ---- */

static VmbManifest *
copy_manifest(const VmbManifest *manifest, GError **error)
{
    g_autofree char *text = vmb_manifest_serialise(manifest);
    return vmb_manifest_parse(text, strlen(text), error);
}

static void
set_level(VmbManifest *manifest)
{
    manifest->level = VMB_LEVEL_FULL;
    for (guint i = 0; i < manifest->disks->len; i++)
        if (((VmbManifestDisk *)manifest->disks->pdata[i])->level == VMB_LEVEL_INCREMENTAL)
            manifest->level = VMB_LEVEL_INCREMENTAL;
}

static gboolean
copy_disks(const Bases *bases, VmbTransaction *transaction, VmbManifest *manifest,
           VmbProgress *progress, GError **error)
{
    for (guint i = 0; i < bases->bases->len; i++) {
        const VmbCopyBase *base = bases->bases->pdata[i];
        for (guint n = 0; n < base->n_layers; n++) {
            const VmbManifestDisk *disk = g_array_index(base->links, VmbChainLink, n).disk;
            vmb_progress_add_total(progress,
                                   (disk->data_blocks + disk->zero_blocks) * VMB_BLOCK_SIZE);
        }
    }
    for (guint i = 0; i < bases->bases->len; i++)
        if (!copy_disk(bases->copy, bases->bases->pdata[i], transaction,
                       manifest->disks->pdata[i], progress, error))
            return FALSE;
    set_level(manifest);
    return TRUE;
}

gboolean
vmb_copy_point(const VmbCopyPoint *copy, VmbManifest **result, GError **error)
{
    VmbPublished published = VMB_UNPUBLISHED;
    g_autofree char *label = g_strdup_printf("%s/%s", copy->name, copy->point->id);
    g_autoptr(GPtrArray) to_points = NULL;
    g_autoptr(GPtrArray) list =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_copy_base_free);
    Bases bases = {copy, list};
    /* Held until the point is there, so that nobody takes away or folds what it builds on. */
    g_autoptr(VmbPins) pins =
        vmb_pins_take(copy->to, find_bases, &bases, copy->cancel, &to_points, error);
    if (pins == NULL || !check_bases(&bases, error) || !check_space(&bases, error))
        return FALSE;
    g_autoptr(VmbManifest) manifest = copy_manifest(copy->point->manifest, error);
    g_autoptr(VmbTransaction) transaction =
        manifest != NULL ? vmb_transaction_begin(copy->to, error) : NULL;
    if (transaction == NULL)
        return FALSE;
    g_autoptr(VmbProgress) progress = vmb_progress_new(label);
    vmb_progress_phase(progress, "copying");
    if (!copy_disks(&bases, transaction, manifest, progress, error))
        return FALSE;
    vmb_progress_phase(progress, "writing to disk");
    if (!copy_files(copy, transaction, manifest, error) ||
        !copy_marks(copy, transaction, error) ||
        !vmb_transaction_publish(transaction, manifest, &published, error) ||
        !vmb_fault_point("copy-published", error))
        return FALSE;
    g_autoptr(GError) local = NULL;
    if (!vmb_repo_domain_raise_sequence(copy->to, manifest->sequence, &local))
        vmb_warning("%s: %s; the next copy does it", label, local->message);
    *result = g_steal_pointer(&manifest);
    return TRUE;
}
