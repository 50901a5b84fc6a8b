/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serves the disk of a shut-off domain by a qemu-nbd of our own, read-only and in nobody's way. */
#include "nbd/server.h"
#include "util/child.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/json.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 16
#define MAX_CLIENTS "8"

struct VmbNbdServer {
    VmbChild *child;
    char *socket;
};

static VmbJson *
describe_file(const char *path)
{
    struct stat st;
    gboolean device = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
    VmbJson *file = json_object_new_object();
    vmb_json_add_string(file, "driver", device ? "host_device" : "file");
    vmb_json_add_string(file, "filename", path);
    return file;
}

static VmbJson *
describe_layer(const VmbServeLayer *layer)
{
    VmbJson *node = json_object_new_object();
    vmb_json_add_string(node, "driver", layer->format);
    vmb_json_add_bool(node, "force-share", TRUE);
    vmb_json_add(node, "file", describe_file(layer->path));
    if (layer->data_file != NULL)
        vmb_json_add(node, "data-file", describe_file(layer->data_file));
    return node;
}

char *
vmb_nbd_server_chain(const VmbServeLayer *layers, guint n_layers)
{
    VmbJson *node = NULL;
    for (guint i = n_layers; i-- > 0;) {
        VmbJson *above = describe_layer(&layers[i]);
        /* Without it QEMU would follow the header. Other formats have none. */
        if (strcmp(layers[i].format, "qcow2") == 0)
            json_object_object_add(above, "backing", node);
        else
            json_object_put(node);
        node = above;
    }
    char *text =
        g_strconcat("json:", json_object_to_json_string_ext(node, JSON_C_TO_STRING_PLAIN), NULL);
    json_object_put(node);
    return text;
}

/* Bound by us, so that there is no moment at which the server is not there yet. */
static int
listen_on(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_auto(VmbFd) fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof address.sun_path) {
        vmb_error_set(error, VMB_ERROR_FAILED, "the socket path %s is longer than 107 bytes", path);
        return -1;
    }
    strcpy(address.sun_path, path);
    if (fd < 0 || (unlink(path) < 0 && errno != ENOENT) ||
        bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0) {
        vmb_error_errno(error, errno, "cannot listen on %s", path);
        return -1;
    }
    return vmb_fd_steal(&fd);
}

VmbNbdServer *
vmb_nbd_server_start(const char *chain, const char *name, const char *bitmap, const char *socket,
                     GError **error)
{
    const char *const argv[] = {"qemu-nbd", "--read-only", "--persistent", "--shared", MAX_CLIENTS,
                                "--export-name", name, chain,
                                bitmap != NULL ? "--bitmap" : NULL, bitmap, NULL};
    g_auto(VmbFd) fd = listen_on(socket, error);
    if (fd < 0)
        return NULL;
    VmbChildSpec spec = {.argv = argv, .fds = &fd, .n_fds = 1, .listening = TRUE,
                         .end_signal = SIGKILL};
    VmbChild *child = vmb_child_start(&spec, error);
    if (child == NULL) {
        unlink(socket);
        return NULL;
    }
    VmbNbdServer *server = g_new0(VmbNbdServer, 1);
    server->child = child;
    server->socket = g_strdup(socket);
    return server;
}

char *
vmb_nbd_server_complaint(VmbNbdServer *server)
{
    return vmb_child_complaint(server->child);
}

void
vmb_nbd_server_free(VmbNbdServer *server)
{
    if (server == NULL)
        return;
    vmb_child_free(server->child);
    unlink(server->socket);
    g_free(server->socket);
    g_free(server);
}
