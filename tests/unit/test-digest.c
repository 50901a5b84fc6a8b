/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 against known values and GLib's, the check of stored bytes, zero detection. */
#include "block/digest.h"
#include "util/text.h"

#include <string.h>

static void
check_sha256(VmbDigest *digest, const char *text, const char *expected)
{
    guint8 out[VMB_DIGEST_SIZE];
    vmb_digest_block(digest, text, strlen(text), out);
    g_autofree char *hex = vmb_text_hex(out, sizeof out);
    g_assert_cmpstr(hex, ==, expected);
}

/* The values of FIPS 180-2, appendix B. */
static void
test_known(void)
{
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    check_sha256(digest, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_sha256(digest, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_sha256(digest, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    guint8 out[VMB_DIGEST_SIZE];
    g_autofree char *as = g_strnfill(1000, 'a');
    for (int i = 0; i < 1000; i++)
        vmb_digest_update(digest, as, 1000);
    vmb_digest_finish(digest, out);
    g_autofree char *hex = vmb_text_hex(out, sizeof out);
    g_assert_cmpstr(hex, ==, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void
test_against_glib(void)
{
    enum { N = 3 * 65536 };
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    g_autofree guint8 *data = g_malloc(N);
    for (gsize i = 0; i < N; i++)
        data[i] = (guint8)g_test_rand_int();
    for (int round = 0; round < 200; round++) {
        gsize length = (gsize)g_test_rand_int_range(0, N + 1);
        gsize cut = (gsize)g_test_rand_int_range(0, (gint32)length + 1);
        guint8 out[VMB_DIGEST_SIZE];
        vmb_digest_update(digest, data, cut);
        vmb_digest_update(digest, data + cut, length - cut);
        vmb_digest_finish(digest, out);
        g_autofree char *hex = vmb_text_hex(out, sizeof out);
        g_autofree char *expected = g_compute_checksum_for_data(G_CHECKSUM_SHA256, data, length);
        g_assert_cmpstr(hex, ==, expected);
    }
}

/* The low halves of published XXH64 values. */
static void
test_check(void)
{
    g_assert_cmphex(vmb_digest_check("", 0), ==, 0x51d8e999);
    g_assert_cmphex(vmb_digest_check("abc", 3), ==, 0xad770999);
    guint8 data[4096] = {0};
    guint32 before = vmb_digest_check(data, sizeof data);
    for (gsize bit = 0; bit < 8 * sizeof data; bit += 7) {
        data[bit / 8] ^= (guint8)(1 << bit % 8);
        g_assert_cmphex(vmb_digest_check(data, sizeof data), !=, before);
        data[bit / 8] ^= (guint8)(1 << bit % 8);
    }
}

static void
test_zero(void)
{
    g_autofree guint8 *data = g_malloc0(VMB_BLOCK_SIZE + 8);
    /* Bytes outside the range must not matter, wherever it begins. */
    for (gsize start = 1; start < 8; start++)
        for (gsize length = 0; length < 300; length++) {
            data[start - 1] = data[start + length] = 1;
            g_assert_true(vmb_zero_detect(data + start, length));
            data[start - 1] = data[start + length] = 0;
        }
    g_assert_true(vmb_zero_detect(data, VMB_BLOCK_SIZE));
    for (gsize i = 0; i < VMB_BLOCK_SIZE; i++) {
        data[i] = 0x80;
        g_assert_false(vmb_zero_detect(data, VMB_BLOCK_SIZE));
        data[i] = 0;
    }
}

/* Equal bytes that are not zero, and a period of the step that the comparison uses. */
static void
test_not_zero(void)
{
    g_autofree guint8 *data = g_malloc(VMB_BLOCK_SIZE);
    memset(data, 0xff, VMB_BLOCK_SIZE);
    g_assert_false(vmb_zero_detect(data, VMB_BLOCK_SIZE));
    memset(data, 0, VMB_BLOCK_SIZE);
    for (gsize i = 63; i < VMB_BLOCK_SIZE; i += 64)
        data[i] = 1;
    g_assert_false(vmb_zero_detect(data, VMB_BLOCK_SIZE));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/digest/known", test_known);
    g_test_add_func("/digest/against-glib", test_against_glib);
    g_test_add_func("/digest/check", test_check);
    g_test_add_func("/digest/zero", test_zero);
    g_test_add_func("/digest/not-zero", test_not_zero);
    return g_test_run();
}
