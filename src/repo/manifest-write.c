/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The manifest as JSON text. */
#include "repo/manifest-json.h"
#include "util/text.h"
#include "util/units.h"

static void
add_int(VmbJson *object, const char *key, gint64 value)
{
    vmb_json_add(object, key, json_object_new_int64(value));
}

static void
add_digest(VmbJson *object, const char *key, const guint8 digest[VMB_DIGEST_SIZE])
{
    g_autofree char *hex = vmb_text_hex(digest, VMB_DIGEST_SIZE);
    vmb_json_add_string(object, key, hex);
}

static void
add_reason(VmbJson *object, const char *key, VmbReasonCode code)
{
    vmb_json_add_string(object, key, code < VMB_N_REASONS ? vmb_reason_name(code) : NULL);
}

/* The member @key: an array of what @write makes of each element. */
static void
add_array(VmbJson *object, const char *key, const GPtrArray *elements,
          VmbJson *(*write)(gconstpointer element))
{
    VmbJson *array = json_object_new_array_ext((int)elements->len);
    for (guint i = 0; i < elements->len; i++)
        json_object_array_add(array, write(elements->pdata[i]));
    vmb_json_add(object, key, array);
}

static VmbJson *
write_reason(gconstpointer element)
{
    const VmbReason *reason = element;
    VmbJson *object = json_object_new_object();
    add_reason(object, "code", reason->code);
    vmb_json_add_string(object, "disk", reason->disk);
    vmb_json_add_string(object, "message", reason->message);
    return object;
}

static VmbJson *
write_layer(gconstpointer element)
{
    const VmbSourceLayer *layer = element;
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "path", layer->path);
    vmb_json_add_string(object, "format", layer->format);
    vmb_json_add_uint(object, "device", layer->device);
    vmb_json_add_uint(object, "inode", layer->inode);
    vmb_json_add_uint(object, "size", layer->size);
    add_int(object, "mtime_ns", layer->mtime_ns);
    vmb_json_add_uint(object, "ctime_ns", layer->ctime_ns);
    vmb_json_add_uint(object, "birth_ns", layer->birth_ns);
    vmb_json_add_string(object, "header_digest", layer->header_digest);
    return object;
}

void
vmb_manifest_layers_write(VmbJson *object, const GPtrArray *layers)
{
    add_array(object, "layers", layers, write_layer);
}

static VmbJson *
write_image(const VmbManifestDisk *disk)
{
    VmbJson *image = json_object_new_object();
    vmb_json_add_string(image, "file", disk->image);
    vmb_json_add_uint(image, "size", disk->image_size);
    vmb_json_add_string(image, "compression", disk->compressed ? "zstd" : "none");
    vmb_json_add_uint(image, "data_blocks", disk->data_blocks);
    vmb_json_add_uint(image, "zero_blocks", disk->zero_blocks);
    vmb_json_add_uint(image, "stored_bytes", disk->stored_bytes);
    add_digest(image, "head_digest", disk->head_digest);
    add_digest(image, "tables_digest", disk->tables_digest);
    return image;
}

static VmbJson *
write_digests(const VmbManifestDisk *disk)
{
    VmbJson *digests = json_object_new_object();
    vmb_json_add_string(digests, "file", disk->digests);
    vmb_json_add_uint(digests, "size", disk->digests_size);
    add_digest(digests, "digest", disk->digests_digest);
    return digests;
}

static void
add_relations(VmbJson *object, const VmbManifestDisk *disk)
{
    if (disk->replaced_bytes != VMB_BYTES_UNKNOWN)
        vmb_json_add_uint(object, "replaced_bytes", disk->replaced_bytes);
    if (disk->replaced_by != NULL) {
        VmbJson *by = json_object_new_object();
        vmb_json_add_string(by, "point", disk->replaced_by);
        vmb_json_add_uint(by, "bytes", disk->replaced_by_bytes);
        vmb_json_add(object, "replaced_by", by);
    }
    if (disk->folded > 0)
        vmb_json_add_uint(object, "folded", disk->folded);
    if (disk->synthetic_from != NULL)
        vmb_json_add_string(object, "synthetic_from", disk->synthetic_from);
}

VmbJson *
vmb_manifest_disk_write(const VmbManifestDisk *disk)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_string(object, "id", disk->id);
    vmb_json_add_string(object, "bus", disk->bus);
    vmb_json_add_string(object, "serial", disk->serial);
    vmb_json_add_uint(object, "size", disk->size);
    vmb_json_add_string(object, "level", vmb_level_name(disk->level));
    vmb_json_add_string(object, "method", vmb_method_name(disk->method));
    add_reason(object, "reason", disk->reason);
    vmb_json_add_string(object, "parent", disk->parent);
    vmb_json_add_string(object, "base_checkpoint", disk->base_checkpoint);
    vmb_json_add_string(object, "checkpoint", disk->checkpoint);
    vmb_manifest_layers_write(object, disk->layers);
    vmb_json_add(object, "image", write_image(disk));
    vmb_json_add(object, "digests", write_digests(disk));
    add_relations(object, disk);
    return object;
}

static VmbJson *
write_disk(gconstpointer element)
{
    return vmb_manifest_disk_write(element);
}

static VmbJson *
write_skipped(gconstpointer element)
{
    const VmbSkippedDisk *disk = element;
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", disk->target);
    add_reason(object, "reason", disk->reason);
    vmb_json_add_string(object, "id", disk->id);
    vmb_json_add_uint(object, "size", disk->size);
    return object;
}

static VmbJson *
write_file(gconstpointer element)
{
    const VmbManifestFile *file = element;
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "name", file->name);
    vmb_json_add_string(object, "role", file->role);
    vmb_json_add_string(object, "origin", file->origin);
    vmb_json_add_uint(object, "size", file->size);
    add_digest(object, "digest", file->digest);
    return object;
}

static void
add_domain(VmbJson *object, const VmbManifest *manifest)
{
    VmbJson *domain = json_object_new_object();
    vmb_json_add_string(domain, "name", manifest->domain);
    vmb_json_add_string(domain, "uuid", manifest->uuid);
    vmb_json_add_bool(domain, "transient", manifest->transient);
    vmb_json_add(object, "domain", domain);
}

static void
add_quiesce(VmbJson *object, const VmbManifest *manifest)
{
    VmbJson *quiesce = json_object_new_object();
    vmb_json_add_string(quiesce, "mode", manifest->quiesce);
    vmb_json_add_uint(quiesce, "filesystems", manifest->frozen_filesystems);
    vmb_json_add_uint(quiesce, "freeze_ns", manifest->freeze_ns);
    vmb_json_add(object, "quiesce", quiesce);
}

char *
vmb_manifest_serialise(const VmbManifest *manifest)
{
    g_autoptr(VmbJson) object = json_object_new_object();
    g_autofree char *time = vmb_units_format_time(manifest->time_ns);
    vmb_json_add_uint(object, "format", VMB_MANIFEST_FORMAT);
    vmb_json_add_string(object, "id", manifest->id);
    vmb_json_add_uint(object, "sequence", manifest->sequence);
    vmb_json_add_string(object, "repository", manifest->repository);
    vmb_json_add_string(object, "tool", manifest->tool);
    vmb_json_add_string(object, "host", manifest->host);
    vmb_json_add_string(object, "host_id", manifest->host_id);
    add_domain(object, manifest);
    vmb_json_add_string(object, "time", time);
    add_int(object, "time_ns", manifest->time_ns);
    vmb_json_add_uint(object, "duration_ns", manifest->duration_ns);
    vmb_json_add_string(object, "level", vmb_level_name(manifest->level));
    vmb_json_add_string(object, "consistency", vmb_consistency_name(manifest->consistency));
    add_quiesce(object, manifest);
    add_array(object, "reasons", manifest->reasons, write_reason);
    add_array(object, "disks", manifest->disks, write_disk);
    add_array(object, "skipped", manifest->skipped, write_skipped);
    add_array(object, "files", manifest->files, write_file);
    vmb_json_add(object, "guest", json_object_get(manifest->guest));
    return vmb_json_seal(object);
}
