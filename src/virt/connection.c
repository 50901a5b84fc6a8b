/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Connections to libvirt, its event loop, and its errors as ours. */
#include "virt/connection.h"
#include "virt/event-loop.h"

/* A daemon that does not answer for 30 s is given up; its calls then fail instead of hanging. */
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT 6

/* Incremental backup is complete and on by default since libvirt 7.6. */
#define MIN_DAEMON_VERSION 7006000ul
#define DEFAULT_URI "qemu:///system"

struct VmbConnection {
    gatomicrefcount refs;
    char *uri;
    GMutex lock;
    virConnectPtr handle;
    GPtrArray *old; /* handles from before a reopening, which other threads may still hold */
};

static void
close_handle(gpointer handle)
{
    virConnectClose(handle);
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

static virConnectPtr
open_handle(const char *uri, GError **error)
{
    virConnectPtr handle = virConnectOpen(uri);
    if (handle == NULL) {
        vmb_virt_error(
            error, VMB_ERROR_LIBVIRT,
            "cannot connect to libvirt at '%s' (is its daemon running, and may this user "
            "use it?)",
            uri);
        return NULL;
    }
    if (!check_daemon(handle, uri, error)) {
        virConnectClose(handle);
        return NULL;
    }
    /* Drivers without a daemon in between have no keepalive and need none. */
    virConnectSetKeepAlive(handle, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
    return handle;
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
    virConnectPtr handle = open_handle(uri, error);
    if (handle == NULL) {
        vmb_event_loop_leave();
        return NULL;
    }
    VmbConnection *connection = g_new0(VmbConnection, 1);
    g_atomic_ref_count_init(&connection->refs);
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
    virConnectClose(connection->handle);
    vmb_event_loop_leave();
    g_mutex_clear(&connection->lock);
    g_free(connection->uri);
    g_free(connection);
}

virConnectPtr
vmb_connection_handle(VmbConnection *connection)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&connection->lock);
    return connection->handle;
}

const char *
vmb_connection_uri(VmbConnection *connection)
{
    return connection->uri;
}

gboolean
vmb_connection_reopen(VmbConnection *connection, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&connection->lock);
    unsigned long version;
    if (virConnectIsAlive(connection->handle) == 1 &&
        virConnectGetLibVersion(connection->handle, &version) == 0)
        return TRUE;
    virConnectPtr handle = open_handle(connection->uri, error);
    if (handle == NULL)
        return FALSE;
    g_ptr_array_add(connection->old, connection->handle);
    connection->handle = handle;
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
    if (last == NULL)
        return vmb_error_set(error, code, "%s", message);
    return vmb_error_set(error, code_of(last, code), "%s: %s", message,
                         last->message != NULL ? last->message : "no text from libvirt");
}
