/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup init: makes a repository, or makes one of a copy. */
#include "cli/exit-status.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "repo/repository.h"

static void
print_adopted(const char *path, gboolean moved, guint dropped)
{
    if (moved)
        vmb_output_line("The repository is at home in %s now", path);
    else
        vmb_output_line("%s is a repository of its own now; each disk is compared once by the next "
                        "backup",
                        path);
    if (dropped > 0)
        vmb_output_line("Dropped: %u %s of what the original has to undo", dropped,
                        dropped == 1 ? "record" : "records");
}

int
vmb_verb_init(VmbCommand *command)
{
    gboolean adopt = FALSE, moved = FALSE;
    const VmbOption options[] = {
        {"adopt", 0, VMB_OPTION_FLAG, NULL,
         "make the copy of a repository one of its own, to be used beside the original", &adopt},
        {"moved", 0, VMB_OPTION_FLAG, NULL,
         "this is the repository itself, and the place where it was is given up", &moved},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    guint dropped = 0;
    if (!vmb_command_begin(command, options, 0, 0, &status))
        return status;
    const char *path = vmb_command_repository(command, &error);
    if (path != NULL && adopt && moved)
        vmb_error_set(&error, VMB_ERROR_USAGE, "--adopt and --moved exclude each other");
    else if (path != NULL && (adopt || moved))
        vmb_repository_adopt(path, moved, &dropped, &error);
    else if (path != NULL)
        vmb_repository_init(path, &error);
    if (error != NULL)
        return vmb_command_fail(error);
    if (!command->quiet && (adopt || moved))
        print_adopted(path, moved, dropped);
    else if (!command->quiet)
        vmb_output_line("The repository %s is ready; now: vmbackup -r %s backup DOMAIN", path,
                        path);
    return VMB_EXIT_OK;
}
