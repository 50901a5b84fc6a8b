/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup changes: what differs between two points of a domain, or a point and the running domain. */
#include "job/changes.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "util/units.h"

#include <string.h>

typedef struct {
    gboolean json;
    const char *target; /* of the disk whose ranges follow */
} View;

/* "DOMAIN/A..B" */
static gboolean
split_operand(const char *text, char **older, char **newer, GError **error)
{
    const char *slash = strrchr(text, '/');
    const char *dots = slash != NULL ? strstr(slash, "..") : NULL;
    if (dots == NULL || dots == slash + 1 || dots[2] == '\0')
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "'%s' is not DOMAIN/A..B: two points of a domain, the older one first, or a point and "
                             "'live'", text);
    *older = g_strndup(text, (gsize)(dots - text));
    *newer = g_strdup_printf("%.*s/%s", (int)(slash - text), text, dots + 2);
    return TRUE;
}

static gboolean
print_range(guint64 offset, guint64 length, gboolean zero, gpointer user, GError **error)
{
    const View *view = user;
    if (!view->json) {
        vmb_output_line("%-8s %16" G_GUINT64_FORMAT " %16" G_GUINT64_FORMAT "  %s", view->target, offset,
                        length, zero ? "zero" : "data");
        return TRUE;
    }
    VmbJson *object = vmb_view_new("range");
    vmb_json_add_string(object, "target", view->target);
    vmb_json_add_uint(object, "offset", offset);
    vmb_json_add_uint(object, "length", length);
    vmb_json_add_bool(object, "zero", zero);
    vmb_output_json_line(object);
    return TRUE;
}

static VmbJson *
view_disk(const VmbChangedDisk *disk)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_string(object, "id", disk->id);
    vmb_json_add_uint(object, "size", disk->size);
    vmb_view_add_bytes(object, "since_size", disk->is_new ? VMB_BYTES_UNKNOWN : disk->since_size);
    vmb_json_add_uint(object, "data", disk->data);
    vmb_json_add_uint(object, "zero", disk->zero);
    return object;
}

static void
print_summary(const VmbChanges *changes, const GError *error, int status)
{
    VmbJson *line = vmb_view_new("summary");
    VmbJson *disks = json_object_new_array();
    if (changes != NULL) {
        const VmbManifest *newer = vmb_changes_newer(changes)->manifest;
        vmb_json_add_string(line, "domain", newer->domain);
        vmb_json_add_string(line, "uuid", newer->uuid);
        vmb_json_add_string(line, "since", vmb_changes_older(changes)->id);
        vmb_json_add_string(line, "id", newer->id);
        for (guint i = 0; i < vmb_changes_n_disks(changes); i++)
            json_object_array_add(disks, view_disk(vmb_changes_disk(changes, i)));
        vmb_json_add(line, "gone", vmb_view_texts(vmb_changes_gone(changes)));
    }
    vmb_json_add(line, "disks", disks);
    vmb_json_add(line, "error", vmb_view_error(error));
    vmb_json_add_uint(line, "exit_status", (guint64)status);
    vmb_output_json_line(line);
}

/* Free with g_free(). */
static char *
describe_total(const VmbChangedDisk *disk)
{
    g_autofree char *data = vmb_units_format_size(disk->data);
    g_autofree char *zero = vmb_units_format_size(disk->zero);
    g_autofree char *size = vmb_units_format_size(disk->size);
    g_autofree char *since = vmb_units_format_size(disk->since_size);
    gboolean resized = !disk->is_new && disk->size != disk->since_size;
    return g_strdup_printf("%s: %s of %s differ as data, %s as zeroes%s%s", disk->target, data, size, zero,
                           disk->is_new ? "; it is new" : resized ? "; its size was " : "",
                           resized ? since : "");
}

static void
print_totals(const VmbChanges *changes)
{
    for (guint i = 0; i < vmb_changes_n_disks(changes); i++) {
        g_autofree char *line = describe_total(vmb_changes_disk(changes, i));
        vmb_output_line("%s", line);
    }
    const GPtrArray *gone = vmb_changes_gone(changes);
    for (guint i = 0; i < gone->len; i++)
        vmb_output_line("%s: not there any more", (const char *)gone->pdata[i]);
}

static gboolean
read_disks(VmbChanges *changes, gboolean json, GError **error)
{
    for (guint i = 0; i < vmb_changes_n_disks(changes); i++) {
        View view = {json, vmb_changes_disk(changes, i)->target};
        if (!vmb_changes_read(changes, i, print_range, &view, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- against the running domain ---- */

typedef struct {
    View view;
    GPtrArray *disks;  /* views in JSON */
    GPtrArray *totals; /* lines for people */
} Live;

static void
begin_disk(const VmbChangedDisk *disk, gpointer user)
{
    Live *live = user;
    live->view.target = disk->target;
}

static gboolean
print_live_range(guint64 offset, guint64 length, gboolean zero, gpointer user, GError **error)
{
    Live *live = user;
    return print_range(offset, length, zero, &live->view, error);
}

static void
end_disk(const VmbChangedDisk *disk, gpointer user)
{
    Live *live = user;
    g_ptr_array_add(live->disks, view_disk(disk));
    g_ptr_array_add(live->totals, describe_total(disk));
}

static void
print_live_summary(const Live *live, const char *since, const char *name, const char *uuid,
                   const GPtrArray *gone, const GError *error, int status)
{
    VmbJson *line = vmb_view_new("summary");
    VmbJson *disks = json_object_new_array();
    vmb_json_add_string(line, "domain", name);
    vmb_json_add_string(line, "uuid", uuid);
    vmb_json_add_string(line, "since", since);
    vmb_json_add_string(line, "id", NULL);
    for (guint i = 0; i < live->disks->len; i++)
        json_object_array_add(disks, json_object_get(live->disks->pdata[i]));
    vmb_json_add(line, "gone", gone != NULL ? vmb_view_texts(gone) : json_object_new_array());
    vmb_json_add(line, "disks", disks);
    vmb_json_add(line, "error", vmb_view_error(error));
    vmb_json_add_uint(line, "exit_status", (guint64)status);
    vmb_output_json_line(line);
}

static void
free_json(gpointer object)
{
    json_object_put(object);
}

static int
run_live(VmbCommand *command, const char *older, GPtrArray *disks, const char *scratch_dir, gboolean json)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *since = NULL, *name = NULL, *uuid = NULL;
    g_autofree char *domain = g_path_get_dirname(older);
    g_autoptr(GPtrArray) views = g_ptr_array_new_with_free_func(free_json);
    g_autoptr(GPtrArray) totals = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) gone = NULL;
    Live live = {{json, NULL}, views, totals};
    int status = VMB_EXIT_OK;
    VmbChangesLive options = {.repository = vmb_command_repository(command, &error),
                              .uri = command->uri,
                              .domain = domain,
                              .point = strrchr(older, '/') + 1,
                              .disks = vmb_command_vector(disks),
                              .scratch_dir = scratch_dir,
                              .cancel = vmb_signals_install(),
                              .user = &live,
                              .begin = begin_disk,
                              .emit = print_live_range,
                              .end = end_disk};
    if (options.repository == NULL || !vmb_changes_live(&options, &since, &name, &uuid, &gone, &error))
        status = vmb_command_fail(error);
    if (json)
        print_live_summary(&live, since, name, uuid, gone, error, status);
    for (guint i = 0; !json && status == VMB_EXIT_OK && i < totals->len; i++)
        vmb_output_line("%s", (const char *)totals->pdata[i]);
    for (guint i = 0; !json && gone != NULL && i < gone->len; i++)
        vmb_output_line("%s: not there any more", (const char *)gone->pdata[i]);
    return status;
}

/* ---- the verb ---- */

static int
run(VmbCommand *command, GPtrArray *disks, const char *scratch_dir, gboolean json)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *older = NULL, *newer = NULL;
    g_autoptr(VmbRepository) repository = NULL;
    g_autoptr(VmbChanges) changes = NULL;
    const char *path = NULL;
    int status = VMB_EXIT_OK;
    gboolean two = split_operand(vmb_command_operands(command)[0], &older, &newer, &error);
    if (two && g_str_has_suffix(newer, "/live"))
        return run_live(command, older, disks, scratch_dir, json);
    if (two)
        path = vmb_command_repository(command, &error);
    if (path != NULL)
        repository = vmb_repository_open(path, &error);
    if (repository != NULL)
        changes = vmb_changes_open(repository, older, newer, vmb_command_vector(disks),
                                   vmb_signals_install(), &error);
    if (changes == NULL || !read_disks(changes, json, &error))
        status = vmb_command_fail(error);
    if (json)
        print_summary(changes, error, status);
    else if (status == VMB_EXIT_OK)
        print_totals(changes);
    return status;
}

int
vmb_verb_changes(VmbCommand *command)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(g_free);
    gboolean json = FALSE;
    const char *scratch_dir = NULL;
    const VmbOption options[] = {
        {"disk", 0, VMB_OPTION_LIST, "TARGET[,...]", "only these disks, such as vda", disks},
        {"scratch-dir", 0, VMB_OPTION_STRING, "DIR",
         "with A..live: where QEMU keeps what the guest overwrites meanwhile", &scratch_dir},
        {"json", 0, VMB_OPTION_FLAG, NULL, "JSON lines: ranges, and a summary at the end", &json},
        {NULL},
    };
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, 1, &status))
        return status;
    return run(command, disks, scratch_dir, json);
}
