/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The thread that runs libvirt's default event loop while connections are open. */
#pragma once
#include "util/error.h"

/* Counted: the first caller starts the thread, the last one to leave ends it and waits for it. It
 * iterates GLib's default main context, so nothing else in the program may. Must be entered before
 * a connection is opened, and left after it was closed. Errors: VMB_ERROR_LIBVIRT. */
gboolean vmb_event_loop_enter(GError **error);
void vmb_event_loop_leave(void);
