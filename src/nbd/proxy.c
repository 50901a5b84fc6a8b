/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stands between clients and an NBD server in QEMU, so that no client can keep that one from ending: QEMU waits for a
 * client that is connected and says nothing, with its guest. */
#include "nbd/proxy.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MAX_CONNECTIONS 64
#define PIPE_BYTES (1024 * 1024)
#define LOOK_MS 500
#define HANDSHAKE_US (10 * G_USEC_PER_SEC)

/* NBD project, doc/proto.md, "Newstyle negotiation" and "Option negotiation"; all numbers are big-endian. */
#define GREETING "NBDMAGICIHAVEOPT\0\3" /* fixed newstyle, no zeroes */
#define GREETING_BYTES 18u
#define FLAGS_BYTES 4u
#define REPLY_MAGIC G_GUINT64_CONSTANT(0x3e889045565a9)
#define OPTION_GO 7u
#define REPLY_ACK 1u
#define REPLY_MAX (1024u * 1024u)

/* Two threads, one for each direction. */
typedef struct {
    VmbNbdProxy *proxy;
    VmbFd client, server; /* server: -1 until the client has said something */
    gint64 deadline;      /* of the handshake, monotonic; 0: it is done */
    int n_threads;        /* that are at work */
} Connection;

struct VmbNbdProxy {
    int listen_fd;
    char *server;
    VmbFd stop; /* readable: it is to end */
    GThread *acceptor;
    GMutex lock;
    GCond ended;            /* a connection has ended */
    GPtrArray *connections; /* under the lock, with what they hold */
    gboolean ending;        /* likewise */
};

/* ---- the handshake ---- */

/* QEMU would wait for ever for what a client does not say, and cannot end its server meanwhile. So it hears of a
 * client only when that has answered the greeting, and the rest must not take long. */
static int
introduce(const Connection *connection)
{
    guint8 flags[FLAGS_BYTES], greeting[GREETING_BYTES];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (send(connection->client, GREETING, GREETING_BYTES, MSG_NOSIGNAL) != (ssize_t)GREETING_BYTES ||
        recv(connection->client, flags, sizeof flags, MSG_WAITALL) != (ssize_t)sizeof flags)
        return -1;
    g_strlcpy(address.sun_path, connection->proxy->server, sizeof address.sun_path);
    const struct timeval patience = {.tv_sec = HANDSHAKE_US / G_USEC_PER_SEC}, none = {0};
    g_auto(VmbFd) fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        recv(fd, greeting, sizeof greeting, MSG_WAITALL) != (ssize_t)sizeof greeting ||
        memcmp(greeting, GREETING, GREETING_BYTES) != 0 ||
        send(fd, flags, sizeof flags, MSG_NOSIGNAL) != (ssize_t)sizeof flags ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none) < 0)
        return -1;
    return vmb_fd_steal(&fd);
}

static gboolean
pass_bytes(int from, int to, guint8 *buffer, gsize length)
{
    return recv(from, buffer, length, MSG_WAITALL) == (ssize_t)length &&
           send(to, buffer, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* Passes the server's answers on until one lets the client in. FALSE: it came to an end before. */
static gboolean
pass_answers(int server, int client)
{
    g_autofree guint8 *buffer = g_malloc(REPLY_MAX);
    for (;;) {
        guint64 magic;
        guint32 fields[3]; /* option, type, length of what follows */
        if (!pass_bytes(server, client, buffer, sizeof magic))
            return FALSE;
        memcpy(&magic, buffer, sizeof magic);
        /* An export by its name alone, as old clients ask for: this is its size. */
        if (GUINT64_FROM_BE(magic) != REPLY_MAGIC)
            return TRUE;
        if (!pass_bytes(server, client, buffer, sizeof fields))
            return FALSE;
        memcpy(fields, buffer, sizeof fields);
        gsize length = GUINT32_FROM_BE(fields[2]);
        if (length > REPLY_MAX || (length > 0 && !pass_bytes(server, client, buffer, length)))
            return FALSE;
        if (GUINT32_FROM_BE(fields[0]) == OPTION_GO && GUINT32_FROM_BE(fields[1]) == REPLY_ACK)
            return TRUE;
    }
}

/* ---- passing on ---- */

/* TRUE when all that came has been passed on and no more will come. */
static gboolean
pass_on(int from, int to, int pipe_in, int pipe_out)
{
    for (;;) {
        ssize_t n = splice(from, NULL, pipe_in, NULL, PIPE_BYTES, SPLICE_F_MOVE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        while (n > 0) {
            ssize_t out = splice(pipe_out, NULL, to, NULL, (gsize)n, SPLICE_F_MOVE);
            if (out < 0 && errno == EINTR)
                continue;
            if (out <= 0)
                return FALSE;
            n -= out;
        }
    }
}

static void
leave(Connection *connection)
{
    VmbNbdProxy *proxy = connection->proxy;
    g_mutex_lock(&proxy->lock);
    if (--connection->n_threads == 0) {
        vmb_fd_clear(&connection->client);
        vmb_fd_clear(&connection->server);
        g_ptr_array_remove_fast(proxy->connections, connection);
        g_free(connection);
        g_cond_broadcast(&proxy->ended);
    }
    g_mutex_unlock(&proxy->lock);
}

static void
relay(int from, int to)
{
    int ends[2];
    gboolean whole = FALSE;
    if (pipe2(ends, O_CLOEXEC) == 0) {
        (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
        whole = pass_on(from, to, ends[1], ends[0]);
        close(ends[0]);
        close(ends[1]);
    }
    /* The end of what one side says is passed on as well; after an error both have nothing more to say. */
    shutdown(to, whole ? SHUT_WR : SHUT_RDWR);
    if (!whole)
        shutdown(from, SHUT_RDWR);
}

static gpointer
relay_replies(gpointer data)
{
    Connection *connection = data;
    VmbNbdProxy *proxy = connection->proxy;
    gboolean let_in = pass_answers(connection->server, connection->client);
    g_mutex_lock(&proxy->lock);
    connection->deadline = 0;
    g_mutex_unlock(&proxy->lock);
    if (let_in)
        relay(connection->server, connection->client);
    shutdown(connection->client, SHUT_RDWR);
    shutdown(connection->server, SHUT_RDWR);
    leave(connection);
    return NULL;
}

static gpointer
relay_requests(gpointer data)
{
    Connection *connection = data;
    VmbNbdProxy *proxy = connection->proxy;
    int server = introduce(connection);
    if (server < 0) {
        leave(connection);
        return NULL;
    }
    g_mutex_lock(&proxy->lock);
    connection->server = server;
    connection->n_threads++;
    gboolean ending = proxy->ending;
    g_mutex_unlock(&proxy->lock);
    if (ending)
        shutdown(server, SHUT_RDWR);
    g_thread_unref(g_thread_new("nbd-replies", relay_replies, connection));
    relay(connection->client, server);
    leave(connection);
    return NULL;
}

/* ---- clients ---- */

static void
begin(VmbNbdProxy *proxy, int client)
{
    Connection *connection = g_new0(Connection, 1);
    *connection = (Connection){proxy, client, -1, g_get_monotonic_time() + HANDSHAKE_US, 1};
    g_mutex_lock(&proxy->lock);
    g_ptr_array_add(proxy->connections, connection);
    g_mutex_unlock(&proxy->lock);
    g_thread_unref(g_thread_new("nbd-requests", relay_requests, connection));
}

/* TRUE if there are any; *@room: there may be more. */
static gboolean
look_at_clients(VmbNbdProxy *proxy, gboolean *room)
{
    gint64 now = g_get_monotonic_time();
    g_mutex_lock(&proxy->lock);
    for (guint i = 0; i < proxy->connections->len; i++) {
        const Connection *connection = proxy->connections->pdata[i];
        if (connection->deadline == 0 || connection->deadline > now)
            continue;
        shutdown(connection->client, SHUT_RDWR);
        shutdown(connection->server, SHUT_RDWR);
    }
    guint n = proxy->connections->len;
    g_mutex_unlock(&proxy->lock);
    *room = n < MAX_CONNECTIONS;
    return n > 0;
}

static gpointer
accept_clients(gpointer data)
{
    VmbNbdProxy *proxy = data;
    for (;;) {
        gboolean room = TRUE, any = look_at_clients(proxy, &room);
        struct pollfd fds[] = {{proxy->stop, POLLIN, 0}, {room ? proxy->listen_fd : -1, POLLIN, 0}};
        if (poll(fds, G_N_ELEMENTS(fds), any ? LOOK_MS : -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[0].revents != 0)
            return NULL;
        if (fds[1].revents == 0)
            continue;
        int client = accept4(proxy->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0)
            begin(proxy, client);
    }
}

VmbNbdProxy *
vmb_nbd_proxy_start(int listen_fd, const char *server, GError **error)
{
    g_autoptr(VmbNbdProxy) proxy = g_new0(VmbNbdProxy, 1);
    g_mutex_init(&proxy->lock);
    g_cond_init(&proxy->ended);
    proxy->listen_fd = listen_fd;
    proxy->server = g_strdup(server);
    proxy->connections = g_ptr_array_new();
    proxy->stop = eventfd(0, EFD_CLOEXEC);
    if (proxy->stop < 0) {
        vmb_error_errno(error, errno, "cannot make an event descriptor");
        return NULL;
    }
    proxy->acceptor = g_thread_new("nbd-proxy", accept_clients, proxy);
    return g_steal_pointer(&proxy);
}

void
vmb_nbd_proxy_free(VmbNbdProxy *proxy)
{
    const guint64 one = 1;
    if (proxy == NULL)
        return;
    if (proxy->acceptor != NULL) {
        if (write(proxy->stop, &one, sizeof one) < 0)
            vmb_debug("cannot wake a thread: %s", g_strerror(errno));
        g_thread_join(proxy->acceptor);
    }
    g_mutex_lock(&proxy->lock);
    proxy->ending = TRUE;
    for (guint i = 0; i < proxy->connections->len; i++) {
        const Connection *connection = proxy->connections->pdata[i];
        shutdown(connection->client, SHUT_RDWR);
        shutdown(connection->server, SHUT_RDWR);
    }
    while (proxy->connections->len > 0)
        g_cond_wait(&proxy->ended, &proxy->lock);
    g_mutex_unlock(&proxy->lock);
    vmb_fd_clear(&proxy->stop);
    g_ptr_array_unref(proxy->connections);
    g_free(proxy->server);
    g_mutex_clear(&proxy->lock);
    g_cond_clear(&proxy->ended);
    g_free(proxy);
}
