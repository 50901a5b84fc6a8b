/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Turns SIGINT, SIGTERM and SIGHUP into one cancellation that lets everything be undone. */
#pragma once
#include <gio/gio.h>

/* Installs the handlers (SIGHUP only where it is not ignored, as under nohup) and ignores SIGPIPE.
 * The first signal cancels the returned object (borrowed, the same at each call); a later one only
 * says that the clean-up is under way. Handlers do not reach programs that are started. */
GCancellable *vmb_signals_install(void);

/* Number of the first signal that came; 0: none. */
int vmb_signals_caught(void);
