/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading from nbdkit: data of odd sizes, limits of requests, extents in large and small replies.
 */
#include "server.h"
#include "block/digest.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define KIB 1024u
#define MIB (1024u * 1024u)
#define GIB (1024 * (guint64)MIB)

static VmbNbdReader *
open_reader(const VmbNbdOptions *options)
{
    g_autoptr(GError) error = NULL;
    VmbNbdReader *reader = vmb_nbd_reader_open(options, &error);
    g_assert_no_error(error);
    return reader;
}

/* nbdkit's pattern plugin: each 8 bytes hold their own offset, big-endian. */
static void
check_pattern(const guint8 *data, guint64 offset, guint64 length)
{
    for (guint64 i = 0; i < length; i++) {
        guint64 at = offset + i;
        g_assert_cmphex(data[i], ==,
                        (guint8)((at & ~G_GUINT64_CONSTANT(7)) >> (56 - 8 * (at & 7))));
    }
}

static void
read_pattern(const VmbNbdOptions *options, guint64 size, guint32 piece)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbNbdReader) reader = open_reader(options);
    g_assert_cmpuint(vmb_nbd_reader_size(reader), ==, size);
    g_autofree guint8 *data = g_malloc(size);
    memset(data, 0x5a, size);
    g_auto(Tally) tally;
    g_assert_true(server_read(reader, data, 0, size, piece, &tally, &error));
    g_assert_cmpuint(tally.n_failed, ==, 0);
    check_pattern(data, 0, size);
}

static void
test_data(void)
{
    static const char *const sizes[] = {"1", "511", "65537", "5242883", "8388608"};
    if (!server_requires("nbdkit", NULL))
        return;
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(Server) server = server_nbdkit("pattern", sizes[i], NULL);
        VmbNbdOptions options = server_options(server);
        guint64 size = g_ascii_strtoull(sizes[i], NULL, 10);
        read_pattern(&options, size, MIB);
        options.max_request = 65536 - 1; /* parts that meet no boundary */
        options.max_requests = 1;
        read_pattern(&options, size, MIB - 3);
        options.max_request = 4 * KIB;
        options.max_requests = 64;
        read_pattern(&options, size, 64 * KIB);
        options.max_request = G_MAXUINT32; /* cut to 1 MiB */
        read_pattern(&options, size, MIB);
    }
}

/* A server that refuses requests over its maximum, and such that are not aligned. */
static void
test_block_size(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server =
        server_nbdkit("--filter=blocksize-policy", "pattern", "4M", "blocksize-minimum=4096",
                      "blocksize-preferred=4096", "blocksize-maximum=40960",
                      "blocksize-error-policy=error", NULL);
    VmbNbdOptions options = server_options(server);
    read_pattern(&options, 4 * MIB, MIB);
    options.max_request = 10000; /* becomes 8192 */
    read_pattern(&options, 4 * MIB, MIB);
}

static void
check_extents(const GArray *extents, guint64 offset, guint64 length)
{
    for (guint i = 0; i < extents->len; i++) {
        const VmbNbdExtent *e = &g_array_index(extents, VmbNbdExtent, i);
        g_assert_cmpuint(e->offset, ==, offset);
        g_assert_cmpuint(e->length, >, 0);
        g_assert_cmpuint(e->length, <=, length);
        g_assert_true(i == 0 || e[-1].zero != e->zero || e[-1].dirty != e->dirty);
        offset += e->length;
        length -= e->length;
    }
    g_assert_cmpuint(length, ==, 0);
}

static void
ask(VmbNbdReader *reader, guint64 offset, guint64 length, GArray *extents)
{
    g_autoptr(GError) error = NULL;
    gboolean ok = vmb_nbd_reader_extents(reader, offset, length, extents, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
    check_extents(extents, offset, length);
}

static void
test_sparse(void)
{
    enum { SIZE = 64 * MIB };
    if (!server_requires("nbdkit", NULL))
        return;
    g_autofree char *seed = g_strdup_printf("seed=%u", (guint)g_test_rand_int() & 0xffff);
    g_test_message("sparse-random %s", seed);
    g_autoptr(Server) server =
        server_nbdkit("sparse-random", "64M", "percent=40", "runlength=200000", seed, NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autofree guint8 *data = g_malloc(SIZE);
    g_auto(Tally) tally;
    g_assert_true(server_read(reader, data, 0, SIZE, MIB, &tally, NULL));
    ask(reader, 0, SIZE, extents);
    guint64 zero = 0;
    for (guint i = 0; i < extents->len; i++) {
        const VmbNbdExtent *e = &g_array_index(extents, VmbNbdExtent, i);
        g_assert_true(e->dirty); /* without a dirty context */
        g_assert_cmpint(e->zero, ==, vmb_zero_detect(data + e->offset, e->length));
        zero += e->zero ? e->length : 0;
    }
    g_assert_cmpuint(zero, >, 0);
    g_assert_cmpuint(zero, <, SIZE);
    for (int round = 0; round < 50; round++) {
        guint64 offset = (guint64)g_test_rand_int_range(0, SIZE);
        ask(reader, offset, (guint64)g_test_rand_int_range(0, (gint32)(SIZE - offset)), extents);
    }
}

/* Lengths of the protocol have 32 bits; a disk has not. */
static void
test_huge(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("memory", "64T", NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    guint64 size = vmb_nbd_reader_size(reader);
    g_assert_cmpuint(size, ==, 64 * 1024 * GIB);
    ask(reader, 0, 9 * GIB + 5, extents);
    g_assert_cmpuint(extents->len, ==, 1);
    g_assert_true(g_array_index(extents, VmbNbdExtent, 0).zero);
    ask(reader, size - 5 * GIB, 5 * GIB, extents);
    g_assert_cmpuint(extents->len, ==, 1);
    ask(reader, size, 0, extents);
    g_assert_cmpuint(extents->len, ==, 0);
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_nbd_reader_extents(reader, size - 1, 2, extents, &error));
    g_assert_nonnull(error);
}

/* A server that tells one extent of 64 KiB at a time: of four, the first is data, the second a hole
 * that reads as zero, the third a hole of unknown content, the fourth allocated and zero. */
static void
test_one_at_a_time(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit(
        "eval", "get_size=echo 4M", "can_extents=exit 0",
        "pread=dd if=/dev/zero bs=$3 count=1 status=none",
        "extents=n=$(($4 / 65536)); left=$((65536 - $4 % 65536))\n"
        "case $((n % 4)) in 0) t= ;; 1) t=hole,zero ;; 2) t=hole ;; 3) t=zero ;; esac\n"
        "echo $4 $left $t",
        NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    ask(reader, 1000, 20 * 65536, extents);
    /* The zero one and the data that follows differ; so all have the length of one block. */
    g_assert_cmpuint(extents->len, ==, 21);
    for (guint i = 0; i < extents->len; i++) {
        const VmbNbdExtent *e = &g_array_index(extents, VmbNbdExtent, i);
        g_assert_cmpint(e->zero, ==, (e->offset / 65536) % 2 == 1);
    }
}

static void
submit(VmbNbdReader *reader, guint8 *buffer, guint64 offset, guint32 length, guint item,
       Tally *tally)
{
    g_autoptr(GError) error = NULL;
    vmb_nbd_reader_submit(reader, buffer, offset, length, tally_done, GUINT_TO_POINTER(item), tally,
                          &error);
    g_assert_no_error(error);
}

/* Block status is asked for while reads are in flight; they are completed meanwhile or later. */
static void
test_extents_meanwhile(void)
{
    enum { N = 32 };
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("--filter=delay", "pattern", "64M", "delay-read=20ms",
                                             "delay-extents=1ms", NULL);
    VmbNbdOptions options = server_options(server);
    options.max_requests = N;
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autofree guint8 *data = g_malloc(N * 256 * KIB);
    g_auto(Tally) tally;
    tally_init(&tally, N);
    for (guint i = 0; i < N; i++) {
        g_assert_true(vmb_nbd_reader_has_room(reader));
        submit(reader, data + i * 256 * KIB, (guint64)i * 256 * KIB, 256 * KIB, i, &tally);
        ask(reader, 0, 64 * MIB, extents);
    }
    g_assert_cmpuint(tally.n_ok + vmb_nbd_reader_in_flight(reader), ==, N);
    g_assert_true(vmb_nbd_reader_drain(reader, NULL));
    g_assert_cmpuint(tally.n_ok, ==, N);
    check_pattern(data, 0, N * 256 * KIB);
}

/* max_requests bounds what is in flight; more can be submitted and waits its turn. */
static void
test_room(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server = server_nbdkit("pattern", "16M", NULL);
    VmbNbdOptions options = server_options(server);
    options.max_requests = 6;
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autofree guint8 *data = g_malloc(16 * MIB);
    g_auto(Tally) tally;
    tally_init(&tally, 16);
    submit(reader, data, 0, MIB, 0, &tally); /* four requests */
    g_assert_true(vmb_nbd_reader_has_room(reader));
    for (guint i = 1; i < 16; i++)
        submit(reader, data + i * MIB, i * MIB, MIB, i, &tally);
    g_assert_false(vmb_nbd_reader_has_room(reader));
    g_assert_cmpuint(vmb_nbd_reader_in_flight(reader), ==, 16);
    g_assert_true(vmb_nbd_reader_drain(reader, NULL));
    g_assert_true(vmb_nbd_reader_drain(reader, NULL)); /* nothing left: no wait */
    g_assert_cmpuint(tally.n_ok, ==, 16);
    g_assert_cmpuint(vmb_nbd_reader_in_flight(reader), ==, 0);
    check_pattern(data, 0, 16 * MIB);
}

/* Each answer comes in time, though all together take longer than the timeout. */
static void
test_slow(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server =
        server_nbdkit("-t", "1", "--filter=delay", "pattern", "4M", "delay-read=250ms", NULL);
    VmbNbdOptions options = server_options(server);
    options.timeout_ns = 1500000000;
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autofree guint8 *data = g_malloc(4 * MIB);
    g_autoptr(GError) error = NULL;
    g_auto(Tally) tally;
    g_assert_true(server_read(reader, data, 0, 8 * 256 * KIB, 256 * KIB, &tally, &error));
    g_assert_cmpuint(tally.n_ok, ==, 8);
}

static void
test_wake(void)
{
    if (!server_requires("nbdkit", NULL))
        return;
    g_autoptr(Server) server =
        server_nbdkit("--filter=delay", "pattern", "4M", "delay-read=10", NULL);
    VmbNbdOptions options = server_options(server);
    g_autoptr(VmbNbdReader) reader = open_reader(&options);
    g_autofree guint8 *data = g_malloc(MIB);
    g_auto(Tally) tally;
    tally_init(&tally, 1);
    int fd = eventfd(1, EFD_CLOEXEC);
    g_assert_true(vmb_nbd_reader_wait(reader, fd, NULL)); /* idle */
    submit(reader, data, 0, MIB, 0, &tally);
    g_assert_true(vmb_nbd_reader_wait(reader, fd, NULL)); /* with a read in flight */
    g_assert_cmpuint(tally.n_ok + tally.n_failed, ==, 0);
    close(fd);
    g_autoptr(VmbNbdReader) idle = open_reader(&options);
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_nbd_reader_wait(idle, -1, &error)); /* would wait for ever */
    g_assert_nonnull(error);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/data", test_data);
    g_test_add_func("/nbd/block-size", test_block_size);
    g_test_add_func("/nbd/sparse", test_sparse);
    g_test_add_func("/nbd/huge", test_huge);
    g_test_add_func("/nbd/one-at-a-time", test_one_at_a_time);
    g_test_add_func("/nbd/extents-meanwhile", test_extents_meanwhile);
    g_test_add_func("/nbd/room", test_room);
    g_test_add_func("/nbd/slow", test_slow);
    g_test_add_func("/nbd/wake", test_wake);
    return g_test_run();
}
