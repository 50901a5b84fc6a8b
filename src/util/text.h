/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text from guests, XML and files before it is shown or used as a name. */
#pragma once
#include <glib.h>

/* Returns a copy of @text in which invalid UTF-8 and control characters (also C1, escape
 * sequences, line separators and bidirectional overrides) are replaced by '?'; line feeds stay
 * single spaces, so one message remains one line. Free with g_free(). */
char *vmb_text_clean(const char *text);

/* The same JSON text with these characters as \u escapes, so that a terminal that shows it is not
 * led by it; invalid UTF-8 becomes U+FFFD. Free with g_free(). */
char *vmb_text_json_ascii_controls(const char *json);

/* TRUE if @name is a name that the repository may use: [A-Za-z0-9._-]+ without a leading dot,
 * at most 200 bytes. */
gboolean vmb_text_is_name(const char *name);

/* TRUE if @uuid is 8-4-4-4-12 lower-case hexadecimal digits, as libvirt prints it. */
gboolean vmb_text_is_uuid(const char *uuid);

/* Returns @n_bytes as 2 * @n_bytes lower-case hexadecimal digits. Free with g_free(). */
char *vmb_text_hex(const guint8 *bytes, gsize n_bytes);

/* Reads exactly 2 * @n_bytes hexadecimal digits of @hex into @bytes; FALSE if @hex has another
 * length or other characters. */
gboolean vmb_text_unhex(const char *hex, guint8 *bytes, gsize n_bytes);
