/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serves the disk of a shut-off domain by a qemu-nbd of our own, read-only and in nobody's way. */
#pragma once
#include <glib.h>

/* One file of the chain to be served, the active one first. */
typedef struct {
    const char *path;      /* absolute */
    const char *format;    /* "qcow2" or "raw" */
    const char *data_file; /* path of a qcow2's external data file, or NULL */
} VmbServeLayer;

/* The whole chain as one block device in QEMU's JSON, so that nothing is taken from the images' headers;
 * no locks are asked for and none are respected (force-share). Free with g_free(). */
char *vmb_nbd_server_chain(const VmbServeLayer *layers, guint n_layers);

typedef struct VmbNbdServer VmbNbdServer;

/* Listens on @socket, whose directory must exist and be private to us, and serves @chain as the export
 * @name, with the context "qemu:dirty-bitmap:BITMAP" if @bitmap is not NULL. It dies with the calling
 * thread. What is wrong with the images shows when somebody connects. Errors: VMB_ERROR_FAILED. */
VmbNbdServer *vmb_nbd_server_start(const char *chain, const char *name, const char *bitmap,
                                   const char *socket, GError **error);
/* Ends it and says what it had to complain of. Free with g_free(). */
char *vmb_nbd_server_complaint(VmbNbdServer *server);
/* Ends it and removes its socket. */
void vmb_nbd_server_free(VmbNbdServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbNbdServer, vmb_nbd_server_free)
