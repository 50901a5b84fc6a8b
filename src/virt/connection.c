/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Connections to libvirt, its event loop, and its errors as ours. */
#include "virt/connection.h"
#include "virt/call.h"
#include "virt/event-loop.h"
#include "util/log.h"
#include "util/units.h"

#include <sys/socket.h>
#include <unistd.h>

/* A daemon that does not answer for 20 to 25 s is given up; its calls then fail instead of hanging. */
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT 4
/* A daemon that is restarted is back within seconds; one that is not will not come for our sake. */
#define PATIENCE_NS (20 * G_GUINT64_CONSTANT(1000000000))

/* Incremental backup is complete and on by default since libvirt 7.6. */
#define MIN_DAEMON_VERSION 7006000ul
#define DEFAULT_URI "qemu:///system"

typedef struct {
    virConnectPtr conn;
    int socket; /* a duplicate, or -1 */
} Handle;

struct VmbConnection {
    gatomicrefcount refs;
    char *uri;
    GMutex opening; /* held while it is opened anew */
    GMutex lock;    /* of what follows */
    Handle *handle;
    GPtrArray *old; /* Handle: from before a reopening, which other threads may still hold */
    guint64 give_up; /* of vmb_connection_patience(); 0: the daemon is not missed */
};

/* Closing asks the daemon, which may hang. */
static void
close_handle(gpointer data)
{
    Handle *handle = data;
    VmbCall *call = vmb_call_begin(handle->socket, VMB_CALL_SHORT_NS);
    virConnectClose(handle->conn);
    vmb_call_end(call);
    if (handle->socket >= 0)
        close(handle->socket);
    g_free(handle);
}

/* An alias of libvirt's own configuration passes here; the connection's real URI is checked too. */
static gboolean
check_local(const char *uri, GError **error)
{
    g_autoptr(GUri) parsed =
        g_uri_parse(uri, G_URI_FLAGS_NON_DNS | G_URI_FLAGS_PARSE_RELAXED, NULL);
    const char *host = parsed != NULL ? g_uri_get_host(parsed) : NULL;
    if (host == NULL || host[0] == '\0' || strcmp(host, "localhost") == 0)
        return TRUE;
    return vmb_error_set(
        error, VMB_ERROR_USAGE,
        "the connection '%s' names the host '%s', but a backup needs the host's own "
        "sockets and images; run vmbackup on that host, with -c qemu:///system",
        uri, host);
}

static gboolean
check_daemon(virConnectPtr handle, const char *uri, GError **error)
{
    const char *type = virConnectGetType(handle);
    if (g_strcmp0(type, "QEMU") != 0)
        return vmb_error_set(
            error, VMB_ERROR_USAGE,
            "the connection '%s' leads to libvirt's driver '%s'; only QEMU domains "
            "can be backed up (try -c qemu:///system)",
            uri, type != NULL ? type : "?");
    g_autofree char *real = virConnectGetURI(handle);
    if (real != NULL && !check_local(real, error))
        return FALSE;
    unsigned long version = 0;
    if (virConnectGetLibVersion(handle, &version) < 0)
        return vmb_virt_error(error, VMB_ERROR_LIBVIRT, "cannot ask '%s' for its version", uri);
    if (version < MIN_DAEMON_VERSION)
        return vmb_error_set(
            error, VMB_ERROR_LIBVIRT,
            "the libvirt daemon of '%s' has version %lu.%lu.%lu; incremental backup "
            "needs 7.6 or newer",
            uri, version / 1000000, version / 1000 % 1000, version % 1000);
    return TRUE;
}

/* ---- opening, with a deadline ---- */

/* Shared by the thread that opens and the one that waits for it. */
typedef struct {
    gatomicrefcount refs;
    char *uri;
    GMutex lock;
    GCond done_cond;
    gboolean done, abandoned;
    virConnectPtr conn;
    GError *error;
} Opening;

static void
opening_unref(Opening *opening)
{
    if (!g_atomic_ref_count_dec(&opening->refs))
        return;
    g_mutex_clear(&opening->lock);
    g_cond_clear(&opening->done_cond);
    g_clear_error(&opening->error);
    g_free(opening->uri);
    g_free(opening);
}

/* Nothing can stop virConnectOpen(), so it has a thread that can be left to itself. */
static gpointer
open_thread(gpointer data)
{
    Opening *opening = data;
    g_autoptr(GError) error = NULL;
    virConnectPtr conn = virConnectOpen(opening->uri);
    if (conn == NULL)
        vmb_virt_error(&error, VMB_ERROR_LIBVIRT,
                       "cannot connect to libvirt at '%s' (is its daemon running, and may this "
                       "user use it?)",
                       opening->uri);
    else if (!check_daemon(conn, opening->uri, &error)) {
        virConnectClose(conn);
        conn = NULL;
    }
    g_mutex_lock(&opening->lock);
    gboolean abandoned = opening->abandoned;
    opening->done = TRUE;
    if (!abandoned) {
        opening->conn = conn;
        opening->error = g_steal_pointer(&error);
        g_cond_signal(&opening->done_cond);
    }
    g_mutex_unlock(&opening->lock);
    if (abandoned && conn != NULL)
        virConnectClose(conn);
    opening_unref(opening);
    return NULL;
}

static void
wait_until_done(Opening *opening, gint64 deadline)
{
    while (!opening->done && g_cond_wait_until(&opening->done_cond, &opening->lock, deadline))
        continue;
}

/* A connection that was made but not answered ends with its socket; only if none could be made, the thread
 * goes on in vain. */
static void
cut_off(Opening *opening, const GArray *before)
{
    int fd = vmb_call_new_socket(before);
    if (fd < 0)
        return;
    shutdown(fd, SHUT_RDWR);
    close(fd);
    wait_until_done(opening, g_get_monotonic_time() + G_USEC_PER_SEC);
}

static virConnectPtr
wait_for_open(Opening *opening, gint64 deadline, const GArray *before, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&opening->lock);
    wait_until_done(opening, deadline);
    if (!opening->done) {
        cut_off(opening, before);
        g_clear_error(&opening->error);
        opening->abandoned = opening->conn == NULL;
    }
    if (opening->error != NULL)
        g_propagate_error(error, g_steal_pointer(&opening->error));
    if (opening->done && !opening->abandoned)
        return opening->conn;
    vmb_error_set(error, VMB_ERROR_LIBVIRT,
                  "cannot connect to libvirt at '%s': its daemon does not answer, although "
                  "something listens there; is it stopped or overloaded? (`systemctl status libvirtd "
                  "virtqemud` and its log may tell)",
                  opening->uri);
    return NULL;
}

/* One at a time, so that the new socket can be told from the others. */
static GMutex one_opens;

static Handle *
open_handle(const char *uri, guint64 ns, GError **error)
{
    Opening *opening = g_new0(Opening, 1);
    gint64 deadline = g_get_monotonic_time() + (gint64)(ns / 1000);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&one_opens);
    /* Those who have waited for somebody else's attempt need not wait so long for theirs. */
    deadline = MAX(deadline, g_get_monotonic_time() + (gint64)(VMB_CALL_SHORT_NS / 1000));
    g_autoptr(GArray) before = vmb_call_sockets();
    g_atomic_ref_count_init(&opening->refs);
    g_atomic_ref_count_inc(&opening->refs);
    opening->uri = g_strdup(uri);
    g_mutex_init(&opening->lock);
    g_cond_init(&opening->done_cond);
    g_thread_unref(g_thread_new("libvirt-open", open_thread, opening));
    virConnectPtr conn = wait_for_open(opening, deadline, before, error);
    opening_unref(opening);
    if (conn == NULL)
        return NULL;
    /* Drivers without a daemon in between have no keepalive and need none. */
    virConnectSetKeepAlive(conn, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
    Handle *handle = g_new0(Handle, 1);
    handle->conn = conn;
    handle->socket = vmb_call_new_socket(before);
    if (handle->socket < 0)
        vmb_debug("the socket of %s is not known, so its calls have no deadline", uri);
    return handle;
}

static void
leave_threads(void)
{
    vmb_calls_leave();
    vmb_event_loop_leave();
}

VmbConnection *
vmb_connection_open(const char *uri, GError **error)
{
    if (uri == NULL)
        uri = g_getenv("LIBVIRT_DEFAULT_URI");
    if (uri == NULL || uri[0] == '\0')
        uri = DEFAULT_URI;
    if (!check_local(uri, error) || !vmb_event_loop_enter(error))
        return NULL;
    vmb_calls_enter();
    Handle *handle = open_handle(uri, VMB_CALL_OPEN_NS, error);
    if (handle == NULL) {
        leave_threads();
        return NULL;
    }
    VmbConnection *connection = g_new0(VmbConnection, 1);
    g_atomic_ref_count_init(&connection->refs);
    g_mutex_init(&connection->opening);
    g_mutex_init(&connection->lock);
    connection->uri = g_strdup(uri);
    connection->handle = handle;
    connection->old = g_ptr_array_new_with_free_func(close_handle);
    return connection;
}

VmbConnection *
vmb_connection_ref(VmbConnection *connection)
{
    g_atomic_ref_count_inc(&connection->refs);
    return connection;
}

void
vmb_connection_unref(VmbConnection *connection)
{
    if (connection == NULL || !g_atomic_ref_count_dec(&connection->refs))
        return;
    g_ptr_array_unref(connection->old);
    close_handle(connection->handle);
    leave_threads();
    g_mutex_clear(&connection->opening);
    g_mutex_clear(&connection->lock);
    g_free(connection->uri);
    g_free(connection);
}

static Handle *
current(VmbConnection *connection)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&connection->lock);
    return connection->handle;
}

virConnectPtr
vmb_connection_handle(VmbConnection *connection)
{
    return current(connection)->conn;
}

int
vmb_connection_socket(VmbConnection *connection)
{
    return current(connection)->socket;
}

const char *
vmb_connection_uri(VmbConnection *connection)
{
    return connection->uri;
}

guint64
vmb_connection_patience(VmbConnection *connection)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&connection->lock);
    if (connection->give_up == 0)
        connection->give_up = vmb_units_monotonic() + PATIENCE_NS;
    return connection->give_up;
}

/* For how long the next attempt to open may take. */
static guint64
time_to_open(VmbConnection *connection)
{
    guint64 until = vmb_connection_patience(connection), now = vmb_units_monotonic();
    return CLAMP(until > now ? until - now : 0, VMB_CALL_SHORT_NS, VMB_CALL_OPEN_NS);
}

static gboolean
is_usable(const Handle *handle, guint64 ns)
{
    unsigned long version;
    g_autoptr(VmbCall) call G_GNUC_UNUSED = vmb_call_begin(handle->socket, ns);
    return virConnectIsAlive(handle->conn) == 1 && virConnectGetLibVersion(handle->conn, &version) == 0;
}

static void
replace(VmbConnection *connection, Handle *handle)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&connection->lock);
    /* Whoever still waits for an answer there waits in vain. */
    if (connection->handle != handle && connection->handle->socket >= 0)
        shutdown(connection->handle->socket, SHUT_RDWR);
    if (connection->handle != handle)
        g_ptr_array_add(connection->old, connection->handle);
    connection->handle = handle;
    connection->give_up = 0;
}

gboolean
vmb_connection_reopen(VmbConnection *connection, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&connection->opening);
    guint64 ns = time_to_open(connection);
    Handle *handle = current(connection);
    if (!is_usable(handle, ns))
        handle = open_handle(connection->uri, ns, error);
    if (handle == NULL)
        return FALSE;
    replace(connection, handle);
    return TRUE;
}

int
vmb_virt_error_code(void)
{
    return virGetLastErrorCode();
}

static VmbErrorCode
code_of(virErrorPtr last, VmbErrorCode fallback)
{
    /* Errors of the transport itself: the daemon went away, or refused us. */
    if (last->domain == VIR_FROM_RPC || last->domain == VIR_FROM_REMOTE ||
        last->domain == VIR_FROM_AUTH)
        return VMB_ERROR_LIBVIRT;
    switch (last->code) {
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_RPC:
    case VIR_ERR_NO_SERVER:
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_AUTH_CANCELLED:
    case VIR_ERR_AUTH_UNAVAILABLE:
        return VMB_ERROR_LIBVIRT;
    case VIR_ERR_NO_DOMAIN:
        return VMB_ERROR_DOMAIN;
    case VIR_ERR_OPERATION_TIMEOUT:
        return VMB_ERROR_LOCKED;
    default:
        return fallback;
    }
}

gboolean
vmb_virt_error(GError **error, VmbErrorCode code, const char *format, ...)
{
    virErrorPtr last = virGetLastError();
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    guint64 ns = 0;
    if (vmb_call_expired(&ns))
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: libvirt did not come to an end with it in %" G_GUINT64_FORMAT
                             " s; QEMU, or the storage that it uses, may hang",
                             message, ns / G_GUINT64_CONSTANT(1000000000));
    if (last == NULL)
        return vmb_error_set(error, code, "%s", message);
    return vmb_error_set(error, code_of(last, code), "%s: %s", message,
                         last->message != NULL ? last->message : "no text from libvirt");
}
