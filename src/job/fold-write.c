/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of a fold that takes time and disturbs nobody: writing what the child's files will be. */
#include "block/digest.h"
#include "image/overlap.h"
#include "image/qcow2-format.h"
#include "job/fold-private.h"
#include "job/merge.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

/* A file is written anew when so much more than its data lies in it: holes could not be made, or many small
 * pieces are left over. */
#define DEAD_ALLOWANCE (64 * VMB_MIB)

/* ---- files beside the child's ---- */

static int
create(VmbFoldRun *run, const char *name, GError **error)
{
    g_autofree char *temporary = vmb_layout_fold_file(name);
    g_auto(VmbFd) fd = vmb_fs_open_beneath(run->child_dir, temporary,
                                           O_RDWR | O_CREAT | O_TRUNC | O_NONBLOCK, 0600,
                                           run->label, error);
    if (fd >= 0 && vmb_fs_make_private(fd) < 0) {
        vmb_error_errno(error, errno, "cannot set the mode of %s", temporary);
        return -1;
    }
    return vmb_fd_steal(&fd);
}

static gboolean
remove_file(int dir_fd, const char *name, GError **error)
{
    g_autofree char *temporary = vmb_layout_fold_file(name);
    return vmb_fs_unlink(dir_fd, temporary, 0) == 0 || errno == ENOENT ||
           vmb_error_errno(error, errno, "cannot remove %s", temporary);
}

/* ---- before anything is written ---- */

static gboolean
check_metadata(const VmbManifestDisk *disk, int image_fd, const VmbPoint *point, GError **error)
{
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autofree char *label =
        g_strdup_printf("%s/%s disk %s", point->manifest->domain, point->id, disk->target);
    if (!vmb_fold_metadata(image_fd, vmb_round_up(disk->size, VMB_QCOW2_SECTOR), label, head,
                           tables, error))
        return FALSE;
    if (memcmp(head, disk->head_digest, sizeof head) == 0 &&
        memcmp(tables, disk->tables_digest, sizeof tables) == 0)
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s: the tables of the image differ from the manifest's digest; the point "
                         "stays hidden and is not folded. `vmbackup verify` says more", label);
}

/* Tables, counts and L1 beside the data; what is not known before is little. */
static guint64
tables_need(const VmbFoldRun *run)
{
    guint64 l1 = vmb_qcow2_table_clusters(vmb_qcow2_l1_entries(run->child_disk->size));
    guint64 segments = run->parent_disk->image_size / VMB_QCOW2_REFBLOCK_SPAN + 2;
    return (l1 + VMB_QCOW2_REFTABLE_CLUSTERS_MAX + segments + 16) * VMB_BLOCK_SIZE +
           run->parent_disk->digests_size + run->child_disk->digests_size;
}

static gboolean
check_space(VmbFoldRun *run, VmbFoldMode mode, gboolean *enough, GError **error)
{
    guint64 need = run->child_disk->image_size + tables_need(run), available = 0;
    if (mode == VMB_FOLD_REWRITE)
        need += run->parent_disk->stored_bytes + run->parent_disk->stored_bytes / 256;
    if (!vmb_fs_free_space_fd(run->child_dir, run->label, &available, error))
        return FALSE;
    *enough = available >= need;
    if (*enough)
        return TRUE;
    g_autofree char *want = vmb_units_format_size(need);
    g_autofree char *have = vmb_units_format_size(available);
    run->report->deferred = g_strdup_printf(
        "folding it needs up to %s for a while, and %s are free; nothing was changed", want, have);
    return TRUE;
}

static gboolean
has_much_dead_space(const VmbFoldRun *run)
{
    struct stat st;
    const VmbManifestDisk *disk = run->parent_disk;
    if (fstat(run->parent_image, &st) < 0)
        return FALSE;
    guint64 allocated = (guint64)st.st_blocks * 512;
    guint64 live = disk->stored_bytes + disk->stored_bytes / 128;
    return allocated > 2 * live + DEAD_ALLOWANCE;
}

/* A clone shares all data with the file it was made of. *@clone: -1 where the filesystem has none. */
static gboolean
try_clone(VmbFoldRun *run, int *clone, GError **error)
{
    g_auto(VmbFd) fd = create(run, run->child_disk->image, error);
    *clone = -1;
    if (fd < 0)
        return FALSE;
    if (ioctl(fd, FICLONE, run->parent_image) == 0) {
        *clone = vmb_fd_steal(&fd);
        return TRUE;
    }
    return remove_file(run->child_dir, run->child_disk->image, error);
}

/* ---- what the child's manifest will say ---- */

static void
set_text(char **text, const char *value)
{
    char *copy = g_strdup(value);
    g_free(*text);
    *text = copy;
}

/* Level and relations come from the parent, everything else is the child's. */
static VmbManifestDisk *
new_entry(VmbFoldRun *run, GError **error)
{
    const VmbManifestDisk *parent = run->parent_disk;
    VmbManifestDisk *entry = vmb_manifest_disk_copy(run->child_disk, error);
    if (entry == NULL)
        return NULL;
    gboolean compared = entry->base_checkpoint == NULL || parent->base_checkpoint == NULL;
    entry->level = parent->level;
    set_text(&entry->parent, parent->parent);
    set_text(&entry->base_checkpoint, compared ? NULL : parent->base_checkpoint);
    if (entry->level == VMB_LEVEL_FULL) {
        entry->method = parent->method;
        entry->reason = parent->reason;
        set_text(&entry->synthetic_from, parent->synthetic_from);
    } else if (compared && entry->method == VMB_METHOD_BITMAP) {
        entry->method = VMB_METHOD_COMPARE;
        entry->reason = parent->reason;
    }
    entry->folded += parent->folded + 1;
    return entry;
}

/* How much of @below the new image hides, or @above hides of the new image. */
static gboolean
overlap_with(VmbFoldRun *run, int image_fd, const VmbPoint *other, const VmbManifestDisk *disk,
             gboolean new_is_above, const guint8 *header, guint64 *bytes, GError **error)
{
    g_auto(VmbFd) fd = vmb_point_open_file(other, disk->image, error);
    g_autoptr(VmbQcow2Reader) a =
        fd >= 0 ? vmb_qcow2_reader_open(fd, vmb_round_up(disk->size, VMB_QCOW2_SECTOR), other->id,
                                        error)
                : NULL;
    g_autoptr(VmbQcow2Reader) b =
        a != NULL ? vmb_qcow2_reader_open_as(image_fd, header,
                                             vmb_round_up(run->child_disk->size, VMB_QCOW2_SECTOR),
                                             run->label, error)
                  : NULL;
    return b != NULL && (new_is_above ? vmb_overlap_bytes(b, a, bytes, error)
                                      : vmb_overlap_bytes(a, b, bytes, error));
}

static const VmbPoint *
find_by_parent(GPtrArray *points, const char *parent, const char *id, const VmbManifestDisk **disk)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        *disk = point->manifest != NULL ? vmb_manifest_find_disk(point->manifest, id) : NULL;
        if (*disk != NULL && g_strcmp0((*disk)->parent, parent) == 0)
            return point;
    }
    return NULL;
}

static const VmbPoint *
find_by_id(GPtrArray *points, const char *id)
{
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, id) == 0)
            return points->pdata[i];
    return NULL;
}

/* What dropping this point's new parent, or this point itself, will free. That it cannot be found out is no
 * reason to stop. */
static void
note_overlaps(VmbFoldRun *run, VmbManifestDisk *entry, int image_fd, const guint8 *header)
{
    const VmbManifestDisk *disk = NULL;
    g_autoptr(GError) error = NULL;
    guint64 bytes = 0;
    const VmbPoint *below = entry->parent != NULL ? find_by_id(run->points, entry->parent) : NULL;
    entry->replaced_bytes = VMB_BYTES_UNKNOWN;
    if (below != NULL && below->manifest != NULL)
        disk = vmb_manifest_find_disk(below->manifest, entry->id);
    if (disk != NULL && overlap_with(run, image_fd, below, disk, TRUE, header, &bytes, &error))
        entry->replaced_bytes = bytes;
    g_clear_error(&error);
    const VmbPoint *above = find_by_parent(run->points, run->child->id, entry->id, &disk);
    set_text(&entry->replaced_by, NULL);
    if (above == NULL ||
        !overlap_with(run, image_fd, above, disk, FALSE, header, &bytes, &error))
        return;
    set_text(&entry->replaced_by, above->id);
    entry->replaced_by_bytes = bytes;
}

/* ---- appending ---- */

static void
count_bytes(guint64 bytes, gpointer user)
{
    VmbFoldRun *run = user;
    vmb_progress_advance(run->progress, bytes, bytes);
}

static gboolean
check_digests(const VmbFoldRun *run, const VmbFoldResult *result, GError **error)
{
    const VmbPoint *point = run->parent;
    const VmbManifestDisk *disk = run->parent_disk;
    if (memcmp(result->parent_digests_digest, disk->digests_digest, VMB_DIGEST_SIZE) == 0) {
        point = run->child;
        disk = run->child_disk;
        if (memcmp(result->child_digests_digest, disk->digests_digest, VMB_DIGEST_SIZE) == 0)
            return TRUE;
    }
    return vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s/%s disk %s: %s differs from the manifest's digest; the point stays "
                         "hidden and is not folded", point->manifest->domain, point->id,
                         disk->target, disk->digests);
}

static void
take_result(VmbManifestDisk *entry, const VmbFoldResult *result)
{
    entry->image_size = result->summary.file_size;
    entry->compressed = result->compressed;
    entry->data_blocks = result->summary.data_blocks;
    entry->zero_blocks = result->summary.zero_blocks;
    entry->stored_bytes = result->summary.stored_bytes;
    memcpy(entry->head_digest, result->summary.head_digest, VMB_DIGEST_SIZE);
    memcpy(entry->tables_digest, result->summary.tables_digest, VMB_DIGEST_SIZE);
    entry->digests_size = result->digests_size;
    memcpy(entry->digests_digest, result->digests_digest, VMB_DIGEST_SIZE);
}

static gboolean
make_ready(VmbFoldRun *run, VmbManifestDisk *entry, int image_fd, const guint8 *header,
           GError **error)
{
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    g_autofree guint8 *cluster = g_malloc0(VMB_BLOCK_SIZE);
    memcpy(cluster, header, VMB_FOLD_HEADER);
    note_overlaps(run, entry, image_fd, cluster);
    vmb_digest_block(digest, header, VMB_FOLD_HEADER, run->record->header_digest);
    if (!vmb_manifest_check_disk(entry, error))
        return FALSE;
    vmb_manifest_disk_free(run->record->entry);
    run->record->entry = entry;
    run->record->ready = TRUE;
    return vmb_fs_sync(run->child_dir, run->label, error) &&
           vmb_fold_record_write(run->domain, run->record, error) &&
           vmb_fault_point("fold-ready", error);
}

static gboolean
append_to(VmbFoldRun *run, int image_fd, GError **error)
{
    g_auto(VmbFoldResult) result = {0};
    g_auto(VmbFd) digests = create(run, run->child_disk->digests, error);
    g_autofree char *parent_label = g_strdup_printf(
        "%s/%s disk %s", run->parent->manifest->domain, run->parent->id, run->parent_disk->target);
    if (digests < 0)
        return FALSE;
    VmbFoldOptions options = {
        .parent = {parent_label, image_fd, run->parent_digests, run->parent_disk->size,
                   run->parent_disk->stored_bytes},
        .child = {run->label, run->child_image, run->child_digests, run->child_disk->size, 0},
        .digests_out = digests,
        .cancel = run->cancel,
        .progress = count_bytes,
        .user = run};
    if (!vmb_fold_append(&options, &result, error) || !check_digests(run, &result, error))
        return FALSE;
    if (result.damage->len > 0)
        g_array_append_vals(run->damage, result.damage->data, result.damage->len);
    if (run->record->mode == VMB_FOLD_CLONE &&
        (!vmb_fold_switch(image_fd, result.header, run->label, error) ||
         !vmb_fold_clean(image_fd, vmb_round_up(run->child_disk->size, VMB_QCOW2_SECTOR),
                         result.old_header, run->label, error)))
        return FALSE;
    memcpy(run->record->old_header, result.old_header, VMB_FOLD_HEADER);
    memcpy(run->header, result.header, VMB_FOLD_HEADER);
    run->report->copied = result.copied_bytes;
    VmbManifestDisk *entry = new_entry(run, error);
    if (entry == NULL)
        return FALSE;
    take_result(entry, &result);
    if (vmb_fault_point("fold-appended", error) &&
        make_ready(run, entry, image_fd, result.header, error))
        return TRUE;
    if (run->record->entry != entry)
        vmb_manifest_disk_free(entry);
    return FALSE;
}

/* ---- writing anew ---- */

static gboolean
rewrite(VmbFoldRun *run, GError **error)
{
    g_auto(VmbFd) image = create(run, run->child_disk->image, error);
    g_auto(VmbFd) digests = image >= 0 ? create(run, run->child_disk->digests, error) : -1;
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(VmbChainLink));
    g_autoptr(VmbManifestDisk) entry = digests >= 0 ? new_entry(run, error) : NULL;
    guint8 header[VMB_FOLD_HEADER];
    if (entry == NULL)
        return FALSE;
    VmbChainLink both[] = {{run->child, run->child_disk}, {run->parent, run->parent_disk}};
    g_array_append_vals(links, both, 2);
    const VmbPoint *below = entry->parent != NULL ? find_by_id(run->points, entry->parent) : NULL;
    const VmbManifestDisk *disk = below != NULL && below->manifest != NULL
                                      ? vmb_manifest_find_disk(below->manifest, entry->id)
                                      : NULL;
    if (entry->parent != NULL && disk == NULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "%s: its parent %s is missing", run->label,
                             entry->parent);
    g_autofree char *backing =
        disk != NULL ? vmb_layout_backing_file(entry->parent, disk->image) : NULL;
    VmbMerge merge = {.links = links,
                      .n_layers = 2,
                      .domain = run->child->manifest->domain,
                      .backing_file = backing,
                      .image_fd = image,
                      .digests_fd = digests,
                      .cancel = run->cancel,
                      .progress = run->progress};
    if (!vmb_merge_layers(&merge, entry, NULL, error) ||
        !vmb_fs_sync(image, run->label, error) || !vmb_fs_sync(digests, run->label, error) ||
        !vmb_fold_read_header(image, header, run->label, error) ||
        !vmb_fault_point("fold-appended", error))
        return FALSE;
    run->report->copied = entry->stored_bytes;
    return make_ready(run, g_steal_pointer(&entry), image, header, error);
}

/* ---- the whole ---- */

/* A wish of the tests, or what is best as far as that is plain before it is tried. */
static VmbFoldMode
choose_mode(const VmbFoldRun *run)
{
    const char *wish = g_getenv("VMBACKUP_TEST_FOLD_MODE");
    for (int mode = VMB_FOLD_APPEND; wish != NULL && mode <= VMB_FOLD_REWRITE; mode++)
        if (strcmp(wish, vmb_fold_mode_name((VmbFoldMode)mode)) == 0)
            return (VmbFoldMode)mode;
    return has_much_dead_space(run) ? VMB_FOLD_REWRITE : VMB_FOLD_CLONE;
}

/* From here on a kill is undone by what the record says. */
static gboolean
begin_record(VmbFoldRun *run, VmbFoldMode mode, GError **error)
{
    struct stat st;
    VmbFoldRecord *record = g_new0(VmbFoldRecord, 1);
    g_clear_pointer(&run->record, vmb_fold_record_free);
    run->record = record;
    record->parent = g_strdup(run->parent->id);
    record->child = g_strdup(run->child->id);
    record->disk = g_strdup(run->child_disk->id);
    record->mode = mode;
    record->parent_image = g_strdup(run->parent_disk->image);
    record->parent_size = run->parent_disk->size;
    if (fstat(run->parent_image, &st) < 0)
        return vmb_error_errno(error, errno, "cannot stat %s", run->parent_disk->image);
    record->old_size = (guint64)st.st_size;
    return vmb_fold_record_write(run->domain, record, error) &&
           vmb_fault_point("fold-recorded", error);
}

/* In a clone where there can be one, else in place. */
static gboolean
append(VmbFoldRun *run, VmbFoldMode mode, GError **error)
{
    g_auto(VmbFd) clone = -1;
    if (mode == VMB_FOLD_CLONE && !try_clone(run, &clone, error))
        return FALSE;
    if (mode == VMB_FOLD_CLONE && clone < 0 && !begin_record(run, VMB_FOLD_APPEND, error))
        return FALSE;
    return append_to(run, clone >= 0 ? clone : run->parent_image, error);
}

/* FALSE without @error: there is too little space. */
static gboolean
write_as(VmbFoldRun *run, VmbFoldMode mode, GError **error)
{
    gboolean enough = FALSE;
    if (!check_space(run, mode, &enough, error) || !enough ||
        !begin_record(run, mode, error))
        return FALSE;
    return mode == VMB_FOLD_REWRITE ? rewrite(run, error) : append(run, mode, error);
}

/* Some images cannot be appended to: too long a file, layers of odd sizes. And one that is written anew is read
 * as a whole, so that damage anywhere in it stops that, while appending leaves it where it is. */
static gboolean
write_files(VmbFoldRun *run, VmbFoldMode mode, GError **error)
{
    g_autoptr(GError) local = NULL;
    gboolean anew = mode == VMB_FOLD_REWRITE;
    if (write_as(run, mode, &local))
        return TRUE;
    gboolean other_way = anew ? g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE)
                              : g_error_matches(local, VMB_FOLD_IMPOSSIBLE, 0);
    if (!other_way || run->record->ready) {
        if (local != NULL)
            g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    vmb_info("%s: it is %s: %s", run->label,
             anew ? "left in its file" : "written anew", local->message);
    return vmb_fold_roll_back(run->domain, run->record, error) &&
           write_as(run, anew ? VMB_FOLD_CLONE : VMB_FOLD_REWRITE, error);
}

gboolean
vmb_fold_write(VmbFoldRun *run, GError **error)
{
    VmbFoldMode mode = choose_mode(run);
    if (!check_metadata(run->parent_disk, run->parent_image, run->parent, error) ||
        !check_metadata(run->child_disk, run->child_image, run->child, error))
        return FALSE;
    vmb_progress_add_total(run->progress, run->child_disk->stored_bytes);
    if (!write_files(run, mode, error))
        return FALSE;
    run->report->mode = g_strdup(vmb_fold_mode_name(run->record->mode));
    return TRUE;
}

/* ---- taking it back ---- */

/* Only an image that its old header leads through may lose what was appended. */
static gboolean
check_not_switched(int fd, const VmbFoldRecord *record, GError **error)
{
    guint8 header[VMB_FOLD_HEADER];
    if (!record->ready)
        return TRUE;
    return vmb_fold_read_header(fd, header, record->parent, error) &&
           (memcmp(header, record->old_header, sizeof header) == 0 ||
            vmb_error_set(error, VMB_ERROR_DAMAGE,
                          "%s/%s has neither the header that it had before nor the one that it was "
                          "to get: nothing was changed", record->parent, record->parent_image));
}

static gboolean
undo_append(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, record->parent,
                                             record->parent_image, NULL);
    g_auto(VmbFd) fd = vmb_fs_open_beneath(vmb_repo_domain_fd(domain), path, O_RDWR | O_NONBLOCK,
                                           0, vmb_repo_domain_uuid(domain), &local);
    if (fd < 0 && errno == ENOENT)
        return TRUE; /* somebody has taken the point away, and what was appended with it */
    if (fd < 0) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    return check_not_switched(fd, record, error) &&
           vmb_fold_undo(fd, vmb_round_up(record->parent_size, VMB_QCOW2_SECTOR), record->old_size,
                         record->parent, error);
}

/* Whatever a fold may have left beside the files of a point. */
static gboolean
remove_temporaries(VmbRepoDomain *domain, const char *id, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_auto(VmbFd) dir = vmb_fold_open_point(domain, id, &local);
    if (dir < 0 && errno == ENOENT)
        return TRUE;
    if (dir < 0) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    g_autoptr(GPtrArray) names = vmb_directory_list(dir, error);
    for (guint i = 0; names != NULL && i < names->len; i++)
        if (vmb_layout_is_fold_file(names->pdata[i]) && vmb_fs_unlink(dir, names->pdata[i], 0) < 0)
            return vmb_error_errno(error, errno, "cannot remove %s", (char *)names->pdata[i]);
    return names != NULL;
}

gboolean
vmb_fold_roll_back(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    return (record->mode != VMB_FOLD_APPEND || undo_append(domain, record, error)) &&
           remove_temporaries(domain, record->child, error) &&
           vmb_fold_record_clear(domain, error) && vmb_fault_point("fold-undone", error);
}
