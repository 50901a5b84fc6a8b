/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A helper program that runs beside us and never outlives us. */
#pragma once
#include <glib.h>

typedef struct VmbChild VmbChild;

typedef struct {
    const char *const *argv; /* [0] is looked for in PATH */
    const int *fds;          /* become the descriptors 3, 4 and so on; all others are closed */
    guint n_fds;
    gboolean listening;      /* they are sockets, handed over by the protocol of sd_listen_fds(3) */
    int end_signal;          /* sent when the calling thread ends, however that happens, and to end it */
} VmbChildSpec;

/* Runs it in a session of its own, without input and output. Errors: VMB_ERROR_FAILED. */
VmbChild *vmb_child_start(const VmbChildSpec *spec, GError **error);

/* Waits for its end; TRUE if it came within @ms and with exit status 0. */
gboolean vmb_child_wait(VmbChild *child, int ms);

/* Sends its end_signal and waits so long; TRUE if it ended within @ms and with exit status 0. */
gboolean vmb_child_stop(VmbChild *child, int ms);

/* The first line that it has written to its standard error, or what became of it; ends it as
 * vmb_child_free() does. Free with g_free(). */
char *vmb_child_complaint(VmbChild *child);

/* Ends it if it still runs: by its end_signal, and if it does not follow that in 5 s, by SIGKILL. */
void vmb_child_free(VmbChild *child);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbChild, vmb_child_free)
