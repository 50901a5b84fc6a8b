/* SPDX-License-Identifier: GPL-2.0-or-later */
/* domains/<uuid>/fold: the fold in progress, by which readers know what counts and the next run goes on. */
#include "repo/fold-record.h"
#include "block/digest.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define RECORD_FORMAT 1

static const char *const modes[] = {"append", "clone", "rewrite"};

const char *
vmb_fold_mode_name(VmbFoldMode mode)
{
    g_return_val_if_fail((guint)mode < G_N_ELEMENTS(modes), "?");
    return modes[mode];
}

void
vmb_fold_record_free(VmbFoldRecord *record)
{
    if (record == NULL)
        return;
    g_free(record->parent);
    g_free(record->child);
    g_free(record->disk);
    g_free(record->parent_image);
    vmb_manifest_disk_free(record->entry);
    g_free(record);
}

/* ---- the file ---- */

static void
add_hex(VmbJson *object, const char *key, const guint8 *data, gsize length)
{
    g_autofree char *hex = vmb_text_hex(data, length);
    vmb_json_add_string(object, key, hex);
}

gboolean
vmb_fold_record_write(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    g_autoptr(VmbJson) object = json_object_new_object();
    vmb_json_add_uint(object, "format", RECORD_FORMAT);
    vmb_json_add_string(object, "parent", record->parent);
    vmb_json_add_string(object, "child", record->child);
    vmb_json_add_string(object, "disk", record->disk);
    vmb_json_add_string(object, "mode", vmb_fold_mode_name(record->mode));
    vmb_json_add_string(object, "stage", record->ready ? "ready" : "writing");
    vmb_json_add_string(object, "parent_image", record->parent_image);
    vmb_json_add_uint(object, "parent_size", record->parent_size);
    vmb_json_add_uint(object, "old_size", record->old_size);
    if (record->ready) {
        vmb_json_add(object, "entry", vmb_manifest_disk_write(record->entry));
        add_hex(object, "header", record->header_digest, VMB_DIGEST_SIZE);
        add_hex(object, "old_header", record->old_header, VMB_FOLD_RECORD_HEADER);
    }
    return vmb_sealed_write(domain->fd, VMB_LAYOUT_FOLD, object, error);
}

gboolean
vmb_fold_record_clear(VmbRepoDomain *domain, GError **error)
{
    if (vmb_fs_unlink(domain->fd, VMB_LAYOUT_FOLD, 0) < 0 && errno != ENOENT)
        return vmb_error_errno(error, errno, "cannot remove the record of a fold of %s",
                               domain->uuid);
    return vmb_fs_sync(domain->fd, domain->uuid, error);
}

static gboolean
get_text(VmbJson *object, const char *key, gboolean (*valid)(const char *), char **value,
         GError **error)
{
    const char *text = NULL;
    if (!vmb_json_get_string(object, key, &text, error))
        return FALSE;
    if (text[0] == '\0' || (valid != NULL && !valid(text)))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "the value of '%s' is not allowed", key);
    *value = g_strdup(text);
    return TRUE;
}

static gboolean
get_hex(VmbJson *object, const char *key, guint8 *data, gsize length, GError **error)
{
    const char *text = NULL;
    return vmb_json_get_string(object, key, &text, error) &&
           (vmb_text_unhex(text, data, length) ||
            vmb_error_set(error, VMB_ERROR_DAMAGE, "the value of '%s' is not allowed", key));
}

static gboolean
get_mode(VmbJson *object, VmbFoldRecord *record, GError **error)
{
    const char *mode = NULL, *stage = NULL;
    if (!vmb_json_get_string(object, "mode", &mode, error) ||
        !vmb_json_get_string(object, "stage", &stage, error))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(modes); i++)
        if (strcmp(mode, modes[i]) == 0) {
            record->mode = (VmbFoldMode)i;
            record->ready = strcmp(stage, "ready") == 0;
            return record->ready || strcmp(stage, "writing") == 0 ||
                   vmb_error_set(error, VMB_ERROR_DAMAGE, "unknown stage '%s'", stage);
        }
    return vmb_error_set(error, VMB_ERROR_DAMAGE, "unknown mode '%s'", mode);
}

static gboolean
get_ready(VmbJson *object, VmbFoldRecord *record, GError **error)
{
    VmbJson *entry = NULL;
    if (!record->ready)
        return TRUE;
    if (!vmb_json_get_object(object, "entry", &entry, error))
        return FALSE;
    record->entry = vmb_manifest_disk_read(entry, error);
    return record->entry != NULL &&
           get_hex(object, "header", record->header_digest, VMB_DIGEST_SIZE, error) &&
           get_hex(object, "old_header", record->old_header, VMB_FOLD_RECORD_HEADER, error) &&
           (strcmp(record->entry->id, record->disk) == 0 ||
            vmb_error_set(error, VMB_ERROR_DAMAGE, "the entry is another disk's"));
}

static gboolean
parse(VmbJson *object, VmbFoldRecord *record, GError **error)
{
    return get_text(object, "parent", vmb_layout_is_point_id, &record->parent, error) &&
           get_text(object, "child", vmb_layout_is_point_id, &record->child, error) &&
           get_text(object, "disk", NULL, &record->disk, error) &&
           get_text(object, "parent_image", vmb_layout_is_point_file, &record->parent_image,
                    error) &&
           get_mode(object, record, error) &&
           vmb_json_get_uint(object, "parent_size", &record->parent_size, error) &&
           vmb_json_get_uint(object, "old_size", &record->old_size, error) &&
           get_ready(object, record, error);
}

gboolean
vmb_fold_record_read(VmbRepoDomain *domain, VmbFoldRecord **record, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbFoldRecord) read = g_new0(VmbFoldRecord, 1);
    g_autofree char *label = vmb_layout_path(domain->repository_path, domain->uuid, NULL);
    g_autoptr(VmbJson) object =
        vmb_sealed_read(domain->fd, VMB_LAYOUT_FOLD, RECORD_FORMAT, label, &local);
    *record = NULL;
    if (object == NULL && local == NULL)
        return TRUE;
    if (object != NULL && parse(object, read, &local)) {
        *record = g_steal_pointer(&read);
        return TRUE;
    }
    g_propagate_prefixed_error(error, g_steal_pointer(&local), "the record of a fold: ");
    return FALSE;
}

/* ---- what counts ---- */

/* *@is: whether the file is there and is what the fold has made. FALSE only if that cannot be found out. */
static gboolean
look_at_image(VmbRepoDomain *domain, const char *id, const char *name, const VmbFoldRecord *record,
              gboolean *is, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, id, name, NULL);
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    guint8 header[VMB_FOLD_RECORD_HEADER], found[VMB_DIGEST_SIZE];
    struct stat st;
    *is = FALSE;
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(domain->fd, path, O_RDONLY | O_NONBLOCK, 0, domain->uuid, &local);
    if (fd < 0 && errno == ENOENT)
        return TRUE;
    if (fd < 0) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "cannot stat %s/%s", domain->uuid, path);
    if (!S_ISREG(st.st_mode) || (guint64)st.st_size != record->entry->image_size)
        return TRUE;
    if (!vmb_fs_pread(fd, header, sizeof header, 0, path, error))
        return FALSE;
    vmb_digest_block(digest, header, sizeof header, found);
    *is = memcmp(found, record->header_digest, sizeof found) == 0;
    return TRUE;
}

gboolean
vmb_fold_record_place(VmbRepoDomain *domain, const VmbFoldRecord *record, VmbFoldPlace *place,
                      GError **error)
{
    gboolean is = FALSE;
    *place = VMB_FOLD_NOT_SWITCHED;
    if (!record->ready)
        return TRUE;
    if (!look_at_image(domain, record->child, record->entry->image, record, &is, error))
        return FALSE;
    if (is) {
        *place = VMB_FOLD_AT_CHILD;
        return TRUE;
    }
    if (record->mode != VMB_FOLD_APPEND)
        return TRUE;
    if (!look_at_image(domain, record->parent, record->parent_image, record, &is, error))
        return FALSE;
    if (is)
        *place = VMB_FOLD_AT_PARENT;
    return TRUE;
}

static VmbPoint *
find_point(GPtrArray *points, const char *id)
{
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        if (strcmp(point->id, id) == 0 && point->manifest != NULL)
            return point;
    }
    return NULL;
}

static void
move_file(VmbPoint *point, const char *name, const char *directory, const char *now)
{
    if (point->moved == NULL)
        point->moved = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(point->moved, g_strdup(name), g_build_filename(directory, now, NULL));
}

static void
remove_disk(VmbManifest *manifest, const char *id)
{
    for (guint i = 0; i < manifest->disks->len; i++)
        if (strcmp(((VmbManifestDisk *)manifest->disks->pdata[i])->id, id) == 0)
            g_ptr_array_remove_index(manifest->disks, i--);
}

static void
show_switched(VmbRepoDomain *domain, const VmbFoldRecord *record, VmbFoldPlace place,
              VmbPoint *parent, VmbPoint *child)
{
    struct stat st;
    g_autofree char *digests = vmb_layout_fold_file(record->entry->digests);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, record->child, digests, NULL);
    vmb_manifest_replace_disk(child->manifest, record->entry);
    if (record->mode == VMB_FOLD_APPEND)
        child->growing = g_strdup(record->entry->image); /* not cleaned yet */
    if (place == VMB_FOLD_AT_PARENT)
        move_file(child, record->entry->image, record->parent, record->parent_image);
    if (fstatat(domain->fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
        move_file(child, record->entry->digests, record->child, digests);
    if (parent != NULL)
        remove_disk(parent->manifest, record->disk);
}

void
vmb_fold_record_apply(VmbRepoDomain *domain, GPtrArray *points)
{
    g_autoptr(VmbFoldRecord) record = NULL;
    g_autoptr(GError) error = NULL;
    if (!vmb_fold_record_read(domain, &record, &error)) {
        vmb_warning("%s: %s; it is ignored", domain->uuid, error->message);
        return;
    }
    if (record == NULL)
        return;
    VmbPoint *parent = find_point(points, record->parent);
    VmbPoint *child = find_point(points, record->child);
    VmbFoldPlace place = VMB_FOLD_NOT_SWITCHED;
    if (!vmb_fold_record_place(domain, record, &place, &error))
        vmb_warning("%s: whether a fold was finished cannot be told: %s", domain->uuid,
                    error->message);
    if (place != VMB_FOLD_NOT_SWITCHED && child != NULL)
        show_switched(domain, record, place, parent, child);
    else if (place == VMB_FOLD_NOT_SWITCHED && parent != NULL && record->mode == VMB_FOLD_APPEND)
        parent->growing = g_strdup(record->parent_image);
}

static gboolean
unlink_if_there(int dir_fd, const char *name, GError **error)
{
    return vmb_fs_unlink(dir_fd, name, 0) == 0 || errno == ENOENT ||
           vmb_error_errno(error, errno, "cannot remove %s", name);
}

gboolean
vmb_fold_record_clear_parent(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbPoint) parent = vmb_repo_domain_read_point(domain, record->parent, &local);
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    const VmbManifestDisk *disk = parent != NULL && parent->retired && parent->manifest != NULL
                                      ? vmb_manifest_find_disk(parent->manifest, record->disk)
                                      : NULL;
    if (disk == NULL)
        return TRUE;
    g_auto(VmbFd) dir = vmb_point_open_dir(parent, error);
    return dir >= 0 && unlink_if_there(dir, disk->image, error) &&
           unlink_if_there(dir, disk->digests, error);
}

gboolean
vmb_fold_record_write_manifest(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    /* As it is on disk: in all that are read otherwise the record shows already. */
    g_autoptr(VmbPoint) child = vmb_repo_domain_read_point(domain, record->child, error);
    g_auto(VmbFd) dir = child != NULL ? vmb_point_open_dir(child, error) : -1;
    if (dir < 0)
        return FALSE;
    if (child->manifest == NULL) {
        g_propagate_error(error, g_error_copy(child->damage));
        return FALSE;
    }
    vmb_manifest_replace_disk(child->manifest, record->entry);
    g_autofree char *text = vmb_manifest_serialise(child->manifest);
    g_autoptr(VmbManifest) again = vmb_manifest_parse(text, strlen(text), error);
    return again != NULL && vmb_fs_write_file(dir, VMB_LAYOUT_MANIFEST, text, strlen(text), error);
}
