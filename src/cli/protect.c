/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup protect: keeps points from being dropped, and gives them tags. */
#include "job/protect.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "util/log.h"

static VmbJson *
view_result(const VmbProtectResult *result)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "id", result->point);
    vmb_json_add_string(object, "domain", result->domain);
    vmb_json_add_string(object, "uuid", result->uuid);
    vmb_json_add_bool(object, "protected", result->state.is_protected);
    vmb_json_add(object, "tags", vmb_view_texts(result->state.tags));
    vmb_json_add(object, "error", vmb_view_error(result->error));
    return object;
}

static void
print_json(const GPtrArray *results)
{
    VmbJson *document = vmb_view_new(NULL);
    VmbJson *points = json_object_new_array();
    for (guint i = 0; i < results->len; i++)
        json_object_array_add(points, view_result(results->pdata[i]));
    vmb_json_add(document, "points", points);
    vmb_output_json_document(document);
}

static void
print_line(const VmbProtectResult *result)
{
    const GPtrArray *tags = result->state.tags;
    g_autoptr(GString) list = g_string_new(NULL);
    for (guint i = 0; tags != NULL && i < tags->len; i++)
        g_string_append_printf(list, "%s%s", i == 0 ? ", tags: " : ", ",
                               (const char *)tags->pdata[i]);
    vmb_output_line("%s/%s: %s%s", result->domain, result->point,
                    result->state.is_protected ? "protected" : "not protected", list->str);
}

static int
report(const VmbCommand *command, const GPtrArray *results, gboolean json)
{
    VmbExitTally tally = {0};
    if (json)
        print_json(results);
    for (guint i = 0; i < results->len; i++) {
        const VmbProtectResult *result = results->pdata[i];
        vmb_exit_tally_add(&tally, result->error);
        if (result->error != NULL)
            vmb_log(VMB_LOG_ERROR, "%s", result->error->message);
        else if (!json && !command->quiet)
            print_line(result);
    }
    return vmb_exit_tally_status(&tally);
}

int
vmb_verb_protect(VmbCommand *command)
{
    gboolean off = FALSE, json = FALSE;
    g_autoptr(GPtrArray) tags = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) untags = g_ptr_array_new_with_free_func(g_free);
    const VmbOption options[] = {
        {"off", 0, VMB_OPTION_FLAG, NULL, "end the protection", &off},
        {"tag", 0, VMB_OPTION_EACH, "TAG",
         "add this tag, for prune --keep-tag; alone, protection stays as it is", tags},
        {"untag", 0, VMB_OPTION_EACH, "TAG", "take this tag away, likewise", untags},
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, G_MAXUINT, &status))
        return status;
    gboolean only_tags = !off && tags->len + untags->len > 0;
    VmbProtectOptions job = {
        .repository = vmb_command_repository(command, &error),
        .what = vmb_command_operands(command),
        .protection = only_tags ? VMB_PROTECT_KEEP
                      : off     ? VMB_PROTECT_OFF
                                : VMB_PROTECT_ON,
        .tags = vmb_command_vector(tags),
        .untags = vmb_command_vector(untags),
    };
    if (job.repository == NULL)
        return vmb_command_fail(error);
    job.cancel = vmb_signals_install();
    g_autoptr(GPtrArray) results = vmb_protect(&job, &error);
    return results != NULL ? report(command, results, json) : vmb_command_fail(error);
}
