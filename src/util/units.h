/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes, durations and times: reading, writing, and arithmetic that cannot overflow unseen. */
#pragma once
#include <glib.h>

#define VMB_KIB G_GUINT64_CONSTANT(1024)
#define VMB_MIB (VMB_KIB * 1024)
#define VMB_GIB (VMB_MIB * 1024)
#define VMB_TIB (VMB_GIB * 1024)

/* Reads a size in bytes: digits, then nothing or one of K M G T (powers of 1024; lower case and a
 * trailing "iB" or "B" are allowed). Errors: VMB_ERROR_USAGE. */
gboolean vmb_units_parse_size(const char *text, guint64 *bytes, GError **error);

/* Reads a duration in nanoseconds: digits and one of s m h d, also `ms`; a bare number is seconds.
 * Errors: VMB_ERROR_USAGE. */
gboolean vmb_units_parse_duration(const char *text, guint64 *ns, GError **error);

/* "1.5 GiB", "12 KiB", "17 B". Free with g_free(). */
char *vmb_units_format_size(guint64 bytes);

/* "85 ms", "12.3 s", "4m 05s", "2h 10m". Free with g_free(). */
char *vmb_units_format_duration(guint64 ns);

/* RFC 3339 in UTC with seconds, "2026-11-21T02:00:00Z". @unix_ns: ns since 1970. */
char *vmb_units_format_time(gint64 unix_ns);

/* The reverse of vmb_units_format_time(); FALSE without an error if @text is something else. */
gboolean vmb_units_parse_time(const char *text, gint64 *unix_ns);

/* Name of a point that is made at @unix_ns: "20261121T020000Z". Free with g_free(). */
char *vmb_units_format_point_time(gint64 unix_ns);

/* Nanoseconds since 1970 (wall clock), and of the clock that never goes back. The test variable
 * VMBACKUP_TEST_CLOCK, seconds since 1970, lets the former stand still there. */
gint64 vmb_units_now(void);
guint64 vmb_units_monotonic(void);

/* @value rounded up / down to a multiple of @unit (a power of two). The caller makes sure that
 * @value + @unit does not overflow; sizes are limited to VMB_SIZE_MAX where they come in. */
static inline guint64
vmb_round_up(guint64 value, guint64 unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

static inline guint64
vmb_round_down(guint64 value, guint64 unit)
{
    return value & ~(unit - 1);
}

/* The largest disk that is accepted anywhere, in bytes. */
#define VMB_SIZE_MAX (64 * VMB_TIB)
