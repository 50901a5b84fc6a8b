/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tells whether the program is being killed, although it cannot die. */
#pragma once
#include <glib.h>

/* A thread in a call to a hanging filesystem keeps a killed process, and with it its end of the pipe, for
 * as long as the filesystem hangs. /proc tells: the process is a zombie with threads left, or SIGKILL waits for
 * it (proc(5), State, SigPnd and ShdPnd of status). FALSE if /proc does not say. */
gboolean vmb_guard_parent_is_killed(int pid);
