/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stands between clients and an NBD server in QEMU, so that no client can keep that one from ending: QEMU waits for a
 * client that is connected and says nothing, with its guest. */
#pragma once
#include <glib.h>

typedef struct VmbNbdProxy VmbNbdProxy;

/* Takes clients of the listening @listen_fd (borrowed) to the UNIX socket @server, each by a connection of its own, in
 * threads; bytes pass as they are. More than 64 at a time wait. Errors: VMB_ERROR_FAILED. */
VmbNbdProxy *vmb_nbd_proxy_start(int listen_fd, const char *server, GError **error);
/* Closes all connections; when it returns the server has no client of it any more. */
void vmb_nbd_proxy_free(VmbNbdProxy *proxy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbNbdProxy, vmb_nbd_proxy_free)
