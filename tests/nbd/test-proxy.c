/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The proxy in front of a server, and the writer: bytes pass, and nobody who stalls holds the end. */
#include "nbd/proxy.h"
#include "nbd/writer.h"
#include "server.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <glib/gstdio.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SIZE (32 * VMB_MIB)
#define SECOND G_GUINT64_CONSTANT(1000000000)

typedef struct {
    char *directory, *socket, *uri;
    VmbFd fd;
    VmbNbdProxy *proxy;
} Front;

static struct sockaddr_un
address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    return address;
}

static void
front_open(Front *front, const char *server)
{
    g_autoptr(GError) error = NULL;
    front->directory = server_directory_new();
    front->socket = g_build_filename(front->directory, "front", NULL);
    front->uri = g_strdup_printf("nbd+unix:///?socket=%s", front->socket);
    front->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = address_of(front->socket);
    g_assert_cmpint(bind(front->fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(front->fd, 16), ==, 0);
    front->proxy = vmb_nbd_proxy_start(front->fd, server, &error);
    g_assert_no_error(error);
}

static void
front_clear(Front *front)
{
    vmb_nbd_proxy_free(front->proxy);
    vmb_fd_clear(&front->fd);
    g_unlink(front->socket);
    server_directory_free(front->directory);
    g_free(front->socket);
    g_free(front->uri);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Front, front_clear)

static int
connect_to(const char *path)
{
    struct sockaddr_un address = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    return fd;
}

/* What was written through it is read through it, by several connections at a time; then again, with some that
 * say nothing, stop in the handshake, or stop reading. */
static void
test_relay(void)
{
    if (!server_requires("nbdkit", "nbdcopy", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("memory", "32M", NULL);
    g_auto(Front) front = {0};
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *data = g_malloc(VMB_MIB);
    front_open(&front, server->socket);
    g_autoptr(VmbNbdWriter) writer = vmb_nbd_writer_open(front.uri, SIZE, "disk", NULL, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < SIZE / VMB_MIB; i++) {
        memset(data, (int)i + 1, VMB_MIB);
        g_assert_true(vmb_nbd_writer_data(writer, data, i * VMB_MIB, VMB_MIB, &error));
    }
    g_assert_true(vmb_nbd_writer_zero(writer, 3 * VMB_MIB + 512, 5 * VMB_MIB, &error));
    g_assert_true(vmb_nbd_writer_finish(writer, &error));
    int silent = connect_to(front.socket), half = connect_to(front.socket);
    char greeting[18];
    g_assert_cmpint(recv(half, greeting, sizeof greeting, MSG_WAITALL), ==, sizeof greeting);
    g_assert_cmpint(send(half, "\0\0\0\3", 4, MSG_NOSIGNAL), ==, 4);
    g_autofree char *file = g_build_filename(front.directory, "copy", NULL);
    g_free(server_run("nbdcopy", "--connections=4", front.uri, file, NULL));
    g_autofree char *content = NULL;
    gsize length = 0;
    g_assert_true(g_file_get_contents(file, &content, &length, NULL));
    g_assert_cmpuint(length, ==, SIZE);
    for (gsize i = 0; i < length; i++) {
        gboolean zero = i >= 3 * VMB_MIB + 512 && i < 8 * VMB_MIB + 512;
        if ((guint8)content[i] != (zero ? 0 : i / VMB_MIB + 1))
            g_error("byte %" G_GSIZE_FORMAT " is %u", i, (guint8)content[i]);
    }
    g_unlink(file);
    guint64 start = vmb_units_monotonic();
    g_clear_pointer(&front.proxy, vmb_nbd_proxy_free);
    g_assert_cmpuint(vmb_units_monotonic() - start, <, 5 * SECOND);
    char byte;
    g_assert_cmpint(recv(half, &byte, 1, 0), <=, 0);
    close(silent);
    close(half);
}

/* A client that goes on for ever in the handshake is cut off; one whose server is not there is sent away. */
static void
test_deadline(void)
{
    g_auto(Front) front = {0};
    char greeting[18], byte;
    front_open(&front, "/nonexistent/socket");
    int fd = connect_to(front.socket);
    g_assert_cmpint(recv(fd, greeting, sizeof greeting, MSG_WAITALL), ==, sizeof greeting);
    guint64 start = vmb_units_monotonic();
    g_assert_cmpint(recv(fd, &byte, 1, 0), ==, 0);
    g_assert_cmpuint(vmb_units_monotonic() - start, <, 15 * SECOND);
    close(fd);
    fd = connect_to(front.socket);
    g_assert_cmpint(recv(fd, greeting, sizeof greeting, MSG_WAITALL), ==, sizeof greeting);
    g_assert_cmpint(send(fd, "\0\0\0\3", 4, MSG_NOSIGNAL), ==, 4);
    g_assert_cmpint(recv(fd, &byte, 1, 0), <=, 0);
    close(fd);
}

static void
test_writer_fails(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    static const struct {
        const char *arguments[4];
        VmbErrorCode code;
    } cases[] = {
        {{"-r", "memory", "32M", NULL}, VMB_ERROR_USAGE},
        {{"memory", "31M", NULL}, VMB_ERROR_USAGE},
        {{"--filter=error", "memory", "32M", "error-pwrite=ENOSPC"}, VMB_ERROR_NO_SPACE},
        {{"--filter=error", "memory", "32M", "error-zero=EIO"}, VMB_ERROR_FAILED},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        const char *const *a = cases[i].arguments;
        const char *rate = i == 2 ? "error-pwrite-rate=1" : i == 3 ? "error-zero-rate=1" : NULL;
        g_autoptr(Server) server = i < 2 ? server_nbdkit(a[0], a[1], a[2], NULL)
                                         : server_nbdkit(a[0], a[1], a[2], a[3], rate, NULL);
        g_autofree char *uri = g_strdup_printf("nbd+unix:///?socket=%s", server->socket);
        g_autofree guint8 *data = g_malloc0(VMB_MIB);
        g_autoptr(GError) error = NULL;
        g_autoptr(VmbNbdWriter) writer = vmb_nbd_writer_open(uri, SIZE, "disk", NULL, &error);
        gboolean ok = writer != NULL;
        for (guint k = 0; ok && k < 32; k++)
            ok = vmb_nbd_writer_data(writer, data, k * VMB_MIB, VMB_MIB, &error);
        ok = ok && vmb_nbd_writer_zero(writer, 0, SIZE, &error) && vmb_nbd_writer_finish(writer, &error);
        g_assert_false(ok);
        g_assert_error(error, VMB_ERROR, (gint)cases[i].code);
    }
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-proxy/relay", test_relay);
    g_test_add_func("/nbd-proxy/deadline", test_deadline);
    g_test_add_func("/nbd-writer/fails", test_writer_fails);
    return g_test_run();
}
