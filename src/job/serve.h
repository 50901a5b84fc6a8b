/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all exports share: where they are served, what is said of them, and how long. */
#pragma once
#include <gio/gio.h>
#include "nbd/export-server.h"
#include "nbd/listener.h"
#include "util/shell.h"

/* Where to serve, and to whom. */
typedef struct {
    const char *socket; /* path of a UNIX socket, or NULL */
    const char *listen; /* "HOST:PORT", or NULL */
    VmbTlsKind tls;
    const char *tls_dir;
    gboolean allow_plain; /* other hosts may connect without TLS */
} VmbServeAddress;

/* One export as clients see it. */
typedef struct {
    char *target;  /* and name of the export */
    char *uri;
    char *context; /* meta context that tells what has changed, or NULL */
    guint64 size;  /* bytes */
    guint64 changed, zeroed; /* bytes that have changed and are data or zero; with context only */
} VmbServedDisk;
void vmb_served_disk_free(VmbServedDisk *disk);

/* All that is served. */
typedef struct {
    char *domain, *uuid;
    char *point; /* id; NULL: the running domain */
    char *since; /* id of a point, or name of a consumer; NULL: none */
    GPtrArray *disks; /* VmbServedDisk */
} VmbServed;
void vmb_served_free(VmbServed *served);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbServed, vmb_served_free)

typedef void (*VmbServeReady)(const VmbServed *served, gpointer user);

typedef struct VmbServePlace VmbServePlace;

/* The socket that @address asks for: that of a service manager if it names none; if there is none either, with
 * @private a socket in a directory of its own, which others that died have left nothing beside. Errors: VMB_ERROR_USAGE, also
 * for clients of other hosts without TLS. */
VmbServePlace *vmb_serve_place_new(const VmbServeAddress *address, gboolean private, GError **error);
/* Removes what it has made. */
void vmb_serve_place_free(VmbServePlace *place);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbServePlace, vmb_serve_place_free)
/* Borrowed. */
VmbListener *vmb_serve_place_listener(VmbServePlace *place);

/* Says that all is @ready, runs @command (NULL: none) with what is served in its environment (VMBACKUP_URI and others: see
 * vmbackup-export(1)), and waits: for the end of the command, for @cancel (without a command: a good end), or until the server's
 * descriptor @server_fd (-1: none) tells that it has ended. *@status: of the command. A command that still runs then has been asked to
 * end, and is left to the caller in *@left, to be waited for (by freeing it) when all that holds a guest has ended. Errors: VMB_ERROR_FAILED, also for a
 * command that fails; VMB_ERROR_CANCELLED. */
gboolean vmb_serve(const VmbServed *served, const char *command, int server_fd,
                   VmbServeReady ready, gpointer user, GCancellable *cancel, int *status,
                   VmbShell **left, GError **error);
