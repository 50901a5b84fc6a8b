/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The manifest from JSON text, nothing of which is trusted. */
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "util/error.h"
#include "util/text.h"
#include "util/units.h"

#include <string.h>

#define MAX_TEXT 65536 /* bytes of a path, a message, an identity */

static gboolean
refuse(GError **error, const char *key)
{
    return vmb_error_set(error, VMB_ERROR_DAMAGE, "member '%s' has a value that is not allowed",
                         key);
}

/* A string that is not empty and of sane length, copied. */
static gboolean
read_text(VmbJson *object, const char *key, char **value, GError **error)
{
    const char *text = NULL;
    if (!vmb_json_get_string(object, key, &text, error))
        return FALSE;
    if (text[0] == '\0' || strlen(text) > MAX_TEXT)
        return refuse(error, key);
    *value = g_strdup(text);
    return TRUE;
}

static gboolean
read_text_or_null(VmbJson *object, const char *key, char **value, GError **error)
{
    const char *text = NULL;
    if (!vmb_json_get_string_or_null(object, key, &text, error))
        return FALSE;
    return text == NULL || read_text(object, key, value, error);
}

/* A string, or null when @optional, that @is_valid accepts. */
static gboolean
read_valid(VmbJson *object, const char *key, gboolean optional,
           gboolean (*is_valid)(const char *text), char **value, GError **error)
{
    if (!(optional ? read_text_or_null : read_text)(object, key, value, error))
        return FALSE;
    return *value == NULL || is_valid(*value) || refuse(error, key);
}

static gboolean
read_limited(VmbJson *object, const char *key, guint64 low, guint64 high, guint64 *value,
             GError **error)
{
    if (!vmb_json_get_uint(object, key, value, error))
        return FALSE;
    return (*value >= low && *value <= high) || refuse(error, key);
}

static gboolean
read_digest(VmbJson *object, const char *key, guint8 digest[VMB_DIGEST_SIZE], GError **error)
{
    const char *hex = NULL;
    if (!vmb_json_get_string(object, key, &hex, error))
        return FALSE;
    return vmb_text_unhex(hex, digest, VMB_DIGEST_SIZE) || refuse(error, key);
}

/* One of the words that @name gives for 0 to @n - 1. */
static gboolean
read_word(VmbJson *object, const char *key, const char *(*name)(int), int n, int *value,
          GError **error)
{
    const char *text = NULL;
    if (!vmb_json_get_string(object, key, &text, error))
        return FALSE;
    for (*value = 0; *value < n; (*value)++)
        if (strcmp(name(*value), text) == 0)
            return TRUE;
    return refuse(error, key);
}

static const char *
level_word(int value)
{
    return vmb_level_name((VmbLevel)value);
}

static const char *
method_word(int value)
{
    return vmb_method_name((VmbMethod)value);
}

static const char *
consistency_word(int value)
{
    return vmb_consistency_name((VmbConsistency)value);
}

static gboolean
read_level(VmbJson *object, VmbLevel *level, GError **error)
{
    int value = 0;
    if (!read_word(object, "level", level_word, VMB_LEVEL_INCREMENTAL + 1, &value, error))
        return FALSE;
    *level = (VmbLevel)value;
    return TRUE;
}

static gboolean
read_reason(VmbJson *object, const char *key, gboolean optional, VmbReasonCode *code,
            GError **error)
{
    const char *name = NULL;
    *code = VMB_N_REASONS;
    if (!(optional ? vmb_json_get_string_or_null : vmb_json_get_string)(object, key, &name, error))
        return FALSE;
    if (name == NULL)
        return TRUE;
    *code = vmb_reason_from_name(name);
    if (*code == VMB_N_REASONS)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "unknown reason '%s'", name);
    return TRUE;
}

/* Appends to @elements what @read makes of each object of the array @key, at most @limit. */
static gboolean
read_array(VmbJson *object, const char *key, guint limit, GPtrArray *elements,
           gpointer (*read)(VmbJson *element, GError **error), GError **error)
{
    VmbJson *array = NULL;
    if (!vmb_json_get_array(object, key, &array, error))
        return FALSE;
    if (json_object_array_length(array) > limit)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "'%s' has more than %u elements", key, limit);
    for (gsize i = 0; i < json_object_array_length(array); i++) {
        VmbJson *member = json_object_array_get_idx(array, i);
        gpointer element = NULL;
        if (!json_object_is_type(member, json_type_object))
            vmb_error_set(error, VMB_ERROR_DAMAGE, "not an object");
        else
            element = read(member, error);
        if (element == NULL) {
            g_prefix_error(error, "%s[%zu]: ", key, i);
            return FALSE;
        }
        g_ptr_array_add(elements, element);
    }
    return TRUE;
}

static gpointer
read_one_reason(VmbJson *object, GError **error)
{
    g_autoptr(VmbReason) reason = g_new0(VmbReason, 1);
    if (!read_reason(object, "code", FALSE, &reason->code, error) ||
        !read_text_or_null(object, "disk", &reason->disk, error) ||
        !read_text(object, "message", &reason->message, error))
        return NULL;
    return g_steal_pointer(&reason);
}

static gboolean
is_digest(const char *text)
{
    guint8 digest[VMB_DIGEST_SIZE];
    return vmb_text_unhex(text, digest, sizeof digest);
}

static gpointer
read_layer(VmbJson *object, GError **error)
{
    g_autoptr(VmbSourceLayer) layer = g_new0(VmbSourceLayer, 1);
    if (!read_text_or_null(object, "path", &layer->path, error) ||
        !read_text_or_null(object, "format", &layer->format, error) ||
        !vmb_json_get_uint(object, "device", &layer->device, error) ||
        !vmb_json_get_uint(object, "inode", &layer->inode, error) ||
        !vmb_json_get_uint(object, "size", &layer->size, error) ||
        !vmb_json_get_int(object, "mtime_ns", &layer->mtime_ns, error) ||
        !vmb_json_get_uint_or(object, "ctime_ns", 0, &layer->ctime_ns, error) ||
        !vmb_json_get_uint_or(object, "birth_ns", 0, &layer->birth_ns, error) ||
        !read_valid(object, "header_digest", TRUE, is_digest, &layer->header_digest, error))
        return NULL;
    return g_steal_pointer(&layer);
}

gboolean
vmb_manifest_layers_read(VmbJson *object, GPtrArray *layers, GError **error)
{
    return read_array(object, "layers", VMB_MANIFEST_MAX_ELEMENTS, layers, read_layer, error);
}

static gboolean
read_compression(VmbJson *image, gboolean *compressed, GError **error)
{
    const char *word = NULL;
    if (!vmb_json_get_string(image, "compression", &word, error))
        return FALSE;
    *compressed = strcmp(word, "zstd") == 0;
    return *compressed || strcmp(word, "none") == 0 || refuse(error, "compression");
}

static gboolean
read_image(VmbJson *object, VmbManifestDisk *disk, GError **error)
{
    VmbJson *image = NULL;
    return vmb_json_get_object(object, "image", &image, error) &&
           read_valid(image, "file", FALSE, vmb_layout_is_point_file, &disk->image, error) &&
           vmb_json_get_uint(image, "size", &disk->image_size, error) &&
           read_compression(image, &disk->compressed, error) &&
           vmb_json_get_uint(image, "data_blocks", &disk->data_blocks, error) &&
           vmb_json_get_uint(image, "zero_blocks", &disk->zero_blocks, error) &&
           vmb_json_get_uint(image, "stored_bytes", &disk->stored_bytes, error) &&
           read_digest(image, "head_digest", disk->head_digest, error) &&
           read_digest(image, "tables_digest", disk->tables_digest, error);
}

static gboolean
read_digests(VmbJson *object, VmbManifestDisk *disk, GError **error)
{
    VmbJson *digests = NULL;
    return vmb_json_get_object(object, "digests", &digests, error) &&
           read_valid(digests, "file", FALSE, vmb_layout_is_point_file, &disk->digests, error) &&
           vmb_json_get_uint(digests, "size", &disk->digests_size, error) &&
           read_digest(digests, "digest", disk->digests_digest, error);
}

static gboolean
read_origin(VmbJson *object, VmbManifestDisk *disk, GError **error)
{
    int method = 0;
    if (!read_level(object, &disk->level, error) ||
        !read_word(object, "method", method_word, VMB_METHOD_OFFLINE + 1, &method, error))
        return FALSE;
    disk->method = (VmbMethod)method;
    return read_reason(object, "reason", TRUE, &disk->reason, error) &&
           read_valid(object, "parent", TRUE, vmb_layout_is_point_id, &disk->parent, error) &&
           read_valid(object, "base_checkpoint", TRUE, vmb_text_is_name, &disk->base_checkpoint,
                      error) &&
           read_valid(object, "checkpoint", TRUE, vmb_text_is_name, &disk->checkpoint, error);
}

static gboolean
read_relations(VmbJson *object, VmbManifestDisk *disk, GError **error)
{
    VmbJson *by = NULL;
    if (!vmb_json_get_uint_or(object, "replaced_bytes", VMB_BYTES_UNKNOWN, &disk->replaced_bytes,
                              error) ||
        !vmb_json_get_uint_or(object, "folded", 0, &disk->folded, error) ||
        !read_valid(object, "synthetic_from", TRUE, vmb_layout_is_point_id, &disk->synthetic_from,
                    error))
        return FALSE;
    if (!json_object_object_get_ex(object, "replaced_by", &by) || by == NULL)
        return TRUE;
    return vmb_json_get_object(object, "replaced_by", &by, error) &&
           read_valid(by, "point", FALSE, vmb_layout_is_point_id, &disk->replaced_by, error) &&
           vmb_json_get_uint(by, "bytes", &disk->replaced_by_bytes, error);
}

VmbManifestDisk *
vmb_manifest_disk_read(VmbJson *object, GError **error)
{
    g_autoptr(VmbManifestDisk) disk = vmb_manifest_disk_new();
    if (!read_valid(object, "target", FALSE, vmb_text_is_name, &disk->target, error) ||
        !read_text(object, "id", &disk->id, error) ||
        !read_text_or_null(object, "bus", &disk->bus, error) ||
        !read_text_or_null(object, "serial", &disk->serial, error) ||
        !read_limited(object, "size", 1, VMB_SIZE_MAX, &disk->size, error) ||
        !read_origin(object, disk, error) ||
        !vmb_manifest_layers_read(object, disk->layers, error) ||
        !read_image(object, disk, error) || !read_digests(object, disk, error) ||
        !read_relations(object, disk, error) || !vmb_manifest_check_disk(disk, error))
        return NULL;
    return g_steal_pointer(&disk);
}

static gpointer
read_disk(VmbJson *object, GError **error)
{
    return vmb_manifest_disk_read(object, error);
}

static gpointer
read_skipped(VmbJson *object, GError **error)
{
    VmbSkippedDisk *disk = g_new0(VmbSkippedDisk, 1);
    if (read_valid(object, "target", FALSE, vmb_text_is_name, &disk->target, error) &&
        read_reason(object, "reason", FALSE, &disk->reason, error) &&
        read_text_or_null(object, "id", &disk->id, error) &&
        vmb_json_get_uint(object, "size", &disk->size, error))
        return disk;
    vmb_skipped_disk_free(disk);
    return NULL;
}

static gpointer
read_file(VmbJson *object, GError **error)
{
    g_autoptr(VmbManifestFile) file = g_new0(VmbManifestFile, 1);
    if (!read_valid(object, "name", FALSE, vmb_layout_is_point_file, &file->name, error) ||
        !read_valid(object, "role", FALSE, vmb_text_is_name, &file->role, error) ||
        !read_text_or_null(object, "origin", &file->origin, error) ||
        !read_limited(object, "size", 0, VMB_SIZE_MAX, &file->size, error) ||
        !read_digest(object, "digest", file->digest, error))
        return NULL;
    return g_steal_pointer(&file);
}

static gboolean
is_repository_id(const char *text)
{
    guint8 id[16];
    return vmb_text_unhex(text, id, sizeof id);
}

static gboolean
read_time(VmbJson *object, VmbManifest *manifest, GError **error)
{
    const char *text = NULL;
    if (!vmb_json_get_string(object, "time", &text, error) ||
        !vmb_json_get_int(object, "time_ns", &manifest->time_ns, error) ||
        !vmb_json_get_uint(object, "duration_ns", &manifest->duration_ns, error))
        return FALSE;
    g_autofree char *time = vmb_units_format_time(manifest->time_ns);
    return (manifest->time_ns >= 0 && strcmp(time, text) == 0) || refuse(error, "time");
}

static gboolean
read_domain(VmbJson *object, VmbManifest *manifest, GError **error)
{
    VmbJson *domain = NULL;
    return vmb_json_get_object(object, "domain", &domain, error) &&
           read_text(domain, "name", &manifest->domain, error) &&
           read_valid(domain, "uuid", FALSE, vmb_text_is_uuid, &manifest->uuid, error) &&
           vmb_json_get_bool(domain, "transient", &manifest->transient, error);
}

static gboolean
read_quiesce(VmbJson *object, VmbManifest *manifest, GError **error)
{
    VmbJson *quiesce = NULL;
    return vmb_json_get_object(object, "quiesce", &quiesce, error) &&
           read_valid(quiesce, "mode", FALSE, vmb_text_is_name, &manifest->quiesce, error) &&
           vmb_json_get_uint(quiesce, "filesystems", &manifest->frozen_filesystems, error) &&
           vmb_json_get_uint(quiesce, "freeze_ns", &manifest->freeze_ns, error);
}

static gboolean
read_head(VmbJson *object, VmbManifest *manifest, GError **error)
{
    int consistency = 0;
    if (!read_valid(object, "id", FALSE, vmb_layout_is_point_id, &manifest->id, error) ||
        !read_limited(object, "sequence", 1, VMB_SEQUENCE_MAX, &manifest->sequence, error) ||
        !read_valid(object, "repository", FALSE, is_repository_id, &manifest->repository, error) ||
        !read_text(object, "tool", &manifest->tool, error) ||
        !read_text(object, "host", &manifest->host, error) ||
        !read_text_or_null(object, "host_id", &manifest->host_id, error) ||
        !read_domain(object, manifest, error) || !read_time(object, manifest, error) ||
        !read_level(object, &manifest->level, error) ||
        !read_word(object, "consistency", consistency_word, VMB_CONSISTENCY_OFFLINE + 1,
                   &consistency, error))
        return FALSE;
    manifest->consistency = (VmbConsistency)consistency;
    return read_quiesce(object, manifest, error);
}

static gboolean
read_lists(VmbJson *object, VmbManifest *manifest, GError **error)
{
    return read_array(object, "reasons", VMB_MANIFEST_MAX_REASONS, manifest->reasons,
                      read_one_reason, error) &&
           read_array(object, "disks", VMB_MANIFEST_MAX_ELEMENTS, manifest->disks, read_disk,
                      error) &&
           read_array(object, "skipped", VMB_MANIFEST_MAX_ELEMENTS, manifest->skipped, read_skipped,
                      error) &&
           read_array(object, "files", VMB_MANIFEST_MAX_ELEMENTS, manifest->files, read_file,
                      error);
}

static gboolean
read_guest(VmbJson *object, VmbManifest *manifest, GError **error)
{
    VmbJson *guest = NULL;
    if (!json_object_object_get_ex(object, "guest", &guest) || guest == NULL)
        return TRUE;
    if (!vmb_json_get_object(object, "guest", &guest, error))
        return FALSE;
    manifest->guest = json_object_get(guest);
    return TRUE;
}

static gboolean
check_format(VmbJson *object, GError **error)
{
    guint64 format = 0;
    if (!vmb_json_get_uint(object, "format", &format, error))
        return FALSE;
    if (format > VMB_MANIFEST_FORMAT)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "made by a newer version of vmbackup (format %" G_GUINT64_FORMAT
                             ", this version reads %d): nothing was changed; use that version",
                             format, VMB_MANIFEST_FORMAT);
    return format >= 1 || refuse(error, "format");
}

VmbManifest *
vmb_manifest_parse(const char *text, gsize length, GError **error)
{
    g_autoptr(VmbJson) object = vmb_json_unseal(text, length, error);
    g_autoptr(VmbManifest) manifest = vmb_manifest_new();
    if (object == NULL || !check_format(object, error) || !read_head(object, manifest, error) ||
        !read_lists(object, manifest, error) || !read_guest(object, manifest, error) ||
        !vmb_manifest_check(manifest, error))
        return NULL;
    return g_steal_pointer(&manifest);
}
