/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The block devices that a disk of a point consists of, as QEMU is told to open them. */
#pragma once
#include "job/chain-files.h"
#include "nbd/export-server.h"

/* Adds the layers of @files (the newest of @n is the disk, nodes "TARGET-0", "TARGET-1" and so on), read-only. QEMU opens the very
 * files that we have open and have checked, by our descriptors, and follows no name in a header. @files must stay
 * open as long as the server is there. Returns the name of the newest node; free with g_free(). */
char *vmb_export_nodes_chain(VmbExportServer *server, VmbChainFiles *files, guint n,
                             const char *target);

/* Adds the qcow2 image @fd, which is open for reading and, with @writable, writing, on top of the node @below. Returns the
 * node's name, "TARGET-top"; free with g_free(). */
char *vmb_export_nodes_top(VmbExportServer *server, int fd, gboolean writable, const char *below,
                           const char *target);
