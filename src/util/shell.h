/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command of the user's, run by the shell beside us with our input and output. */
#pragma once
#include <glib.h>

typedef struct VmbShell VmbShell;

/* Runs `/bin/sh -c COMMAND` with our environment and @variables ("NAME=value", NULL-terminated) on top; it is sent SIGTERM
 * when the calling thread ends, however that happens. Unless our input is a terminal it has a process group of its own, so that
 * what the command has begun is ended with it. Errors: VMB_ERROR_FAILED. */
VmbShell *vmb_shell_start(const char *command, const char *const *variables, GError **error);
/* A descriptor that becomes readable when it has ended. */
int vmb_shell_fd(const VmbShell *shell);
/* Waits for its end and says how it ended: NULL if with status 0, else "ended with status 3". *@status: as a shell
 * tells it, 128+N for a signal; may be NULL. Free with g_free(). */
char *vmb_shell_wait(VmbShell *shell, int *status);
/* Asks it to end (SIGTERM), and does not wait. */
void vmb_shell_ask(VmbShell *shell);
/* Ends it if it still runs: SIGTERM, and after 10 s SIGKILL; what does not end by that is left. */
void vmb_shell_free(VmbShell *shell);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbShell, vmb_shell_free)
