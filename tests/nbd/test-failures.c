/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errors, standstill, death and refusal of a server: what is told, and that each read ends once. */
#include "server.h"
#include "util/error.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MIB (1024u * 1024u)
#define N_READS 24u

static VmbNbdReader *
open_reader(const VmbNbdOptions *options)
{
    g_autoptr(GError) error = NULL;
    VmbNbdReader *reader = vmb_nbd_reader_open(options, &error);
    g_assert_no_error(error);
    return reader;
}

static void
open_fails(const VmbNbdOptions *options, VmbErrorCode code, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_nbd_reader_open(options, &error));
    g_assert_error(error, VMB_ERROR, (int)code);
    g_test_message("%s", error->message);
    g_assert_true(g_str_has_prefix(error->message, "guest/vda: "));
    g_assert_nonnull(strstr(error->message, text));
}

/* A reader with N_READS reads of 1 MiB in flight. */
typedef struct {
    VmbNbdReader *reader;
    guint8 *data;
    Tally tally;
} Flight;

static void
flight_open(Flight *f, const VmbNbdOptions *options)
{
    f->reader = open_reader(options);
    f->data = g_malloc(N_READS * MIB);
    tally_init(&f->tally, N_READS);
}

static void
flight_submit(Flight *f)
{
    for (guint i = 0; i < N_READS; i++)
        g_assert_true(vmb_nbd_reader_submit(f->reader, f->data + i * MIB, i * MIB, MIB, tally_done,
                                            GUINT_TO_POINTER(i), &f->tally, NULL));
}

static void
flight_start(Flight *f, const VmbNbdOptions *options)
{
    flight_open(f, options);
    flight_submit(f);
}

static void
flight_clear(Flight *f)
{
    vmb_nbd_reader_free(f->reader);
    g_free(f->data);
    tally_clear(&f->tally);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Flight, flight_clear)

/* All reads end with the error of the reader, which is of no use afterwards. */
static void
flight_fails(Flight *f, VmbErrorCode code, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_assert_false(vmb_nbd_reader_drain(f->reader, &error));
    g_assert_error(error, VMB_ERROR, (int)code);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, text));
    g_assert_cmpuint(f->tally.n_ok + f->tally.n_failed, ==, N_READS);
    g_assert_cmpuint(f->tally.n_failed, >, 0);
    g_assert_error(f->tally.error, VMB_ERROR, (int)code);
    g_assert_cmpuint(vmb_nbd_reader_in_flight(f->reader), ==, 0);
    g_assert_false(
        vmb_nbd_reader_submit(f->reader, f->data, 0, 1, tally_done, NULL, &f->tally, NULL));
    g_assert_false(vmb_nbd_reader_wait(f->reader, -1, NULL));
    g_assert_false(vmb_nbd_reader_extents(f->reader, 0, 1, extents, NULL));
    g_assert_cmpuint(f->tally.n_ok + f->tally.n_failed, ==, N_READS);
}

/* A read that fails alone names its place and leaves the others and the reader alone. */
static void
test_read_error(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server =
        server_nbdkit("eval", "get_size=echo 64M",
                      "pread=if [ $4 -eq 3407872 ]; then echo 'EIO bad sector' >&2; exit 1; fi\n"
                      "dd if=/dev/zero bs=$3 count=1 status=none",
                      NULL);
    VmbNbdOptions options = server_options(server);
    g_auto(Flight) f;
    flight_start(&f, &options);
    g_assert_true(vmb_nbd_reader_drain(f.reader, NULL));
    g_assert_cmpuint(f.tally.n_ok, ==, N_READS - 1);
    g_assert_cmpuint(f.tally.n_failed, ==, 1);
    g_assert_error(f.tally.error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_nonnull(strstr(f.tally.error->message, "guest/vda"));
    g_assert_nonnull(strstr(f.tally.error->message, "offset 3407872"));
    g_auto(Tally) again;
    g_assert_true(server_read(f.reader, f.data, 0, 2 * MIB, MIB, &again, NULL));
    g_assert_cmpuint(again.n_ok, ==, 2);
}

static void
test_random_errors(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("--filter=error", "pattern", "64M", "error-pread=EIO",
                                             "error-pread-rate=20%", NULL);
    VmbNbdOptions options = server_options(server);
    g_auto(Flight) f;
    flight_start(&f, &options);
    g_assert_true(vmb_nbd_reader_drain(f.reader, NULL));
    g_assert_cmpuint(f.tally.n_ok + f.tally.n_failed, ==, N_READS);
}

static void
test_extents_error(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("--filter=error", "memory", "64M", "error-extents=EIO",
                                             "error-extents-rate=100%", NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_nbd_reader_extents(reader, 4096, MIB, extents, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "offset 4096"));
}

static void
test_standstill(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("pattern", "64M", NULL);
    VmbNbdOptions options = server_options(server);
    options.timeout_ns = 300000000;
    g_auto(Flight) f;
    flight_open(&f, &options);
    server_signal(server, SIGSTOP);
    flight_submit(&f);
    gint64 before = g_get_monotonic_time();
    flight_fails(&f, VMB_ERROR_NO_PROGRESS, "does not answer");
    g_assert_cmpint(g_get_monotonic_time() - before, >=, 290000);
}

/* Extents stand still too, with reads in flight and without. */
static void
test_standstill_extents(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server =
        server_nbdkit("--filter=delay", "memory", "64M", "delay-extents=60", "delay-read=60", NULL);
    VmbNbdOptions options = server_options(server);
    options.timeout_ns = 200000000;
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_nbd_reader_extents(reader, 0, MIB, extents, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_NO_PROGRESS);
    g_auto(Flight) f;
    flight_start(&f, &options);
    g_assert_false(vmb_nbd_reader_extents(f.reader, 0, MIB, extents, NULL));
    flight_fails(&f, VMB_ERROR_NO_PROGRESS, "does not answer");
}

/* Nothing in flight, and nobody makes room: that ends as well. */
static void
test_standstill_idle(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("pattern", "64M", NULL);
    VmbNbdOptions options = server_options(server);
    options.timeout_ns = 200000000;
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    int fd = eventfd(0, EFD_CLOEXEC);
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_nbd_reader_wait(reader, fd, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_NO_PROGRESS);
    close(fd);
}

static void
test_killed(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server =
        server_nbdkit("--filter=delay", "pattern", "64M", "delay-read=60", NULL);
    VmbNbdOptions options = server_options(server);
    g_auto(Flight) f;
    flight_start(&f, &options);
    server_signal(server, SIGKILL);
    flight_fails(&f, VMB_ERROR_FAILED, "lost");
    g_assert_cmpuint(f.tally.n_failed, ==, N_READS);
}

/* It dies while it answers, after some reads and before others. */
static void
test_killed_halfway(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    for (int round = 0; round < 5; round++) {
        g_autoptr(Server) server =
            server_nbdkit("-t", "1", "--filter=delay", "pattern", "64M", "delay-read=3ms", NULL);
        VmbNbdOptions options = server_options(server);
        g_auto(Flight) f;
        flight_start(&f, &options);
        while (f.tally.n_ok <= (guint)round)
            g_assert_true(vmb_nbd_reader_wait(f.reader, -1, NULL));
        server_signal(server, SIGKILL);
        flight_fails(&f, VMB_ERROR_FAILED, "lost");
    }
}

/* The connection is found broken when something is sent. */
static void
test_killed_idle(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autoptr(Server) server = server_nbdkit("pattern", "64M", NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) other = open_reader(&options);
    g_auto(Flight) f;
    flight_open(&f, &options);
    server_signal(server, SIGKILL);
    flight_submit(&f);
    flight_fails(&f, VMB_ERROR_FAILED, "lost");
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_nbd_reader_extents(other, 0, MIB, extents, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

static gpointer
cancel_later(gpointer data)
{
    g_usleep(100000);
    g_cancellable_cancel(data);
    return NULL;
}

static void
test_cancelled(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(Server) server =
        server_nbdkit("--filter=delay", "pattern", "64M", "delay-read=60", NULL);
    VmbNbdOptions options = server_options(server);
    options.cancel = cancel;
    g_auto(Flight) f;
    flight_start(&f, &options);
    GThread *thread = g_thread_new("cancel", cancel_later, cancel);
    flight_fails(&f, VMB_ERROR_CANCELLED, "interrupted");
    g_thread_join(thread);
    open_fails(&options, VMB_ERROR_CANCELLED, "interrupted");
}

/* Freed with reads in flight: no callback, no touch of their buffers. */
static void
test_freed(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    for (int round = 0; round < 10; round++) {
        /* One each: nbdkit 1.32 may abort when a client leaves in the middle of a reply. */
        g_autoptr(Server) server = server_nbdkit("pattern", "64M", NULL);
        VmbNbdOptions options = server_options(server);
        g_auto(Flight) f;
        flight_start(&f, &options);
        for (int i = 0; i < round; i++)
            g_assert_true(vmb_nbd_reader_wait(f.reader, -1, NULL));
        guint n = f.tally.n_ok;
        g_clear_pointer(&f.reader, vmb_nbd_reader_free);
        g_assert_cmpuint(f.tally.n_ok, ==, n);
        g_assert_cmpuint(f.tally.n_failed, ==, 0);
    }
}

static void
test_bad_range(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    static const struct {
        guint64 offset;
        guint32 length;
    } bad[] = {{MIB, 1}, {MIB - 1, 2}, {G_MAXUINT64, 2}, {0, 0}, {0, MIB + 1}};
    g_autoptr(Server) server = server_nbdkit("pattern", "1M", NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    guint8 buffer[16];
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(vmb_nbd_reader_submit(reader, buffer, bad[i].offset, bad[i].length,
                                             tally_done, NULL, NULL, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    }
    g_assert_cmpuint(vmb_nbd_reader_in_flight(reader), ==, 0);
}

static void
test_refused(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) old = server_nbdkit("--no-sr", "memory", "1M", NULL);
    VmbNbdOptions options = server_options(old);
    open_fails(&options, VMB_ERROR_FAILED, "structured replies");
    g_autoptr(Server) server = server_nbdkit("memory", "1M", NULL);
    options = server_options(server);
    options.dirty_context = "qemu:dirty-bitmap:c0";
    open_fails(&options, VMB_ERROR_FAILED, "qemu:dirty-bitmap:c0");
    server_signal(server, SIGTERM);
    options.dirty_context = NULL;
    open_fails(&options, VMB_ERROR_FAILED, server->socket); /* nobody listens */
    options.socket = "/nonexistent/nbd.sock";
    open_fails(&options, VMB_ERROR_FAILED, "/nonexistent/nbd.sock");
    g_autofree char *name = g_strnfill(200, 'x');
    options.socket = name;
    open_fails(&options, VMB_ERROR_FAILED, name);
}

/* Something listens that does not speak: the handshake has its timeout, and can be cancelled. */
static void
test_mute(void)
{
    char *directory = server_directory_new();
    g_autofree char *path = g_build_filename(directory, "mute.sock", NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(fd, 5), ==, 0);
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    VmbNbdOptions options = {.socket = path,
                             .export_name = "",
                             .label = "guest/vda",
                             .timeout_ns = 200000000,
                             .cancel = cancel};
    open_fails(&options, VMB_ERROR_NO_PROGRESS, "handshake");
    options.timeout_ns = G_GUINT64_CONSTANT(60000000000);
    GThread *thread = g_thread_new("cancel", cancel_later, cancel);
    open_fails(&options, VMB_ERROR_CANCELLED, "interrupted");
    g_thread_join(thread);
    close(fd);
    server_directory_free(directory);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/read-error", test_read_error);
    g_test_add_func("/nbd/random-errors", test_random_errors);
    g_test_add_func("/nbd/extents-error", test_extents_error);
    g_test_add_func("/nbd/standstill", test_standstill);
    g_test_add_func("/nbd/standstill-extents", test_standstill_extents);
    g_test_add_func("/nbd/standstill-idle", test_standstill_idle);
    g_test_add_func("/nbd/killed", test_killed);
    g_test_add_func("/nbd/killed-halfway", test_killed_halfway);
    g_test_add_func("/nbd/killed-idle", test_killed_idle);
    g_test_add_func("/nbd/cancelled", test_cancelled);
    g_test_add_func("/nbd/freed", test_freed);
    g_test_add_func("/nbd/bad-range", test_bad_range);
    g_test_add_func("/nbd/refused", test_refused);
    g_test_add_func("/nbd/mute", test_mute);
    return g_test_run();
}
