/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serves block devices by a qemu-storage-daemon of our own, on a socket of ours, as one server with an export each. */
#include "nbd/export-server.h"
#include "util/child.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#define PROGRAM "qemu-storage-daemon"
/* More clients than anybody needs, and fewer than it has descriptors. */
#define MAX_CONNECTIONS 256
/* What the descriptors become that it inherits. */
#define LISTEN_FD "3"
#define MONITOR_FD "4"

struct VmbExportServer {
    int listen_fd;
    gboolean tls;
    GPtrArray *argv;
    GPtrArray *exports; /* come last */
    guint n_exports;
    VmbChild *child;
    VmbFd monitor; /* the daemon holds the other end: as long as it lives */
};

static void
add(VmbExportServer *server, const char *option, char *value)
{
    g_ptr_array_add(server->argv, g_strdup(option));
    g_ptr_array_add(server->argv, value);
}

static char *
text_of(VmbJson *object)
{
    char *text = g_strdup(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
    json_object_put(object);
    return text;
}

static void
add_tls(VmbExportServer *server, VmbTlsKind tls, const char *dir)
{
    VmbJson *object = json_object_new_object();
    vmb_json_add_string(object, "qom-type", tls == VMB_TLS_PSK ? "tls-creds-psk" : "tls-creds-x509");
    vmb_json_add_string(object, "id", "tls");
    vmb_json_add_string(object, "endpoint", "server");
    vmb_json_add_string(object, "dir", dir);
    vmb_json_add_bool(object, "verify-peer", tls != VMB_TLS_X509_ANY);
    add(server, "--object", text_of(object));
}

VmbExportServer *
vmb_export_server_new(int listen_fd, VmbTlsKind tls, const char *tls_dir)
{
    VmbExportServer *server = g_new0(VmbExportServer, 1);
    server->listen_fd = listen_fd;
    server->monitor = -1;
    server->tls = tls != VMB_TLS_NONE;
    server->argv = g_ptr_array_new_with_free_func(g_free);
    server->exports = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(server->argv, g_strdup(PROGRAM));
    if (server->tls)
        add_tls(server, tls, tls_dir);
    return server;
}

void
vmb_export_server_add_node(VmbExportServer *server, VmbJson *node)
{
    add(server, "--blockdev", text_of(node));
}

void
vmb_export_server_add_export(VmbExportServer *server, const char *node, const char *name,
                             gboolean writable, const char *bitmap)
{
    VmbJson *object = json_object_new_object();
    g_autofree char *id = g_strdup_printf("export-%u", server->n_exports++);
    vmb_json_add_string(object, "type", "nbd");
    vmb_json_add_string(object, "id", id);
    vmb_json_add_string(object, "node-name", node);
    vmb_json_add_string(object, "name", name);
    vmb_json_add_bool(object, "writable", writable);
    if (bitmap != NULL) {
        VmbJson *bitmaps = json_object_new_array();
        json_object_array_add(bitmaps, json_object_new_string(bitmap));
        vmb_json_add(object, "bitmaps", bitmaps);
    }
    g_ptr_array_add(server->exports, text_of(object));
}

static void
complete_argv(VmbExportServer *server)
{
    add(server, "--nbd-server",
        g_strdup_printf("addr.type=fd,addr.str=" LISTEN_FD ",max-connections=%d%s", MAX_CONNECTIONS,
                        server->tls ? ",tls-creds=tls" : ""));
    for (guint i = 0; i < server->exports->len; i++)
        add(server, "--export", g_strdup(server->exports->pdata[i]));
    add(server, "--chardev", g_strdup("socket,id=monitor,fd=" MONITOR_FD));
    add(server, "--monitor", g_strdup("chardev=monitor"));
    g_ptr_array_add(server->argv, NULL);
}

/* It greets when everything before it on the command line is done. */
static gboolean
await_greeting(VmbExportServer *server, int cancel_fd, guint64 ns)
{
    guint64 deadline = vmb_units_monotonic() + ns;
    char byte = 0;
    while (byte != '\n') {
        struct pollfd wait[] = {{server->monitor, POLLIN, 0}, {cancel_fd, POLLIN, 0}};
        guint64 now = vmb_units_monotonic();
        int ms = now < deadline ? (int)MIN((deadline - now) / 1000000 + 1, G_MAXINT) : 0;
        if (poll(wait, G_N_ELEMENTS(wait), ms) < 0 && errno == EINTR)
            continue;
        if (wait[1].revents != 0 || (wait[0].revents & (POLLIN | POLLHUP)) == 0 || read(server->monitor, &byte, 1) != 1)
            return FALSE;
    }
    return TRUE;
}

static gboolean
fail_start(VmbExportServer *server, GError **error)
{
    g_autofree char *complaint = vmb_export_server_complaint(server);
    return vmb_error_set(error, VMB_ERROR_FAILED, "nothing is served: %s", complaint);
}

gboolean
vmb_export_server_start(VmbExportServer *server, guint64 ns, GCancellable *cancel, GError **error)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return vmb_error_errno(error, errno, "cannot make a pair of sockets");
    server->monitor = ends[0];
    g_auto(VmbFd) theirs = ends[1];
    complete_argv(server);
    const int fds[] = {server->listen_fd, theirs};
    VmbChildSpec spec = {.argv = (const char *const *)(gpointer)server->argv->pdata,
                         .fds = fds,
                         .n_fds = G_N_ELEMENTS(fds),
                         .end_signal = SIGTERM};
    server->child = vmb_child_start(&spec, error);
    if (server->child == NULL)
        return FALSE;
    vmb_fd_clear(&theirs);
    GPollFD pollfd = {-1, 0, 0};
    gboolean made = cancel != NULL && g_cancellable_make_pollfd(cancel, &pollfd);
    gboolean greeted = await_greeting(server, pollfd.fd, ns);
    if (made)
        g_cancellable_release_fd(cancel);
    if (!greeted && g_cancellable_is_cancelled(cancel))
        return vmb_error_set(error, VMB_ERROR_CANCELLED, "interrupted before anything was served");
    return greeted || fail_start(server, error);
}

int
vmb_export_server_fd(const VmbExportServer *server)
{
    return server->monitor;
}

char *
vmb_export_server_complaint(VmbExportServer *server)
{
    return vmb_child_complaint(server->child);
}

gboolean
vmb_export_server_stop(VmbExportServer *server, guint64 ns, GError **error)
{
    if (vmb_child_stop(server->child, (int)MIN(ns / 1000000, G_MAXINT)))
        return TRUE;
    g_autofree char *complaint = vmb_export_server_complaint(server);
    return vmb_error_set(error, VMB_ERROR_FAILED, "the server has not ended in good order: %s", complaint);
}

void
vmb_export_server_free(VmbExportServer *server)
{
    if (server == NULL)
        return;
    vmb_child_free(server->child);
    vmb_fd_clear(&server->monitor);
    g_ptr_array_unref(server->argv);
    g_ptr_array_unref(server->exports);
    g_free(server);
}
