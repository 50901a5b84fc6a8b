/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hostile text on its way to a terminal, names, UUIDs, hexadecimal digits. */
#include "util/text.h"

#include <string.h>

static void
check_clean(const char *text, const char *expected)
{
    g_autofree char *clean = vmb_text_clean(text);
    g_assert_cmpstr(clean, ==, expected);
}

static void
test_harmless(void)
{
    check_clean("", "");
    check_clean("web01 /dev/vda (50 %)", "web01 /dev/vda (50 %)");
    check_clean("Gr\303\274\303\237e \346\227\245\346\234\254 \360\237\230\200",
                "Gr\303\274\303\237e \346\227\245\346\234\254 \360\237\230\200");
    check_clean("one\ntwo\tthree\n", "one two three ");
}

static void
test_control(void)
{
    check_clean("\033[2Jgone\033]0;title\007", "?[2Jgone?]0;title?");
    check_clean("a\rb\bc\177d\001", "a?b?c?d?");
    check_clean("\302\205next \302\233 31m", "?next ? 31m");        /* C1: NEL and CSI */
    check_clean("a\342\200\250b\342\200\251c", "a?b?c");            /* line, paragraph separator */
    check_clean("\342\200\256exe.gpj", "?exe.gpj");                 /* right-to-left override */
    check_clean("\342\201\246x\342\201\251", "?x?");                /* isolates */
    check_clean("a\342\200\213b\357\273\277c\302\255d", "a?b?c?d"); /* invisible ones */
    check_clean("\363\240\200\201tag", "?tag");
}

static void
test_invalid(void)
{
    check_clean("\377\376", "??");
    check_clean("a\300\200b", "a??b");       /* overlong NUL */
    check_clean("\340\200\257", "???");      /* overlong slash */
    check_clean("\355\240\200", "???");      /* surrogate */
    check_clean("\364\220\200\200", "????"); /* beyond Unicode */
    check_clean("end\342\202", "end??");     /* cut off */
    check_clean("\2331mraw C1", "?1mraw C1");
}

/* Whatever comes in: valid, one line, nothing that a terminal acts upon, and stable. */
static void
test_random(void)
{
    for (int round = 0; round < 20000; round++) {
        char text[40];
        gsize length = (gsize)g_test_rand_int_range(0, sizeof text);
        for (gsize i = 0; i < length; i++)
            text[i] = (char)g_test_rand_int_range(1, 256);
        text[length] = '\0';
        g_autofree char *clean = vmb_text_clean(text);
        g_autofree char *again = vmb_text_clean(clean);
        g_assert_true(g_utf8_validate(clean, -1, NULL));
        g_assert_cmpstr(clean, ==, again);
        for (const char *p = clean; *p != '\0'; p = g_utf8_next_char(p)) {
            gunichar c = g_utf8_get_char(p);
            g_assert_false(g_unichar_iscntrl(c));
            g_assert_cmpint(g_unichar_type(c), !=, G_UNICODE_FORMAT);
        }
    }
}

static void
test_names(void)
{
    static const char *const good[] = {"vda", "a", "20261121T020000Z", "web-01_x.y", "-", "a..b"};
    static const char *const bad[] = {"",    ".",        "..",  ".hidden", "a/b",  "a b",
                                      "a\n", "\303\274", "a*b", "~",       "a\\b", "%41"};
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++)
        g_assert_true(vmb_text_is_name(good[i]));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(vmb_text_is_name(bad[i]));
    g_assert_false(vmb_text_is_name(NULL));
    g_autofree char *longest = g_strnfill(200, 'x');
    g_autofree char *too_long = g_strnfill(201, 'x');
    g_assert_true(vmb_text_is_name(longest));
    g_assert_false(vmb_text_is_name(too_long));
}

static void
test_uuids(void)
{
    static const char *const bad[] = {"",
                                      "c7a5fdbd-cdaf-9455-926a-d65c16db1809 ",
                                      "c7a5fdbd-cdaf-9455-926a-d65c16db180",
                                      "C7a5fdbd-cdaf-9455-926a-d65c16db1809",
                                      "c7a5fdbd0cdaf-9455-926a-d65c16db1809",
                                      "c7a5fdbd-cdaf-9455-926a-d65c16db180g",
                                      "c7a5fdbd-cdaf-9455-926a/d65c16db1809",
                                      "../../../../../../../../../../etc/pw"};
    g_assert_true(vmb_text_is_uuid("c7a5fdbd-cdaf-9455-926a-d65c16db1809"));
    g_assert_false(vmb_text_is_uuid(NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(vmb_text_is_uuid(bad[i]));
}

static void
test_hex(void)
{
    static const guint8 bytes[] = {0x00, 0x0f, 0xf0, 0xff, 0x5a};
    static const char *const bad[] = {"",           "000ff0ff5",  "000ff0ff5a0",
                                      "000ff0ff5g", " 00ff0ff5a", "0x0ff0ff5a"};
    guint8 back[sizeof bytes];
    g_autofree char *hex = vmb_text_hex(bytes, sizeof bytes);
    g_autofree char *empty = vmb_text_hex(bytes, 0);
    g_assert_cmpstr(hex, ==, "000ff0ff5a");
    g_assert_cmpstr(empty, ==, "");
    g_assert_true(vmb_text_unhex(hex, back, sizeof back));
    g_assert_cmpmem(back, sizeof back, bytes, sizeof bytes);
    g_assert_true(vmb_text_unhex("000FF0ff5A", back, sizeof back));
    g_assert_false(vmb_text_unhex(NULL, back, sizeof back));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(vmb_text_unhex(bad[i], back, sizeof back));
}

static void
test_json(void)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"{\"a\":\"b \\n \\u001b \\\\\"}", "{\"a\":\"b \\n \\u001b \\\\\"}"},
        {"\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac\"", "\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac\""},
        {"\"\xc2\x9b" "31m\x7f\"", "\"\\u009b31m\\u007f\""},
        {"\"\xe2\x80\xae\xe2\x80\xa8\"", "\"\\u202e\\u2028\""},
        {"\"\xf3\xa0\x81\x81\"", "\"\\udb40\\udc41\""},
        {"\"\xff\xc3\"", "\"\\ufffd\\ufffd\""},
        {"\"\xf0\x9f\x98\x80\"\n", "\"\xf0\x9f\x98\x80\"\n"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *got = vmb_text_json_ascii_controls(cases[i].in);
        g_assert_cmpstr(got, ==, cases[i].out);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/text/harmless", test_harmless);
    g_test_add_func("/text/control", test_control);
    g_test_add_func("/text/invalid", test_invalid);
    g_test_add_func("/text/random", test_random);
    g_test_add_func("/text/names", test_names);
    g_test_add_func("/text/uuids", test_uuids);
    g_test_add_func("/text/hex", test_hex);
    g_test_add_func("/text/json", test_json);
    return g_test_run();
}
