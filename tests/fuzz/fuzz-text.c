/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: names, sizes, times and other short texts from guests, files and users. */
#include "fuzz.h"
#include "block/compress.h"
#include "repo/layout.h"
#include "util/text.h"
#include "util/units.h"

/* Input: the text, up to its first zero byte. */

void
fuzz_set_up(void)
{
}

static gboolean
is_harmful(gunichar c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

/* One line of valid UTF-8 that no terminal acts on; and clean text stays as it is. */
static void
try_clean(const char *text)
{
    g_autofree char *clean = vmb_text_clean(text);
    FUZZ_CHECK(g_utf8_validate(clean, -1, NULL));
    for (const char *p = clean; *p != '\0'; p = g_utf8_next_char(p))
        FUZZ_CHECK(!is_harmful(g_utf8_get_char(p)));
    g_autofree char *again = vmb_text_clean(clean);
    FUZZ_CHECK(strcmp(clean, again) == 0);
}

/* A name stays in its directory, whatever is made of it. */
static void
try_names(const char *text)
{
    gboolean name = vmb_text_is_name(text);
    FUZZ_CHECK(!name || (strchr(text, '/') == NULL && text[0] != '.' && strlen(text) <= 200));
    FUZZ_CHECK(!vmb_layout_is_point_file(text) || name);
    FUZZ_CHECK(!vmb_layout_is_point_id(text) || name);
    FUZZ_CHECK(!vmb_layout_is_leftover(text) || text[0] == '.');
    g_autofree char *link = vmb_layout_link_name(text);
    FUZZ_CHECK(text[0] == '\0' || vmb_text_is_name(link));
    FUZZ_CHECK(!name || strcmp(link, text) == 0);
    if (vmb_text_is_uuid(text))
        FUZZ_CHECK(name && strlen(text) == 36);
}

static void
try_hex(const char *text)
{
    guint8 bytes[64];
    gsize n = strlen(text) / 2;
    if (n > sizeof bytes || !vmb_text_unhex(text, bytes, n))
        return;
    g_autofree char *hex = vmb_text_hex(bytes, n);
    FUZZ_CHECK(g_ascii_strcasecmp(hex, text) == 0);
}

static void
try_units(const char *text)
{
    g_autoptr(GError) error = NULL, error2 = NULL, error3 = NULL;
    guint64 bytes = 0, ns = 0;
    gint64 time = 0;
    int level = 0;
    if (!vmb_units_parse_size(text, &bytes, &error))
        fuzz_check_error(error, VMB_ERROR_USAGE);
    if (!vmb_units_parse_duration(text, &ns, &error2))
        fuzz_check_error(error2, VMB_ERROR_USAGE);
    if (!vmb_compress_parse(text, &level, &error3))
        fuzz_check_error(error3, VMB_ERROR_USAGE);
    else
        FUZZ_CHECK(level == VMB_COMPRESS_NONE || (level >= -7 && level <= 19));
    g_autofree char *size = vmb_units_format_size(bytes);
    g_autofree char *duration = vmb_units_format_duration(ns);
    FUZZ_CHECK(strlen(size) < 16 && strlen(duration) < 24);
    if (!vmb_units_parse_time(text, &time))
        return;
    g_autofree char *shown = vmb_units_format_time(time);
    gint64 again = 0;
    FUZZ_CHECK(vmb_units_parse_time(shown, &again) && again == time);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    g_autofree char *text = fuzz_text(data, length);
    try_clean(text);
    try_names(text);
    try_hex(text);
    try_units(text);
}

void
fuzz_seeds(void)
{
    static const char *const texts[] = {
        "vda.qcow2",
        "20261121T020000Z-2",
        "manifest.json",
        ".state.json.new",
        "../../etc/passwd",
        "5f0c7a52-7d0f-4a57-9b6e-0f3d2c1b0a99",
        "00112233445566778899aabbccddeeff",
        "18446744073709551615",
        "64M",
        "1.5GiB",
        "16777216T",
        "30s",
        "7d",
        "500ms",
        "2026-11-21T02:00:00Z",
        "9999-12-31T23:59:60Z",
        "zstd:-7",
        "none",
        "\x1b]0;title\x07 \xe2\x80\xae \xc2\x9b \xff \xf0\x9f\x98\x80",
        "a\nb\tc",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *name = g_strdup_printf("text-%u", i);
        fuzz_seed(name, texts[i], strlen(texts[i]));
    }
}
