/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copying one point: its disks on top of what is there already, its other files, its protection and tags. */
#include "job/copy-private.h"
#include "job/merge.h"
#include "repo/layout.h"
#include "repo/state.h"
#include "repo/transaction.h"
#include "util/error.h"
#include "util/fault.h"

#include <string.h>

/* A point of the other repository that is the same as @point and can be built upon, with the disk's entry. */
static const VmbManifestDisk *
find_there(const VmbCopyPoint *copy, const VmbChainLink *link)
{
    for (guint i = 0; i < copy->to_points->len; i++) {
        VmbPoint *point = copy->to_points->pdata[i];
        g_auto(VmbPointState) state = {0};
        if (point->manifest == NULL || strcmp(point->id, link->point->id) != 0 ||
            point->manifest->sequence != link->point->manifest->sequence ||
            point->manifest->time_ns != link->point->manifest->time_ns)
            continue;
        const VmbManifestDisk *disk = vmb_manifest_find_disk(point->manifest, link->disk->id);
        if (disk == NULL || disk->size != link->disk->size)
            return NULL;
        /* What is known to be damaged there is not built upon. */
        if (!vmb_point_state_read(point, &state, NULL) ||
            g_strcmp0(state.verify_result, "damaged") == 0)
            return NULL;
        g_autoptr(GArray) chain = vmb_repo_chain(copy->to_points, point, disk->id, NULL);
        return chain != NULL ? disk : NULL;
    }
    return NULL;
}

static void
set_text(char **text, const char *value)
{
    char *copy = g_strdup(value);
    g_free(*text);
    *text = copy;
}

/* @n: how many of the chain's layers become one; @there: on what they are put, or NULL. */
static void
set_relations(VmbManifestDisk *entry, const GArray *links, guint n, const VmbManifestDisk *there)
{
    const VmbChainLink *oldest = &g_array_index(links, VmbChainLink, n - 1);
    gboolean compared = FALSE;
    for (guint i = 0; i < n; i++)
        compared |= g_array_index(links, VmbChainLink, i).disk->base_checkpoint == NULL;
    if (n > 1)
        entry->replaced_bytes = VMB_BYTES_UNKNOWN;
    g_clear_pointer(&entry->replaced_by, g_free);
    entry->level = there != NULL ? VMB_LEVEL_INCREMENTAL : VMB_LEVEL_FULL;
    set_text(&entry->parent,
             there != NULL ? g_array_index(links, VmbChainLink, n).point->id : NULL);
    if (there == NULL) {
        entry->method = oldest->disk->method;
        entry->reason = oldest->disk->reason;
        set_text(&entry->base_checkpoint, NULL);
        set_text(&entry->synthetic_from, oldest->disk->synthetic_from);
    } else if (n > 1) {
        set_text(&entry->base_checkpoint, compared ? NULL : oldest->disk->base_checkpoint);
        if (compared && entry->method == VMB_METHOD_BITMAP)
            entry->method = VMB_METHOD_COMPARE;
    }
}

static gboolean
copy_disk(const VmbCopyPoint *copy, VmbTransaction *transaction, VmbManifestDisk *entry,
          VmbProgress *progress, GError **error)
{
    g_autoptr(GArray) links = vmb_repo_chain(copy->from_points, copy->point, entry->id, error);
    const VmbManifestDisk *there = NULL;
    g_autofree char *backing = NULL;
    guint n = 1;
    if (links == NULL)
        return FALSE;
    for (; n < links->len; n++) {
        const VmbChainLink *link = &g_array_index(links, VmbChainLink, n);
        there = find_there(copy, link);
        if (there != NULL) {
            backing = vmb_layout_backing_file(link->point->id, there->image);
            break;
        }
    }
    g_auto(VmbFd) image = vmb_transaction_create(transaction, entry->image, error);
    g_auto(VmbFd) digests =
        image >= 0 ? vmb_transaction_create(transaction, entry->digests, error) : -1;
    if (digests < 0)
        return FALSE;
    VmbMerge merge = {.links = links,
                      .n_layers = n,
                      .domain = copy->name,
                      .backing_file = backing,
                      .image_fd = image,
                      .digests_fd = digests,
                      .cancel = copy->cancel,
                      .progress = progress};
    if (!vmb_merge_layers(&merge, entry, NULL, error))
        return FALSE;
    set_relations(entry, links, n, there);
    return vmb_fault_point("copy-disk-written", error);
}

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

static VmbManifest *
copy_manifest(const VmbManifest *manifest, GError **error)
{
    g_autofree char *text = vmb_manifest_serialise(manifest);
    return vmb_manifest_parse(text, strlen(text), error);
}

static VmbLevel
level_of(const VmbManifest *manifest)
{
    for (guint i = 0; i < manifest->disks->len; i++)
        if (((VmbManifestDisk *)manifest->disks->pdata[i])->level == VMB_LEVEL_INCREMENTAL)
            return VMB_LEVEL_INCREMENTAL;
    return VMB_LEVEL_FULL;
}

static void
take_over_marks(VmbPointState *state, gpointer user)
{
    const VmbPointState *from = user;
    state->is_protected = from->is_protected;
    for (guint i = 0; from->tags != NULL && i < from->tags->len; i++)
        vmb_point_state_add_tag(state, from->tags->pdata[i]);
}

/* The copy is whole without them. */
static gboolean
copy_marks(const VmbCopyPoint *copy, const VmbManifest *manifest, GError **error)
{
    g_auto(VmbPointState) state = {0};
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(copy->to, error);
    if (points == NULL || !vmb_point_state_read(copy->point, &state, error))
        return FALSE;
    if (!state.is_protected && (state.tags == NULL || state.tags->len == 0))
        return TRUE;
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, manifest->id) == 0)
            return vmb_point_state_change(points->pdata[i], take_over_marks, &state, error);
    return TRUE;
}

gboolean
vmb_copy_point(const VmbCopyPoint *copy, VmbManifest **result, GError **error)
{
    VmbPublished published = VMB_UNPUBLISHED;
    g_autofree char *label = g_strdup_printf("%s/%s", copy->name, copy->point->id);
    g_autoptr(VmbManifest) manifest = copy_manifest(copy->point->manifest, error);
    g_autoptr(VmbTransaction) transaction =
        manifest != NULL ? vmb_transaction_begin(copy->to, error) : NULL;
    g_autoptr(VmbProgress) progress = vmb_progress_new(label);
    if (transaction == NULL)
        return FALSE;
    vmb_progress_phase(progress, "copying");
    for (guint i = 0; i < manifest->disks->len; i++)
        vmb_progress_add_total(progress, ((VmbManifestDisk *)manifest->disks->pdata[i])->data_blocks *
                                             VMB_BLOCK_SIZE);
    for (guint i = 0; i < manifest->disks->len; i++)
        if (!copy_disk(copy, transaction, manifest->disks->pdata[i], progress, error))
            return FALSE;
    manifest->level = level_of(manifest);
    vmb_progress_phase(progress, "writing to disk");
    if (!copy_files(copy, transaction, manifest, error) ||
        !vmb_transaction_publish(transaction, manifest, &published, error) ||
        !vmb_fault_point("copy-published", error) ||
        !vmb_repo_domain_raise_sequence(copy->to, manifest->sequence, error))
        return FALSE;
    vmb_repo_domain_link_name(copy->to, manifest->domain);
    *result = g_steal_pointer(&manifest);
    return copy_marks(copy, *result, error);
}
