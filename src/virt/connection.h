/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Connections to libvirt, its event loop, and its errors as ours. */
#pragma once
#include <gio/gio.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include "util/error.h"

/* A connection is for one thread at a time, if it can be helped: libvirt (9.0) crashes when keepalive closes one
 * in which two threads wait for answers. */
typedef struct VmbConnection VmbConnection;

/* Opens @uri (NULL: LIBVIRT_DEFAULT_URI or qemu:///system) with keepalive, with one thread per process
 * that runs libvirt's default event loop and one that watches over its calls' deadlines (virt/call.h). It
 * takes 20 s at most. libvirt's own printing of errors is off. A URI that names another host is
 * VMB_ERROR_USAGE: sockets and images must be on this one. A driver other than QEMU is refused, as is a
 * daemon older than 7.6. Errors: VMB_ERROR_LIBVIRT. */
VmbConnection *vmb_connection_open(const char *uri, GError **error);
VmbConnection *vmb_connection_ref(VmbConnection *connection);
void vmb_connection_unref(VmbConnection *connection);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbConnection, vmb_connection_unref)
virConnectPtr vmb_connection_handle(VmbConnection *connection);
const char *vmb_connection_uri(VmbConnection *connection);
/* A duplicate of the descriptor of its socket, for vmb_call_begin(); borrowed, -1 if unknown. */
int vmb_connection_socket(VmbConnection *connection);
/* Opens the connection anew if it is dead (libvirtd restarted); objects of the old one are void. Once the
 * daemon has been away for longer than vmb_connection_patience() allows, it is asked only briefly. */
gboolean vmb_connection_reopen(VmbConnection *connection, GError **error);
/* Until when (monotonic, ns) a daemon that went away is waited for: 20 s from the first call of this
 * function after it worked the last time, so that all steps that need it wait together, not each. */
guint64 vmb_connection_patience(VmbConnection *connection);

/* Sets @error from libvirt's last error of this thread: "MESSAGE: LIBVIRT'S TEXT". Codes that say that
 * the connection is gone become VMB_ERROR_LIBVIRT, no such domain VMB_ERROR_DOMAIN, timeouts of a job
 * lock VMB_ERROR_LOCKED, others @code. A call that was given up at its deadline, with a daemon that is alive,
 * is VMB_ERROR_FAILED: trying it again is of no use. Returns FALSE. */
gboolean vmb_virt_error(GError **error, VmbErrorCode code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* Code of libvirt's last error in this thread. */
int vmb_virt_error_code(void);
