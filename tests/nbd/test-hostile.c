/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers that no proper server gives, and lawful ones that few give. */
#include "fake.h"
#include "server.h"
#include "util/error.h"

#include <string.h>

#define BLOCK 65536u
#define HOLE 1u
#define ZERO 2u
#define DIRTY 1u

static VmbNbdReader *
open_reader(const Fake *fake)
{
    g_autoptr(GError) error = NULL;
    VmbNbdOptions options = {.socket = fake_socket(fake),
                             .max_requests = 8, /* whatever the default is tuned to */
                             .export_name = "",
                             .dirty_context = FAKE_CONTEXT,
                             .label = "guest/vda",
                             .timeout_ns = 500000000};
    VmbNbdReader *reader = vmb_nbd_reader_open(&options, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(vmb_nbd_reader_size(reader), ==, FAKE_SIZE);
    return reader;
}

static gboolean
no_length(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, FALSE, FAKE_BASE, r->length, 0, FAKE_END);
    fake_status(f, r, TRUE, FAKE_DIRTY, BLOCK, 0, 0, 0, BLOCK, 0, FAKE_END);
    return TRUE;
}

static gboolean
beyond(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, FALSE, FAKE_BASE, r->length, 0, BLOCK, 0, FAKE_END);
    fake_status(f, r, TRUE, FAKE_DIRTY, r->length, 0, FAKE_END);
    return TRUE;
}

static gboolean
no_dirty(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, TRUE, FAKE_BASE, r->length, 0, FAKE_END);
    return TRUE;
}

static gboolean
no_base(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, TRUE, FAKE_DIRTY, r->length, 0, FAKE_END);
    return TRUE;
}

static gboolean
nothing(Fake *f, const FakeRequest *r)
{
    fake_chunk(f, r->cookie, TRUE, NBD_REPLY_TYPE_NONE, NULL, 0);
    return TRUE;
}

static gboolean
twice(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, FALSE, FAKE_BASE, BLOCK, 0, FAKE_END);
    fake_status(f, r, FALSE, FAKE_DIRTY, BLOCK, 0, FAKE_END);
    fake_status(f, r, TRUE, FAKE_BASE, BLOCK, 0, FAKE_END);
    return TRUE;
}

static gboolean
unknown_context(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, FALSE, FAKE_BASE, r->length, 0, FAKE_END);
    fake_status(f, r, TRUE, 77, r->length, 0, FAKE_END);
    return TRUE;
}

static gboolean
odd_payload(Fake *f, const FakeRequest *r)
{
    static const guint8 payload[] = {0, 0, 0, FAKE_BASE, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0};
    fake_chunk(f, r->cookie, TRUE, NBD_REPLY_TYPE_BLOCK_STATUS, payload, sizeof payload);
    return TRUE;
}

static gboolean
hang_up(Fake *f, const FakeRequest *r)
{
    fake_status(f, r, FALSE, FAKE_BASE, r->length, 0, FAKE_END);
    return FALSE;
}

static gboolean
garbage(Fake *f, const FakeRequest *r)
{
    guint8 bytes[64];
    memset(bytes, 0xd7, sizeof bytes);
    fake_send(f, bytes, sizeof bytes);
    return TRUE;
}

/* Every malformed answer is an error; none is taken for "nothing changed". */
static void
test_bad_extents(void)
{
    static const FakeAnswer answers[] = {no_length, beyond,          no_dirty,    no_base, nothing,
                                         twice,     unknown_context, odd_payload, hang_up, garbage};
    for (gsize i = 0; i < G_N_ELEMENTS(answers); i++) {
        g_autoptr(Fake) fake = fake_start(answers[i]);
        g_autoptr(VmbNbdReader) reader = open_reader(fake);
        g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
        g_autoptr(GError) error = NULL;
        g_assert_false(vmb_nbd_reader_extents(reader, BLOCK, 4 * BLOCK, extents, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
        g_test_message("%" G_GSIZE_FORMAT ": %s", i, error->message);
        g_assert_false(vmb_nbd_reader_extents(reader, 0, BLOCK, extents, NULL));
    }
}

/* The dirty context answers one block at a time, the other one all at once and more: block 3 is
 * dirty, blocks 0 to 7 are zero. */
static gboolean
short_dirty(Fake *f, const FakeRequest *r)
{
    guint32 zero = r->offset < 8 * BLOCK ? 8 * BLOCK - (guint32)r->offset : 0;
    guint32 here = BLOCK - (guint32)r->offset % BLOCK;
    if (zero > 0)
        fake_status(f, r, FALSE, FAKE_BASE, MIN(zero, r->length), HOLE | ZERO, FAKE_END);
    else
        fake_status(f, r, FALSE, FAKE_BASE, FAKE_SIZE, 0, FAKE_END);
    fake_status(f, r, TRUE, FAKE_DIRTY, here, r->offset / BLOCK == 3 ? DIRTY : 0, FAKE_END);
    return TRUE;
}

static gboolean
short_base(Fake *f, const FakeRequest *r)
{
    guint32 here = BLOCK - (guint32)r->offset % BLOCK;
    guint32 left = r->length;
    fake_status(f, r, FALSE, FAKE_BASE, here, r->offset < 8 * BLOCK ? ZERO : 0, FAKE_END);
    if (r->offset < 3 * BLOCK)
        fake_status(f, r, TRUE, FAKE_DIRTY, 3 * BLOCK - (guint32)r->offset, 0, BLOCK, DIRTY, left,
                    0, FAKE_END);
    else if (r->offset < 4 * BLOCK)
        fake_status(f, r, TRUE, FAKE_DIRTY, 4 * BLOCK - (guint32)r->offset, DIRTY, left, 0,
                    FAKE_END);
    else
        fake_status(f, r, TRUE, FAKE_DIRTY, left, 0, FAKE_END);
    return TRUE;
}

static void
check_lawful(FakeAnswer answer)
{
    static const VmbNbdExtent expected[] = {{1000, 3 * BLOCK - 1000, FALSE, TRUE},
                                            {3 * BLOCK, BLOCK, TRUE, TRUE},
                                            {4 * BLOCK, 4 * BLOCK, FALSE, TRUE},
                                            {8 * BLOCK, 2 * BLOCK, FALSE, FALSE}};
    g_autoptr(Fake) fake = fake_start(answer);
    g_autoptr(VmbNbdReader) reader = open_reader(fake);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autoptr(GError) error = NULL;
    vmb_nbd_reader_extents(reader, 1000, 10 * BLOCK - 1000, extents, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(extents->len, ==, G_N_ELEMENTS(expected));
    for (guint i = 0; i < extents->len; i++) {
        const VmbNbdExtent *e = &g_array_index(extents, VmbNbdExtent, i);
        g_assert_cmpuint(e->offset, ==, expected[i].offset);
        g_assert_cmpuint(e->length, ==, expected[i].length);
        g_assert_cmpint(e->dirty, ==, expected[i].dirty);
        g_assert_cmpint(e->zero, ==, expected[i].zero);
    }
}

static void
test_short_extents(void)
{
    check_lawful(short_dirty);
    check_lawful(short_base);
}

static gboolean
pieces(Fake *f, const FakeRequest *r)
{
    guint32 third = r->length / 3;
    fake_data(f, r, r->offset + 2 * third, r->length - 2 * third, 0x33, FALSE);
    fake_hole(f, r, r->offset + third, third, FALSE);
    fake_data(f, r, r->offset, third, 0x11, TRUE);
    return TRUE;
}

/* Chunks in any order; a hole is filled with zeroes even where the buffer was not. */
static void
test_pieces(void)
{
    g_autoptr(Fake) fake = fake_start(pieces);
    g_autoptr(VmbNbdReader) reader = open_reader(fake);
    guint8 data[3000];
    memset(data, 0xff, sizeof data);
    g_auto(Tally) tally;
    g_assert_true(server_read(reader, data, 0, sizeof data, sizeof data, &tally, NULL));
    g_assert_cmpuint(tally.n_ok, ==, 1);
    for (gsize i = 0; i < sizeof data; i++)
        g_assert_cmphex(data[i], ==, i < 1000 ? 0x11 : i < 2000 ? 0 : 0x33);
}

static gboolean
gap(Fake *f, const FakeRequest *r)
{
    fake_data(f, r, r->offset, r->length - 512, 0x11, TRUE);
    return TRUE;
}

/* A read that is not answered in full fails; old bytes of the buffer are not taken for data. */
static void
test_bad_reads(void)
{
    static const FakeAnswer answers[] = {gap, nothing};
    for (gsize i = 0; i < G_N_ELEMENTS(answers); i++) {
        g_autoptr(Fake) fake = fake_start(answers[i]);
        g_autoptr(VmbNbdReader) reader = open_reader(fake);
        guint8 data[4096];
        g_auto(Tally) tally;
        g_autoptr(GError) error = NULL;
        server_read(reader, data, BLOCK, sizeof data, sizeof data, &tally, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(tally.n_failed, ==, 1);
        g_assert_error(tally.error, VMB_ERROR, VMB_ERROR_FAILED);
        g_assert_nonnull(strstr(tally.error->message, "offset 65536"));
    }
}

static gboolean
simple_reply(Fake *f, const FakeRequest *r)
{
    guint8 reply[16 + 4096] = {0x67, 0x44, 0x66, 0x98};
    for (int i = 0; i < 8; i++)
        reply[8 + i] = (guint8)(r->cookie >> (56 - 8 * i));
    fake_send(f, reply, sizeof reply);
    return TRUE;
}

/* Structured replies were agreed on. Some versions of libnbd end the connection here, others only
 * the read; no version may take it for data. */
static void
test_simple_reply(void)
{
    g_autoptr(Fake) fake = fake_start(simple_reply);
    g_autoptr(VmbNbdReader) reader = open_reader(fake);
    guint8 data[4096];
    g_auto(Tally) tally;
    server_read(reader, data, 0, sizeof data, sizeof data, &tally, NULL);
    g_assert_cmpuint(tally.n_ok, ==, 0);
    g_assert_cmpuint(tally.n_failed, ==, 1);
}

static gboolean
outside(Fake *f, const FakeRequest *r)
{
    fake_data(f, r, r->offset + 1, r->length, 0x11, TRUE);
    return TRUE;
}

static gboolean
half_chunk(Fake *f, const FakeRequest *r)
{
    guint8 header[20] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1};
    for (int i = 0; i < 8; i++)
        header[8 + i] = (guint8)(r->cookie >> (56 - 8 * i));
    header[18] = 0x10; /* 4096 bytes, of which none comes */
    fake_send(f, header, sizeof header);
    return FALSE;
}

/* What breaks the protocol ends the connection, and each read once. */
static void
test_broken_reads(void)
{
    static const FakeAnswer answers[] = {outside, half_chunk, garbage};
    for (gsize i = 0; i < G_N_ELEMENTS(answers); i++) {
        g_autoptr(Fake) fake = fake_start(answers[i]);
        g_autoptr(VmbNbdReader) reader = open_reader(fake);
        guint8 data[8 * 4096];
        g_auto(Tally) tally;
        g_autoptr(GError) error = NULL;
        g_assert_false(server_read(reader, data, 0, sizeof data, 4096, &tally, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
        g_test_message("%s", error->message);
        g_assert_cmpuint(tally.n_ok, ==, 0);
        g_assert_cmpuint(tally.n_failed, ==, 8);
    }
}

static gboolean
other_cookie(Fake *f, const FakeRequest *r)
{
    FakeRequest other = *r;
    other.cookie ^= 0x4000;
    fake_chunk(f, other.cookie, TRUE, NBD_REPLY_TYPE_NONE, NULL, 0);
    return TRUE;
}

/* Answers to what nobody asked do not count as ours. */
static void
test_other_cookie(void)
{
    g_autoptr(Fake) fake = fake_start(other_cookie);
    g_autoptr(VmbNbdReader) reader = open_reader(fake);
    guint8 data[4096];
    g_auto(Tally) tally;
    g_autoptr(GError) error = NULL;
    g_assert_false(server_read(reader, data, 0, sizeof data, sizeof data, &tally, &error));
    g_test_message("%s", error->message);
    g_assert_cmpuint(tally.n_failed, ==, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-hostile/bad-extents", test_bad_extents);
    g_test_add_func("/nbd-hostile/short-extents", test_short_extents);
    g_test_add_func("/nbd-hostile/pieces", test_pieces);
    g_test_add_func("/nbd-hostile/bad-reads", test_bad_reads);
    g_test_add_func("/nbd-hostile/simple-reply", test_simple_reply);
    g_test_add_func("/nbd-hostile/broken-reads", test_broken_reads);
    g_test_add_func("/nbd-hostile/other-cookie", test_other_cookie);
    return g_test_run();
}
