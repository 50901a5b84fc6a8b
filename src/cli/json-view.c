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

static VmbJson *
view_disk(const VmbManifestDisk *disk)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_string(object, "id", disk->id);
    vmb_json_add_uint(object, "size", disk->size);
    vmb_json_add_string(object, "level", vmb_level_name(disk->level));
    vmb_json_add_string(object, "method", vmb_method_name(disk->method));
    vmb_json_add_string(object, "reason",
                        disk->reason < VMB_N_REASONS ? vmb_reason_name(disk->reason) : NULL);
    vmb_json_add_string(object, "parent", disk->parent);
    vmb_json_add_uint(object, "stored", disk->image_size);
    return object;
}

VmbJson *
vmb_view_point(const VmbManifest *manifest)
{
    VmbJson *object = json_object_new_object();
    VmbJson *disks = json_object_new_array();
    g_autofree char *time = vmb_units_format_time(manifest->time_ns);
    vmb_json_add_string(object, "id", manifest->id);
    vmb_json_add_uint(object, "sequence", manifest->sequence);
    vmb_json_add_string(object, "domain", manifest->domain);
    vmb_json_add_string(object, "uuid", manifest->uuid);
    vmb_json_add_string(object, "time", time);
    vmb_json_add_string(object, "level", vmb_level_name(manifest->level));
    vmb_json_add_string(object, "consistency", vmb_consistency_name(manifest->consistency));
    vmb_json_add_uint(object, "stored", vmb_manifest_stored(manifest));
    for (guint i = 0; i < manifest->disks->len; i++)
        json_object_array_add(disks, view_disk(g_ptr_array_index(manifest->disks, i)));
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
        vmb_json_add_string(object, "message", finding->message);
        json_object_array_add(array, object);
    }
    return array;
}

VmbJson *
vmb_view_tags(const VmbPointState *state)
{
    VmbJson *array = json_object_new_array();
    for (guint i = 0; state->tags != NULL && i < state->tags->len; i++)
        json_object_array_add(array, json_object_new_string(state->tags->pdata[i]));
    return array;
}

VmbJson *
vmb_view_state(const VmbPointState *state)
{
    VmbJson *object = json_object_new_object();
    g_autofree char *time =
        state->verified_ns != 0 ? vmb_units_format_time(state->verified_ns) : NULL;
    vmb_json_add_string(object, "verified", time);
    vmb_json_add_string(object, "result", state->verify_result);
    vmb_json_add_bool(object, "protected", state->is_protected);
    vmb_json_add(object, "tags", vmb_view_tags(state));
    return object;
}
