/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup release: takes every trace of a repository off a domain. */
#include "job/release.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "util/log.h"

static VmbJson *
view_checkpoint(const VmbReleasedCheckpoint *checkpoint, gboolean dry_run)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "name", checkpoint->name);
    vmb_json_add_bool(object, "recorded", checkpoint->recorded);
    vmb_json_add_bool(object, "stored", checkpoint->stored);
    vmb_json_add_bool(object, "removed", !dry_run && checkpoint->error == NULL);
    vmb_json_add(object, "error", vmb_view_error(checkpoint->error));
    return object;
}

static void
print_json(const VmbRelease *release, gboolean dry_run)
{
    VmbJson *document = vmb_view_new(NULL);
    VmbJson *checkpoints = json_object_new_array();
    VmbJson *consumers = json_object_new_array();
    VmbJson *unread = json_object_new_array();
    for (guint i = 0; i < release->checkpoints->len; i++)
        json_object_array_add(checkpoints,
                              view_checkpoint(release->checkpoints->pdata[i], dry_run));
    for (guint i = 0; release->unread != NULL && i < release->unread->len; i++)
        json_object_array_add(unread, json_object_new_string(release->unread->pdata[i]));
    vmb_json_add_string(document, "domain", release->domain);
    vmb_json_add_string(document, "uuid", release->uuid);
    vmb_json_add_string(document, "repository_id", release->repository_id);
    vmb_json_add_bool(document, "dry_run", dry_run);
    vmb_json_add_bool(document, "gone", release->gone);
    for (guint i = 0; i < release->consumers->len; i++)
        json_object_array_add(consumers, json_object_new_string(release->consumers->pdata[i]));
    vmb_json_add(document, "checkpoints", checkpoints);
    vmb_json_add(document, "consumers", consumers);
    vmb_json_add(document, "reasons", vmb_view_reasons(release->reasons));
    vmb_json_add(document, "unread_disks", unread);
    vmb_output_json_document(document);
}

static const char *
what_there_was(const VmbReleasedCheckpoint *checkpoint)
{
    if (checkpoint->recorded)
        return "checkpoint";
    return checkpoint->stored ? "bitmap without checkpoint, in an image"
                              : "bitmap without checkpoint, in QEMU";
}

static void
print_text(const VmbRelease *release, gboolean dry_run)
{
    for (guint i = 0; i < release->checkpoints->len; i++) {
        const VmbReleasedCheckpoint *checkpoint = g_ptr_array_index(release->checkpoints, i);
        if (checkpoint->error == NULL)
            vmb_output_line("%s: %s %s (%s)", release->domain, dry_run ? "would remove" : "removed",
                            checkpoint->name, what_there_was(checkpoint));
    }
    for (guint i = 0; i < release->consumers->len; i++)
        vmb_output_line("%s: %s the consumer '%s'", release->domain,
                        dry_run ? "would forget" : "forgot",
                        (const char *)release->consumers->pdata[i]);
    if (release->gone)
        vmb_output_line("%s: libvirt does not know it, and its checkpoints are gone with it",
                        release->domain);
    else if (release->checkpoints->len == 0 && release->consumers->len == 0)
        vmb_output_line("%s: there is no checkpoint of the repository %s", release->domain,
                        release->repository_id);
}

static int
report(const VmbRelease *release, const VmbCommand *command, gboolean dry_run, gboolean json)
{
    int status = VMB_EXIT_OK;
    if (json)
        print_json(release, dry_run);
    else if (!command->quiet)
        print_text(release, dry_run);
    for (guint i = 0; i < release->checkpoints->len; i++) {
        const VmbReleasedCheckpoint *checkpoint = g_ptr_array_index(release->checkpoints, i);
        if (checkpoint->error == NULL)
            continue;
        vmb_log(VMB_LOG_ERROR, "%s", checkpoint->error->message);
        status = VMB_EXIT_FAILED;
    }
    for (guint i = 0; release->unread != NULL && i < release->unread->len; i++)
        vmb_warning("%s: the image of disk %s cannot be looked into from here; bitmaps without "
                    "checkpoint may be in it",
                    release->domain, (const char *)release->unread->pdata[i]);
    return status;
}

static gboolean
choose_repository(const VmbCommand *command, VmbReleaseOptions *job, GError **error)
{
    if (job->repository_id != NULL && job->consumers->len > 0)
        return vmb_error_set(
            error, VMB_ERROR_USAGE,
            "consumers are known to the repository: --consumer excludes --repository-id");
    if (job->repository_id == NULL) {
        job->repository = vmb_command_repository(command, error);
        return job->repository != NULL;
    }
    return command->repository == NULL ||
           vmb_error_set(error, VMB_ERROR_USAGE,
                         "--repository-id is for a repository that is gone; it excludes --repo");
}

int
vmb_verb_release(VmbCommand *command)
{
    gboolean json = FALSE;
    g_autoptr(GPtrArray) consumers = g_ptr_array_new_with_free_func(g_free);
    VmbReleaseOptions job = {.consumers = consumers};
    const VmbOption options[] = {
        {"consumer", 0, VMB_OPTION_EACH, "NAME",
         "only this consumer of the domain's changes, and its checkpoint", consumers},
        {"repository-id", 0, VMB_OPTION_STRING, "ID",
         "of a repository that is gone: its id, or the first 8 digits", &job.repository_id},
        {"dry-run", 'n', VMB_OPTION_FLAG, NULL, "only tell what would be removed", &job.dry_run},
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 1, 1, &status))
        return status;
    if (!choose_repository(command, &job, &error))
        return vmb_command_fail(error);
    job.uri = command->uri;
    job.domain = vmb_command_operands(command)[0];
    job.cancel = vmb_signals_install();
    g_autoptr(VmbRelease) release = vmb_release_domain(&job, &error);
    return release != NULL ? report(release, command, job.dry_run, json) : vmb_command_fail(error);
}
