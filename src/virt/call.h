/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Deadlines of libvirt's calls: one that does not return in time loses its connection, and fails by that. */
#pragma once
#include <glib.h>

/* A daemon that does not answer at all is found out by keepalive, after 20 to 25 s. Its calls wait for 30 s
 * at most for each other. So what takes longer than this hangs in QEMU or in storage. */
#define VMB_CALL_NS (45 * G_GUINT64_CONSTANT(1000000000))
/* Opening a connection, with the daemon's first answers. */
#define VMB_CALL_OPEN_NS (20 * G_GUINT64_CONSTANT(1000000000))
/* The same, and closing it, once the daemon has been given up. */
#define VMB_CALL_SHORT_NS (2 * G_GUINT64_CONSTANT(1000000000))

/* The thread that watches over the deadlines; each connection enters and leaves. */
void vmb_calls_enter(void);
void vmb_calls_leave(void);

typedef struct VmbCall VmbCall;
/* From here to the end, calls of this thread on the connection with this @socket (a duplicate of its
 * descriptor; -1: unknown, nothing is watched) must return within @ns, all together. After that the socket is
 * shut down, on which libvirt lets all its calls fail. May be nested. */
VmbCall *vmb_call_begin(int socket, guint64 ns);
void vmb_call_end(VmbCall *call);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbCall, vmb_call_end)
/* TRUE if a call that this thread is in, or was in since its begin, was given up. *@ns: its limit. */
gboolean vmb_call_expired(guint64 *ns);

/* The calls in the rest of this block have VMB_CALL_NS. */
#define VMB_CONNECTION_CALL(connection)                                                            \
    g_autoptr(VmbCall) vmb_call_ G_GNUC_UNUSED =                                                   \
        vmb_call_begin(vmb_connection_socket(connection), VMB_CALL_NS)
#define VMB_DOMAIN_CALL(domain) VMB_CONNECTION_CALL(vmb_domain_connection(domain))

/* Sockets of this process that lead to a libvirt daemon, as an array of struct VmbCallSocket. libvirt does not
 * tell a connection's descriptor, so it is the one that was not there before. */
typedef struct {
    int fd;
    guint64 inode;
} VmbCallSocket;
GArray *vmb_call_sockets(void);
/* A duplicate of the one socket that is not in @before; -1 if there is none, or more than one. */
int vmb_call_new_socket(const GArray *before);
