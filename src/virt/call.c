/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Deadlines of libvirt's calls: one that does not return in time loses its connection, and fails by that. */
#include "virt/call.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct VmbCall {
    int socket;
    guint64 ns;
    gint64 deadline; /* monotonic, in microseconds */
    gboolean expired;
    VmbCall *outer; /* of the same thread */
};

static GMutex life; /* of users and thread; held while one is waited for */
static guint users;
static GThread *thread;
static GMutex lock; /* of what follows */
static GCond changed;
static gboolean stopping;
static GSList *calls; /* all that have not ended, of all threads */
static __thread VmbCall *innermost;

/* Shuts down what is late; returns when to look again. */
static gint64
expire(gint64 now)
{
    gint64 next = G_MAXINT64;
    for (GSList *item = calls; item != NULL; item = item->next) {
        VmbCall *call = item->data;
        if (call->expired || call->socket < 0)
            continue;
        if (call->deadline > now) {
            next = MIN(next, call->deadline);
            continue;
        }
        call->expired = TRUE;
        shutdown(call->socket, SHUT_RDWR);
    }
    return next;
}

static gpointer
watch(gpointer data)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    while (!stopping) {
        gint64 next = expire(g_get_monotonic_time());
        if (next == G_MAXINT64)
            g_cond_wait(&changed, &lock);
        else
            g_cond_wait_until(&changed, &lock, next);
    }
    return NULL;
}

void
vmb_calls_enter(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&life);
    if (users++ > 0)
        return;
    stopping = FALSE;
    thread = g_thread_new("libvirt-calls", watch, NULL);
}

void
vmb_calls_leave(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&life);
    g_assert(users > 0);
    if (--users > 0)
        return;
    g_mutex_lock(&lock);
    stopping = TRUE;
    g_cond_signal(&changed);
    g_mutex_unlock(&lock);
    g_thread_join(g_steal_pointer(&thread));
}

VmbCall *
vmb_call_begin(int socket, guint64 ns)
{
    VmbCall *call = g_new0(VmbCall, 1);
    call->socket = socket;
    call->ns = ns;
    call->deadline = g_get_monotonic_time() + (gint64)(ns / 1000);
    call->outer = innermost;
    innermost = call;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    calls = g_slist_prepend(calls, call);
    g_cond_signal(&changed);
    return call;
}

void
vmb_call_end(VmbCall *call)
{
    innermost = call->outer;
    g_mutex_lock(&lock);
    calls = g_slist_remove(calls, call);
    g_mutex_unlock(&lock);
    g_free(call);
}

gboolean
vmb_call_expired(guint64 *ns)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    for (VmbCall *call = innermost; call != NULL; call = call->outer) {
        if (!call->expired)
            continue;
        if (ns != NULL)
            *ns = call->ns;
        return TRUE;
    }
    return FALSE;
}

/* "libvirt-sock", "virtqemud-sock"; also where tests have theirs. Our own NBD servers have other names. */
static gboolean
is_daemon(const struct sockaddr_storage *address, socklen_t length)
{
    if (address->ss_family == AF_INET || address->ss_family == AF_INET6)
        return TRUE;
    const struct sockaddr_un *peer = (const struct sockaddr_un *)address;
    gsize head = offsetof(struct sockaddr_un, sun_path);
    if (address->ss_family != AF_UNIX || length <= head || peer->sun_path[0] == '\0')
        return FALSE;
    g_autofree char *path = g_strndup(peer->sun_path, length - head);
    return g_str_has_suffix(path, "-sock");
}

GArray *
vmb_call_sockets(void)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(VmbCallSocket));
    g_autoptr(GDir) directory = g_dir_open("/proc/self/fd", 0, NULL);
    const char *name;
    while (directory != NULL && (name = g_dir_read_name(directory)) != NULL) {
        struct sockaddr_storage address = {0};
        socklen_t length = sizeof address;
        struct stat st;
        int fd = atoi(name);
        if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode) ||
            getpeername(fd, (struct sockaddr *)&address, &length) < 0 ||
            !is_daemon(&address, length))
            continue;
        VmbCallSocket socket = {fd, st.st_ino};
        g_array_append_val(found, socket);
    }
    return found;
}

static gboolean
contains(const GArray *sockets, guint64 inode)
{
    for (guint i = 0; i < sockets->len; i++) {
        if (g_array_index(sockets, VmbCallSocket, i).inode == inode)
            return TRUE;
    }
    return FALSE;
}

int
vmb_call_new_socket(const GArray *before)
{
    const VmbCallSocket *only = NULL;
    g_autoptr(GArray) now = vmb_call_sockets();
    for (guint i = 0; i < now->len; i++) {
        const VmbCallSocket *socket = &g_array_index(now, VmbCallSocket, i);
        if (contains(before, socket->inode))
            continue;
        if (only != NULL)
            return -1;
        only = socket;
    }
    return only != NULL ? fcntl(only->fd, F_DUPFD_CLOEXEC, 3) : -1;
}
