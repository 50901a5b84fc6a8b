/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The socket that NBD clients connect to: bound by us, so that nothing that stands there is removed, and nobody has to
 * wait for the server. */
#include "nbd/listener.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64
#define NBD_PORT 10809
#define ACTIVATED_FD 3

struct VmbListener {
    VmbFd fd;
    char *path; /* of a UNIX socket; NULL: TCP */
    dev_t device;
    ino_t inode;   /* of the socket that we have made; 0: not ours */
    char *host;    /* TCP: as in a URI */
    guint port;
    gboolean local;
};

void
vmb_listener_free(VmbListener *listener)
{
    struct stat st;
    if (listener == NULL)
        return;
    vmb_fd_clear(&listener->fd);
    if (listener->inode != 0 && lstat(listener->path, &st) == 0 && st.st_ino == listener->inode &&
        st.st_dev == listener->device)
        unlink(listener->path);
    g_free(listener->path);
    g_free(listener->host);
    g_free(listener);
}

/* ---- UNIX ---- */

static gboolean
fail_bind(const char *path, int err, GError **error)
{
    if (err == EADDRINUSE)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "%s is there already, and is left alone: remove it if nobody serves there any "
                             "more, or choose another path", path);
    return vmb_error_errno(error, err, "cannot make the socket %s", path);
}

VmbListener *
vmb_listener_unix(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    g_autoptr(VmbListener) listener = g_new0(VmbListener, 1);
    listener->fd = -1;
    listener->local = TRUE;
    listener->path = g_canonicalize_filename(path, NULL);
    if (strlen(listener->path) >= sizeof address.sun_path) {
        vmb_error_set(error, VMB_ERROR_USAGE,
                      "the socket path %s has more than %zu bytes, which is all that the system allows: "
                      "choose a shorter one", listener->path, sizeof address.sun_path - 1);
        return NULL;
    }
    strcpy(address.sun_path, listener->path);
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The mode of the file is that of the descriptor: so it is nobody else's from its first moment. */
    if (listener->fd < 0 || fchmod(listener->fd, 0600) < 0 ||
        bind(listener->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fail_bind(listener->path, errno, error);
        return NULL;
    }
    if (lstat(listener->path, &st) == 0) {
        listener->inode = st.st_ino;
        listener->device = st.st_dev;
    }
    if (listen(listener->fd, BACKLOG) < 0) {
        vmb_error_errno(error, errno, "cannot listen on %s", listener->path);
        return NULL;
    }
    return g_steal_pointer(&listener);
}

/* ---- TCP ---- */

static gboolean
describe_inet(VmbListener *listener, GSocketAddress *address)
{
    if (!G_IS_INET_SOCKET_ADDRESS(address))
        return FALSE;
    GInetAddress *inet = g_inet_socket_address_get_address(G_INET_SOCKET_ADDRESS(address));
    g_autofree char *host = g_inet_address_to_string(inet);
    gboolean six = g_inet_address_get_family(inet) == G_SOCKET_FAMILY_IPV6;
    listener->port = g_inet_socket_address_get_port(G_INET_SOCKET_ADDRESS(address));
    listener->local = g_inet_address_get_is_loopback(inet);
    g_free(listener->host);
    listener->host = g_inet_address_get_is_any(inet) ? g_strdup(g_get_host_name())
                     : six                           ? g_strdup_printf("[%s]", host)
                                                     : g_strdup(host);
    return TRUE;
}

static gboolean
listen_on(VmbListener *listener, GSocketAddress *address, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(GSocket) socket =
        g_socket_new(g_socket_address_get_family(address), G_SOCKET_TYPE_STREAM,
                     G_SOCKET_PROTOCOL_TCP, &local);
    if (socket != NULL)
        g_socket_set_listen_backlog(socket, BACKLOG);
    if (socket == NULL || !g_socket_bind(socket, address, TRUE, &local) ||
        !g_socket_listen(socket, &local)) {
        gboolean used = g_error_matches(local, G_IO_ERROR, G_IO_ERROR_ADDRESS_IN_USE);
        describe_inet(listener, address);
        return vmb_error_set(error, used ? VMB_ERROR_USAGE : VMB_ERROR_FAILED,
                             "cannot listen on %s port %u: %s%s", listener->host, listener->port,
                             local->message, used ? ". Choose another port; 0 takes any that is free" : "");
    }
    g_autoptr(GSocketAddress) bound = g_socket_get_local_address(socket, NULL);
    listener->fd = fcntl(g_socket_get_fd(socket), F_DUPFD_CLOEXEC, 0);
    if (bound == NULL || listener->fd < 0 || !describe_inet(listener, bound))
        return vmb_error_errno(error, errno, "cannot listen on port %u", listener->port);
    /* The daemon that gets it wants to wait for clients in its own way. */
    int flags = fcntl(listener->fd, F_GETFL);
    fcntl(listener->fd, F_SETFL, flags & ~O_NONBLOCK);
    return TRUE;
}

/* @text: with a host. */
static VmbListener *
listen_at(const char *text, const char *address, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(GSocketConnectable) host = g_network_address_parse(text, NBD_PORT, &local);
    g_autoptr(GSocketAddressEnumerator) all =
        host != NULL ? g_socket_connectable_enumerate(host) : NULL;
    g_autoptr(GSocketAddress) first =
        all != NULL ? g_socket_address_enumerator_next(all, NULL, &local) : NULL;
    if (first == NULL) {
        vmb_error_set(error, VMB_ERROR_USAGE, "'%s' is no address to listen on: %s", address,
                      local != NULL ? local->message : "nothing has this name");
        return NULL;
    }
    g_autoptr(VmbListener) listener = g_new0(VmbListener, 1);
    listener->fd = -1;
    return listen_on(listener, first, error) ? g_steal_pointer(&listener) : NULL;
}

VmbListener *
vmb_listener_tcp(const char *address, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (address[0] != ':')
        return listen_at(address, address, error);
    /* All addresses, which with IPv6 are those of IPv4 as well; not every host has it. */
    g_autofree char *six = g_strconcat("[::]", address, NULL);
    g_autofree char *four = g_strconcat("0.0.0.0", address, NULL);
    VmbListener *listener = listen_at(six, address, &local);
    if (listener != NULL || g_error_matches(local, VMB_ERROR, VMB_ERROR_FAILED))
        return listener != NULL ? listener : listen_at(four, address, error);
    g_propagate_error(error, g_steal_pointer(&local));
    return NULL;
}

/* ---- handed over ---- */

gboolean
vmb_listener_is_activated(void)
{
    const char *pid = g_getenv("LISTEN_PID");
    return pid != NULL && g_ascii_strtoull(pid, NULL, 10) == (guint64)getpid() &&
           g_getenv("LISTEN_FDS") != NULL;
}

static gboolean
is_listening(int fd)
{
    int value = 0, type = 0;
    socklen_t size = sizeof value, type_size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value != 0 &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) == 0 && type == SOCK_STREAM;
}

VmbListener *
vmb_listener_activated(GError **error)
{
    const char *count = g_getenv("LISTEN_FDS");
    if (!vmb_listener_is_activated() || strcmp(count, "1") != 0 || !is_listening(ACTIVATED_FD)) {
        vmb_error_set(error, VMB_ERROR_USAGE,
                      "the service manager must hand over one listening socket (a stream, Accept=no)");
        return NULL;
    }
    g_autoptr(VmbListener) listener = g_new0(VmbListener, 1);
    listener->fd = fcntl(ACTIVATED_FD, F_DUPFD_CLOEXEC, ACTIVATED_FD + 1);
    g_autoptr(GSocket) socket =
        listener->fd >= 0 ? g_socket_new_from_fd(fcntl(listener->fd, F_DUPFD_CLOEXEC, 0), error) : NULL;
    g_autoptr(GSocketAddress) address =
        socket != NULL ? g_socket_get_local_address(socket, error) : NULL;
    if (address == NULL)
        return NULL;
    if (G_IS_UNIX_SOCKET_ADDRESS(address)) {
        listener->path = g_strdup(g_unix_socket_address_get_path(G_UNIX_SOCKET_ADDRESS(address)));
        listener->local = TRUE;
    } else if (!describe_inet(listener, address)) {
        vmb_error_set(error, VMB_ERROR_USAGE, "the socket that was handed over is neither UNIX nor TCP");
        return NULL;
    }
    return g_steal_pointer(&listener);
}

/* ---- what it is called ---- */

int
vmb_listener_fd(const VmbListener *listener)
{
    return listener->fd;
}

gboolean
vmb_listener_is_local(const VmbListener *listener)
{
    return listener->local;
}

char *
vmb_listener_uri(const VmbListener *listener, const char *name, gboolean tls)
{
    g_autofree char *export = g_uri_escape_string(name, NULL, FALSE);
    const char *scheme = tls ? "nbds" : "nbd";
    if (listener->path != NULL) {
        g_autofree char *path = g_uri_escape_string(listener->path, "/", FALSE);
        return g_strdup_printf("%s+unix:///%s?socket=%s", scheme, export, path);
    }
    return g_strdup_printf("%s://%s:%u/%s", scheme, listener->host, listener->port, export);
}
