/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tells whether the program is being killed, although it cannot die. */
#include "virt/guard-parent.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static gboolean
has_sigkill(const char *mask)
{
    return (g_ascii_strtoull(mask, NULL, 16) & (G_GUINT64_CONSTANT(1) << (SIGKILL - 1))) != 0;
}

gboolean
vmb_guard_parent_is_killed(int pid)
{
    char line[256];
    gboolean killed = FALSE;
    g_autofree char *path = g_strdup_printf("/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && !killed && fgets(line, sizeof line, status) != NULL) {
        if (g_str_has_prefix(line, "State:"))
            killed = strchr("ZX", g_strchug(line + strlen("State:"))[0]) != NULL;
        else if (g_str_has_prefix(line, "SigPnd:") || g_str_has_prefix(line, "ShdPnd:"))
            killed = has_sigkill(line + strlen("SigPnd:"));
    }
    if (status != NULL)
        fclose(status);
    return killed;
}
