/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command of the user's, run by the shell beside us with our input and output. */
#pragma once
#include <glib.h>

typedef struct VmbShell VmbShell;

/* Runs `/bin/sh -c COMMAND` with our environment and @variables ("NAME=value", NULL-terminated) on top; it is sent SIGTERM
 * when the calling thread ends, however that happens. Errors: VMB_ERROR_FAILED. */
VmbShell *vmb_shell_start(const char *command, const char *const *variables, GError **error);
/* A descriptor that becomes readable when it has ended. */
int vmb_shell_fd(const VmbShell *shell);
/* Waits for its end and says how it ended: NULL if with status 0, else "ended with status 3". *@status: as a shell
 * tells it, 128+N for a signal; may be NULL. Free with g_free(). */
char *vmb_shell_wait(VmbShell *shell, int *status);
/* Ends it if it still runs: SIGTERM, and after 10 s SIGKILL. */
void vmb_shell_free(VmbShell *shell);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbShell, vmb_shell_free)
