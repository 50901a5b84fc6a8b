/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes, durations and times: reading and writing. */
#include "util/error.h"
#include "util/units.h"

static void
test_sizes(void)
{
    static const struct {
        const char *text;
        guint64 bytes;
    } good[] = {{"0", 0}, {"17", 17}, {"64K", 65536}, {"64KiB", 65536}, {"1m", 1048576},
                {"4G", 4 * VMB_GIB}, {"64T", 64 * VMB_TIB}, {"512B", 512}};
    static const char *const bad[] = {"", "K", "-1", "1.5G", "1X", "1 G", "99999999999T",
                                      "18446744073709551616"};
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        guint64 bytes = 1;
        g_assert_true(vmb_units_parse_size(good[i].text, &bytes, NULL));
        g_assert_cmpuint(bytes, ==, good[i].bytes);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        guint64 bytes;
        g_assert_false(vmb_units_parse_size(bad[i], &bytes, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_USAGE);
    }
}

static void
test_durations(void)
{
    guint64 ns = 0;
    g_assert_true(vmb_units_parse_duration("10", &ns, NULL));
    g_assert_cmpuint(ns, ==, G_GUINT64_CONSTANT(10000000000));
    g_assert_true(vmb_units_parse_duration("250ms", &ns, NULL));
    g_assert_cmpuint(ns, ==, 250000000);
    g_assert_true(vmb_units_parse_duration("7d", &ns, NULL));
    g_assert_cmpuint(ns, ==, G_GUINT64_CONSTANT(604800000000000));
    g_assert_false(vmb_units_parse_duration("7 d", &ns, NULL));
    g_assert_false(vmb_units_parse_duration("5w", &ns, NULL));
}

static void
check_size(guint64 bytes, const char *expected)
{
    g_autofree char *text = vmb_units_format_size(bytes);
    g_assert_cmpstr(text, ==, expected);
}

static void
test_format(void)
{
    check_size(0, "0 B");
    check_size(1023, "1023 B");
    check_size(1536, "1.5 KiB");
    check_size(1048575, "1.0 MiB");
    check_size(123 * VMB_MIB, "123 MiB");
    check_size(G_MAXUINT64, "16.0 EiB");
    g_autofree char *minutes = vmb_units_format_duration(G_GUINT64_CONSTANT(245000000000));
    g_assert_cmpstr(minutes, ==, "4m 05s");
}

static void
test_times(void)
{
    gint64 ns = 0;
    g_assert_true(vmb_units_parse_time("2026-11-21T02:00:00Z", &ns));
    g_autofree char *text = vmb_units_format_time(ns);
    g_autofree char *point = vmb_units_format_point_time(ns);
    g_assert_cmpstr(text, ==, "2026-11-21T02:00:00Z");
    g_assert_cmpstr(point, ==, "20261121T020000Z");
    g_assert_false(vmb_units_parse_time("2026-11-21 02:00:00", &ns));
    g_assert_false(vmb_units_parse_time("2026-11-21T02:00:00Z ", &ns));
    g_assert_true(vmb_units_parse_time("2262-04-11T23:47:16Z", &ns));
    g_assert_cmpint(ns, ==, G_GINT64_CONSTANT(9223372036000000000));
    g_assert_false(vmb_units_parse_time("2262-04-11T23:47:17Z", &ns));
    g_assert_false(vmb_units_parse_time("9999-12-31T23:59:60Z", &ns));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/units/sizes", test_sizes);
    g_test_add_func("/units/durations", test_durations);
    g_test_add_func("/units/format", test_format);
    g_test_add_func("/units/times", test_times);
    return g_test_run();
}
