/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup init: makes a repository. */
#include "cli/exit-status.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "repo/repository.h"

int
vmb_verb_init(VmbCommand *command)
{
    const VmbOption options[] = {{NULL}};
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, 0, &status))
        return status;
    const char *path = vmb_command_repository(command, &error);
    if (path == NULL || !vmb_repository_init(path, &error))
        return vmb_command_fail(error);
    if (!command->quiet)
        vmb_output_line("The repository %s is ready; now: vmbackup -r %s backup DOMAIN", path,
                        path);
    return VMB_EXIT_OK;
}
