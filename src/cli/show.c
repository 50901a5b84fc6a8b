/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup show: everything that one restore point says of itself. */
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "job/catalog.h"
#include "util/units.h"

#define SHOWN_RANGES 20

static void
print_json(const VmbCatalogPoint *entry)
{
    VmbJson *document = vmb_view_new(NULL);
    g_autoptr(VmbJson) view = vmb_view_point(entry->point->manifest);
    json_object_object_foreach(view, key, value)
        vmb_json_add(document, key, json_object_get(value));
    vmb_json_add(document, "reasons", vmb_view_reasons(entry->point->manifest->reasons));
    vmb_json_add(document, "state", vmb_view_state(&entry->state));
    vmb_json_add(document, "manifest", json_object_get(entry->manifest));
    vmb_output_json_document(document);
}

static void
print_head(const VmbCatalogPoint *entry)
{
    const VmbManifest *manifest = entry->point->manifest;
    g_autofree char *time = vmb_units_format_time(manifest->time_ns);
    g_autofree char *duration = vmb_units_format_duration(manifest->duration_ns);
    g_autofree char *stored = vmb_units_format_size(vmb_manifest_stored(manifest));
    g_autofree char *frozen = vmb_units_format_duration(manifest->freeze_ns);
    vmb_output_line("Point:        %s/%s (number %" G_GUINT64_FORMAT ")", manifest->domain,
                    manifest->id, manifest->sequence);
    vmb_output_line("Domain:       %s, %s%s", manifest->domain, manifest->uuid,
                    manifest->transient ? ", transient" : "");
    vmb_output_line("Made:         %s in %s by %s on %s", time, duration, manifest->tool,
                    manifest->host);
    vmb_output_line("Level:        %s", vmb_level_name(manifest->level));
    vmb_output_line("Consistency:  %s (quiesce %s)", vmb_consistency_name(manifest->consistency),
                    manifest->quiesce);
    if (manifest->freeze_ns > 0)
        vmb_output_line("Frozen:       %" G_GUINT64_FORMAT " filesystems for %s",
                        manifest->frozen_filesystems, frozen);
    vmb_output_line("Stored:       %s", stored);
}

static const char *
target_of(const VmbManifest *manifest, const char *disk_id)
{
    const VmbManifestDisk *disk = vmb_manifest_find_disk(manifest, disk_id);
    return disk != NULL ? disk->target : disk_id;
}

static void
print_damage(const VmbCatalogPoint *entry)
{
    const GPtrArray *damage = entry->state.damage;
    guint n = damage != NULL ? damage->len : 0;
    if (entry->state.metadata_damaged)
        vmb_output_line("Damaged:      metadata: nothing can build on this point");
    for (guint i = 0; i < MIN(n, SHOWN_RANGES); i++) {
        const VmbDamage *range = damage->pdata[i];
        vmb_output_line("Damaged:      disk %s, offset %" G_GUINT64_FORMAT ", %" G_GUINT64_FORMAT
                        " bytes", target_of(entry->point->manifest, range->disk), range->offset,
                        range->length);
    }
    if (n > SHOWN_RANGES)
        vmb_output_line("Damaged:      %u more ranges (--json shows them all)", n - SHOWN_RANGES);
}

/* What may change after the point was made. */
static void
print_state(const VmbCatalogPoint *entry)
{
    const VmbPointState *state = &entry->state;
    g_autofree char *verified = vmb_units_format_time(state->verified_ns);
    g_autofree char *checked = vmb_units_format_time(state->checked_ns);
    gboolean quick = state->checked_ns > state->verified_ns;
    if (state->verified_ns == 0)
        vmb_output_line("Verified:     never");
    else if (quick || state->verify_result == NULL)
        vmb_output_line("Verified:     %s", verified);
    else
        vmb_output_line("Verified:     %s, %s", verified, state->verify_result);
    if (quick && state->verify_result != NULL)
        vmb_output_line("Checked:      %s, %s (without its data)", checked, state->verify_result);
    print_damage(entry);
    vmb_output_line("Protected:    %s", state->is_protected ? "yes" : "no");
    g_autoptr(GString) tags = g_string_new(NULL);
    for (guint i = 0; state->tags != NULL && i < state->tags->len; i++)
        g_string_append_printf(tags, "%s%s", i > 0 ? ", " : "", (char *)state->tags->pdata[i]);
    if (tags->len > 0)
        vmb_output_line("Tags:         %s", tags->str);
}

static void
print_disks(const VmbManifest *manifest)
{
    static const char *const headers[] = {"DISK",    "LEVEL",  "METHOD", ">SIZE",
                                          ">STORED", "PARENT", "REASON", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = g_ptr_array_index(manifest->disks, i);
        g_autofree char *size = vmb_units_format_size(disk->size);
        g_autofree char *stored = vmb_units_format_size(disk->image_size);
        vmb_table_add(table, disk->target, vmb_level_name(disk->level),
                      vmb_method_name(disk->method), size, stored, disk->parent,
                      disk->reason < VMB_N_REASONS ? vmb_reason_name(disk->reason) : NULL);
    }
    for (guint i = 0; i < manifest->skipped->len; i++) {
        const VmbSkippedDisk *disk = g_ptr_array_index(manifest->skipped, i);
        g_autofree char *size = disk->size > 0 ? vmb_units_format_size(disk->size) : NULL;
        vmb_table_add(table, disk->target, "left out", NULL, size, NULL, NULL,
                      vmb_reason_name(disk->reason));
    }
    g_autofree char *text = vmb_table_text(table, "  ");
    vmb_output_line("Disks:");
    vmb_output_text(text);
}

static void
print_files(const VmbManifest *manifest)
{
    static const char *const headers[] = {"FILE", "ROLE", ">SIZE", "FROM", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = g_ptr_array_index(manifest->files, i);
        g_autofree char *size = vmb_units_format_size(file->size);
        vmb_table_add(table, file->name, file->role, size, file->origin);
    }
    if (vmb_table_rows(table) == 0)
        return;
    g_autofree char *text = vmb_table_text(table, "  ");
    vmb_output_line("Files:");
    vmb_output_text(text);
}

static void
print_reasons(const VmbManifest *manifest)
{
    if (manifest->reasons->len > 0)
        vmb_output_line("Reasons:");
    for (guint i = 0; i < manifest->reasons->len; i++) {
        const VmbReason *reason = g_ptr_array_index(manifest->reasons, i);
        vmb_output_line("  %s%s%s: %s", vmb_reason_name(reason->code),
                        reason->disk != NULL ? " " : "", reason->disk != NULL ? reason->disk : "",
                        reason->message);
    }
}

/* Text of a member, or NULL; what the guest says has any shape. */
static const char *
text_of(VmbJson *object, const char *key)
{
    VmbJson *value = NULL;
    if (!json_object_is_type(object, json_type_object) ||
        !json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_string))
        return NULL;
    return json_object_get_string(value);
}

static char *
join_texts(VmbJson *array)
{
    GString *out = g_string_new(NULL);
    gsize n = json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
    for (gsize i = 0; i < n; i++)
        g_string_append_printf(out, "%s%s", i > 0 ? "," : "",
                               json_object_get_string(json_object_array_get_idx(array, i)));
    return g_string_free(out, FALSE);
}

static void
print_filesystems(VmbJson *list)
{
    static const char *const headers[] = {"FILESYSTEM", "TYPE", "DISKS", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    gsize n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (gsize i = 0; i < n; i++) {
        VmbJson *entry = json_object_array_get_idx(list, i);
        VmbJson *disks = NULL;
        if (json_object_is_type(entry, json_type_object))
            json_object_object_get_ex(entry, "disks", &disks);
        g_autofree char *names = join_texts(disks);
        vmb_table_add(table, text_of(entry, "mountpoint"), text_of(entry, "type"), names);
    }
    if (n == 0)
        return;
    g_autofree char *text = vmb_table_text(table, "  ");
    vmb_output_text(text);
}

static void
print_guest(const VmbManifest *manifest)
{
    VmbJson *os = NULL, *filesystems = NULL;
    if (manifest->guest == NULL)
        return;
    json_object_object_get_ex(manifest->guest, "os", &os);
    json_object_object_get_ex(manifest->guest, "filesystems", &filesystems);
    const char *host = text_of(manifest->guest, "hostname");
    const char *system = text_of(os, "pretty_name");
    vmb_output_line("Guest:        %s%s%s", host != NULL ? host : "(no host name)",
                    system != NULL ? ", " : "", system != NULL ? system : "");
    print_filesystems(filesystems);
}

int
vmb_verb_show(VmbCommand *command)
{
    gboolean json = FALSE;
    const VmbOption options[] = {
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document, with the manifest as stored", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, 1, &status))
        return status;
    const char *path = vmb_command_repository(command, &error);
    g_autoptr(VmbCatalogPoint) entry = NULL;
    if (path != NULL)
        entry = vmb_catalog_find(path, vmb_command_operands(command)[0], &error);
    if (entry == NULL)
        return vmb_command_fail(error);
    if (json) {
        print_json(entry);
        return VMB_EXIT_OK;
    }
    print_head(entry);
    print_state(entry);
    print_disks(entry->point->manifest);
    print_files(entry->point->manifest);
    print_reasons(entry->point->manifest);
    print_guest(entry->point->manifest);
    return VMB_EXIT_OK;
}
