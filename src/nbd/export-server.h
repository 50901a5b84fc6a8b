/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serves block devices by a qemu-storage-daemon of our own, on a socket of ours, as one server with an export each. */
#pragma once
#include "util/json.h"

#include <gio/gio.h>

/* What clients must use to be let in. */
typedef enum {
    VMB_TLS_NONE,
    VMB_TLS_X509,      /* a directory with ca-cert.pem, server-cert.pem and server-key.pem; clients need a certificate */
    VMB_TLS_X509_ANY,  /* the same, but clients need none */
    VMB_TLS_PSK,       /* a directory with keys.psk */
} VmbTlsKind;

typedef struct VmbExportServer VmbExportServer;

/* For adding to, before it is started. @listen_fd: borrowed. @tls_dir: NULL with VMB_TLS_NONE. */
VmbExportServer *vmb_export_server_new(int listen_fd, VmbTlsKind tls, const char *tls_dir);

/* A block device as of blockdev-add in QEMU's QMP reference, with its node-name; @node is taken. Nodes that it refers to
 * come first. */
void vmb_export_server_add_node(VmbExportServer *server, VmbJson *node);
/* The node is served as the export @name; @bitmap: NULL, or one of the node that becomes the meta context
 * "qemu:dirty-bitmap:BITMAP". */
void vmb_export_server_add_export(VmbExportServer *server, const char *node, const char *name,
                                  gboolean writable, const char *bitmap);

/* Starts the daemon, which dies with the calling thread, and waits until all is open and it serves. Errors: VMB_ERROR_FAILED
 * with what it said (also of certificates and keys), or if it takes longer than @ns; VMB_ERROR_CANCELLED. */
gboolean vmb_export_server_start(VmbExportServer *server, guint64 ns, GCancellable *cancel,
                                 GError **error);

/* A descriptor that becomes readable when the daemon has ended. */
int vmb_export_server_fd(const VmbExportServer *server);
/* Ends it and says what it had to complain of. Free with g_free(). */
char *vmb_export_server_complaint(VmbExportServer *server);
/* Ends it in good order: what clients have written is in the images afterwards. Errors: VMB_ERROR_FAILED if it does not end within
 * @ns, or says that it has failed. */
gboolean vmb_export_server_stop(VmbExportServer *server, guint64 ns, GError **error);
/* Ends it; clients lose their connections. */
void vmb_export_server_free(VmbExportServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbExportServer, vmb_export_server_free)
