/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The socket that NBD clients connect to: bound by us, so that nothing that stands there is removed, and nobody has to
 * wait for the server. */
#pragma once
#include <glib.h>

typedef struct VmbListener VmbListener;

/* A UNIX socket at @path, for its owner alone; made, and removed in the end if it is still ours. Errors:
 * VMB_ERROR_USAGE if @path has more than 107 bytes, or anything is there. */
VmbListener *vmb_listener_unix(const char *path, GError **error);
/* @address: "HOST:PORT", "[::1]:PORT", ":PORT" (all addresses); port 0: any that is free. Errors: VMB_ERROR_USAGE, also for
 * a port that is in use. */
VmbListener *vmb_listener_tcp(const char *address, GError **error);
/* The socket that a service manager has handed over by the protocol of sd_listen_fds(3). Errors: VMB_ERROR_USAGE if there is
 * none, several, or something else than a listening UNIX or TCP socket. */
VmbListener *vmb_listener_activated(GError **error);
/* TRUE if a service manager has handed anything over to this process. */
gboolean vmb_listener_is_activated(void);
void vmb_listener_free(VmbListener *listener);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbListener, vmb_listener_free)

int vmb_listener_fd(const VmbListener *listener);
/* TRUE unless other hosts may connect. */
gboolean vmb_listener_is_local(const VmbListener *listener);
/* The URI (NBD project, doc/uri.md) of the export @name; @tls: clients must use TLS. Free with g_free(). */
char *vmb_listener_uri(const VmbListener *listener, const char *name, gboolean tls);
