/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text from guests, XML and files before it is shown or used as a name. */
#include "util/text.h"

#include <string.h>

#define NAME_MAX_BYTES 200

static gboolean
is_harmless(gunichar c)
{
    if (c < 0x20 || (c >= 0x7f && c < 0xa0))
        return FALSE;
    if (c == 0x2028 || c == 0x2029)
        return FALSE;
    GUnicodeType type = g_unichar_type(c);
    return type != G_UNICODE_FORMAT && type != G_UNICODE_CONTROL && type != G_UNICODE_SURROGATE;
}

/* The number of bytes up to the first that is not printable ASCII. */
static gsize
plain_length(const char *text)
{
    const char *p = text;
    while (*p >= 0x20 && *p < 0x7f)
        p++;
    return (gsize)(p - text);
}

char *
vmb_text_clean(const char *text)
{
    gsize plain = plain_length(text);
    if (text[plain] == '\0')
        return g_memdup2(text, plain + 1);
    GString *out = g_string_new(NULL);
    for (const char *p = text; *p != '\0';) {
        gunichar c = g_utf8_get_char_validated(p, -1);
        if (c == (gunichar)-1 || c == (gunichar)-2) {
            g_string_append_c(out, '?');
            p++;
            continue;
        }
        if (c == '\n' || c == '\t')
            g_string_append_c(out, ' ');
        else if (is_harmless(c))
            g_string_append_unichar(out, c);
        else
            g_string_append_c(out, '?');
        p = g_utf8_next_char(p);
    }
    return g_string_free(out, FALSE);
}

static void
append_escape(GString *out, gunichar c)
{
    if (c > 0xffff) {
        append_escape(out, 0xd800 + ((c - 0x10000) >> 10));
        append_escape(out, 0xdc00 + ((c - 0x10000) & 0x3ff));
    } else {
        g_string_append_printf(out, "\\u%04x", c);
    }
}

char *
vmb_text_json_ascii_controls(const char *json)
{
    GString *out = g_string_new(NULL);
    for (const char *p = json; *p != '\0';) {
        const char *plain = p;
        while (*p > '\0' && *p < 0x7f)
            p++;
        g_string_append_len(out, plain, p - plain);
        if (*p == '\0')
            break;
        gunichar c = g_utf8_get_char_validated(p, -1);
        if (c == (gunichar)-1 || c == (gunichar)-2) {
            append_escape(out, 0xfffd);
            p++;
            continue;
        }
        if (is_harmless(c))
            g_string_append_unichar(out, c);
        else
            append_escape(out, c);
        p = g_utf8_next_char(p);
    }
    return g_string_free(out, FALSE);
}

gboolean
vmb_text_is_name(const char *name)
{
    if (name == NULL || name[0] == '\0' || name[0] == '.' || strlen(name) > NAME_MAX_BYTES)
        return FALSE;
    for (const char *p = name; *p != '\0'; p++)
        if (!g_ascii_isalnum(*p) && strchr("._-", *p) == NULL)
            return FALSE;
    return TRUE;
}

gboolean
vmb_text_is_uuid(const char *uuid)
{
    if (uuid == NULL || strlen(uuid) != 36)
        return FALSE;
    for (int i = 0; i < 36; i++) {
        gboolean dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? uuid[i] != '-' : !g_ascii_isxdigit(uuid[i]) || g_ascii_isupper(uuid[i]))
            return FALSE;
    }
    return TRUE;
}

char *
vmb_text_hex(const guint8 *bytes, gsize n_bytes)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = g_malloc(2 * n_bytes + 1);
    for (gsize i = 0; i < n_bytes; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * n_bytes] = '\0';
    return hex;
}

gboolean
vmb_text_unhex(const char *hex, guint8 *bytes, gsize n_bytes)
{
    if (hex == NULL || strlen(hex) != 2 * n_bytes)
        return FALSE;
    for (gsize i = 0; i < n_bytes; i++) {
        int high = g_ascii_xdigit_value(hex[2 * i]);
        int low = g_ascii_xdigit_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return FALSE;
        bytes[i] = (guint8)(high << 4 | low);
    }
    return TRUE;
}
