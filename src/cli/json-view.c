/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The shapes of --json: what scripts rely on, in one place. */
#include "cli/json-view.h"
#include "cli/exit-status.h"
#include "util/units.h"

VmbJson *
vmb_view_new(const char *type)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_uint(object, "schema", VMB_JSON_SCHEMA);
    if (type != NULL)
        vmb_json_add_string(object, "type", type);
    return object;
}

void
vmb_view_add_time(VmbJson *object, const char *key, gint64 time_ns)
{
    g_autofree char *time = time_ns != 0 ? vmb_units_format_time(time_ns) : NULL;
    vmb_json_add_string(object, key, time);
}

void
vmb_view_add_bytes(VmbJson *object, const char *key, guint64 bytes)
{
    if (bytes != VMB_BYTES_UNKNOWN)
        vmb_json_add_uint(object, key, bytes);
    else
        vmb_json_add(object, key, NULL);
}

/* A point without its disks. */
typedef struct {
    const char *id, *domain, *uuid;
    guint64 sequence, stored;
    gint64 time_ns;
    VmbLevel level;
    VmbConsistency consistency;
} Head;

static VmbJson *
view_head(const Head *head)
{
    VmbJson *object = json_object_new_object();
    g_autofree char *time = vmb_units_format_time(head->time_ns);
    vmb_json_add_string(object, "id", head->id);
    vmb_json_add_uint(object, "sequence", head->sequence);
    vmb_json_add_string(object, "domain", head->domain);
    vmb_json_add_string(object, "uuid", head->uuid);
    vmb_json_add_string(object, "time", time);
    vmb_json_add_string(object, "level", vmb_level_name(head->level));
    vmb_json_add_string(object, "consistency", vmb_consistency_name(head->consistency));
    vmb_json_add_uint(object, "stored", head->stored);
    return object;
}

/* Manifest and summary have different structures for the same. */
#define VIEW_DISK(disk)                                                                            \
    view_disk((disk)->target, (disk)->id, (disk)->size, (disk)->level, (disk)->method,             \
              (disk)->reason, (disk)->parent, (disk)->image_size)

static VmbJson *
view_disk(const char *target, const char *id, guint64 size, VmbLevel level, VmbMethod method,
          VmbReasonCode reason, const char *parent, guint64 stored)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", target);
    vmb_json_add_string(object, "id", id);
    vmb_json_add_uint(object, "size", size);
    vmb_json_add_string(object, "level", vmb_level_name(level));
    vmb_json_add_string(object, "method", vmb_method_name(method));
    vmb_json_add_string(object, "reason",
                        reason < VMB_N_REASONS ? vmb_reason_name(reason) : NULL);
    vmb_json_add_string(object, "parent", parent);
    vmb_json_add_uint(object, "stored", stored);
    return object;
}

VmbJson *
vmb_view_point(const VmbManifest *manifest)
{
    Head head = {manifest->id,       manifest->domain,  manifest->uuid,
                 manifest->sequence, vmb_manifest_stored(manifest),
                 manifest->time_ns,  manifest->level,   manifest->consistency};
    VmbJson *object = view_head(&head), *disks = json_object_new_array();
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = g_ptr_array_index(manifest->disks, i);
        json_object_array_add(disks, VIEW_DISK(disk));
    }
    vmb_json_add(object, "disks", disks);
    return object;
}

VmbJson *
vmb_view_summary(const VmbSummary *point, const char *uuid, guint64 frees)
{
    Head head = {point->id,       point->domain, uuid,
                 point->sequence, vmb_summary_stored(point),
                 point->time_ns,  point->level,  point->consistency};
    VmbJson *object = view_head(&head);
    VmbJson *disks = json_object_new_array(), *tags = json_object_new_array();
    vmb_view_add_bytes(object, "frees", frees);
    vmb_json_add_bool(object, "protected", point->is_protected || point->state_unreadable);
    for (gsize i = 0; point->tags[i] != NULL; i++)
        json_object_array_add(tags, json_object_new_string(point->tags[i]));
    vmb_json_add(object, "tags", tags);
    vmb_view_add_time(object, "verified", point->verified_ns);
    vmb_view_add_time(object, "checked", point->checked_ns);
    vmb_json_add_string(object, "verify_result", point->verify_result);
    for (guint i = 0; i < point->n_disks; i++)
        json_object_array_add(disks, VIEW_DISK(&point->disks[i]));
    vmb_json_add(object, "disks", disks);
    return object;
}

VmbJson *
vmb_view_damaged(const char *id, const char *domain, const char *uuid, const GError *error)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "id", id);
    vmb_json_add_string(object, "domain", domain);
    vmb_json_add_string(object, "uuid", uuid);
    vmb_json_add_bool(object, "damaged", TRUE);
    vmb_json_add(object, "error", vmb_view_error(error));
    return object;
}

VmbJson *
vmb_view_reasons(const GPtrArray *reasons)
{
    VmbJson *array = json_object_new_array();
    for (guint i = 0; i < reasons->len; i++) {
        const VmbReason *reason = g_ptr_array_index(reasons, i);
        VmbJson *object = json_object_new_object();
        vmb_json_add_string(object, "code", vmb_reason_name(reason->code));
        vmb_json_add_bool(object, "warning", vmb_reason_is_warning(reason->code));
        vmb_json_add_string(object, "disk", reason->disk);
        vmb_json_add_string(object, "message", reason->message);
        json_object_array_add(array, object);
    }
    return array;
}

VmbJson *
vmb_view_error(const GError *error)
{
    if (error == NULL)
        return NULL;
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "code", vmb_error_name(error));
    vmb_json_add_string(object, "message", error->message);
    return object;
}

/* NULL (JSON null) for NULL. */
static VmbJson *
view_texts(const GPtrArray *texts)
{
    if (texts == NULL)
        return NULL;
    VmbJson *array = json_object_new_array();
    for (guint i = 0; i < texts->len; i++)
        json_object_array_add(array, json_object_new_string(texts->pdata[i]));
    return array;
}

VmbJson *
vmb_view_texts(const GPtrArray *texts)
{
    VmbJson *array = view_texts(texts);
    return array != NULL ? array : json_object_new_array();
}

VmbJson *
vmb_view_findings(const GPtrArray *findings)
{
    VmbJson *array = json_object_new_array();
    for (guint i = 0; i < findings->len; i++) {
        const VmbFinding *finding = g_ptr_array_index(findings, i);
        VmbJson *object = json_object_new_object();
        vmb_json_add_string(object, "point", finding->point);
        vmb_json_add_string(object, "disk", finding->disk);
        vmb_json_add_string(object, "file", finding->file);
        vmb_json_add(object, "offset",
                     finding->offset >= 0 ? json_object_new_int64(finding->offset) : NULL);
        vmb_json_add_uint(object, "length", finding->length);
        vmb_json_add_string(object, "kind", vmb_finding_kind_name(finding->kind));
        vmb_json_add(object, "affected", view_texts(finding->affected));
        vmb_json_add_string(object, "message", finding->message);
        json_object_array_add(array, object);
    }
    return array;
}

VmbJson *
vmb_view_state(const VmbPointState *state)
{
    VmbJson *object = json_object_new_object();
    VmbJson *damage = json_object_new_array();
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++) {
        const VmbDamage *range = state->damage->pdata[i];
        VmbJson *entry = json_object_new_object();
        vmb_json_add_string(entry, "disk", range->disk);
        vmb_json_add_uint(entry, "offset", range->offset);
        vmb_json_add_uint(entry, "length", range->length);
        json_object_array_add(damage, entry);
    }
    vmb_view_add_time(object, "verified", state->verified_ns);
    vmb_view_add_time(object, "checked", state->checked_ns);
    vmb_json_add_string(object, "result", state->verify_result);
    vmb_json_add_bool(object, "metadata_damaged", state->metadata_damaged);
    vmb_json_add(object, "damage", damage);
    vmb_json_add_bool(object, "protected", state->is_protected);
    vmb_json_add(object, "tags", vmb_view_texts(state->tags));
    return object;
}
