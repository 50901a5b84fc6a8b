/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes, durations and times: reading, writing, and arithmetic that cannot overflow unseen. */
#include "util/units.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define NS_PER_S G_GUINT64_CONSTANT(1000000000)

typedef struct {
    const char *suffix;
    guint64 factor;
} Unit;

static const Unit size_units[] = {
    {"", 1},          {"B", 1},
    {"K", VMB_KIB},   {"k", VMB_KIB},  {"KB", VMB_KIB}, {"KiB", VMB_KIB},
    {"M", VMB_MIB},   {"m", VMB_MIB},  {"MB", VMB_MIB}, {"MiB", VMB_MIB},
    {"G", VMB_GIB},   {"g", VMB_GIB},  {"GB", VMB_GIB}, {"GiB", VMB_GIB},
    {"T", VMB_TIB},   {"t", VMB_TIB},  {"TB", VMB_TIB}, {"TiB", VMB_TIB},
};

static const Unit duration_units[] = {
    {"", NS_PER_S},        {"ms", 1000000},         {"s", NS_PER_S},
    {"m", 60 * NS_PER_S},  {"h", 3600 * NS_PER_S},  {"d", 86400 * NS_PER_S},
};

static gboolean
parse_with_unit(const char *text, const Unit *units, gsize n_units, guint64 *value)
{
    if (!g_ascii_isdigit(text[0]))
        return FALSE;
    char *end = NULL;
    errno = 0;
    guint64 number = g_ascii_strtoull(text, &end, 10);
    if (errno != 0)
        return FALSE;
    for (gsize i = 0; i < n_units; i++)
        if (strcmp(end, units[i].suffix) == 0)
            return g_uint64_checked_mul(value, number, units[i].factor);
    return FALSE;
}

gboolean
vmb_units_parse_size(const char *text, guint64 *bytes, GError **error)
{
    if (parse_with_unit(text, size_units, G_N_ELEMENTS(size_units), bytes))
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_USAGE,
                         "'%s' is not a size: give a number with K, M, G or T, such as 64M", text);
}

gboolean
vmb_units_parse_duration(const char *text, guint64 *ns, GError **error)
{
    if (parse_with_unit(text, duration_units, G_N_ELEMENTS(duration_units), ns))
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_USAGE,
                         "'%s' is not a duration: give a number with s, m, h or d, such as 30s",
                         text);
}

char *
vmb_units_format_size(guint64 bytes)
{
    static const char *const suffix[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < VMB_KIB)
        return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
    double value = (double)bytes / 1024;
    gsize i = 0;
    while (value >= 1023.95 && i + 1 < G_N_ELEMENTS(suffix)) {
        value /= 1024;
        i++;
    }
    char number[32];
    g_ascii_formatd(number, sizeof number, value < 99.95 ? "%.1f" : "%.0f", value);
    return g_strdup_printf("%s %s", number, suffix[i]);
}

char *
vmb_units_format_duration(guint64 ns)
{
    guint64 seconds = ns / NS_PER_S;
    if (ns < NS_PER_S)
        return g_strdup_printf("%" G_GUINT64_FORMAT " ms", (ns + 500000) / 1000000);
    if (seconds < 60) {
        char number[32];
        g_ascii_formatd(number, sizeof number, "%.1f", (double)ns / (double)NS_PER_S);
        return g_strdup_printf("%s s", number);
    }
    if (seconds < 3600)
        return g_strdup_printf("%um %02us", (guint)(seconds / 60), (guint)(seconds % 60));
    return g_strdup_printf("%" G_GUINT64_FORMAT "h %02um", seconds / 3600,
                           (guint)(seconds % 3600 / 60));
}

static gboolean
utc_fields(gint64 unix_ns, struct tm *tm)
{
    time_t seconds = (time_t)(unix_ns / (gint64)NS_PER_S);
    return gmtime_r(&seconds, tm) != NULL;
}

char *
vmb_units_format_time(gint64 unix_ns)
{
    struct tm tm;
    if (!utc_fields(unix_ns, &tm))
        return g_strdup("?");
    return g_strdup_printf("%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                           tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

char *
vmb_units_format_point_time(gint64 unix_ns)
{
    struct tm tm;
    if (!utc_fields(unix_ns, &tm))
        return g_strdup("?");
    return g_strdup_printf("%04d%02d%02dT%02d%02d%02dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                           tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

gboolean
vmb_units_parse_time(const char *text, gint64 *unix_ns)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (end == NULL || *end != '\0')
        return FALSE;
    /* 64 bits of nanoseconds end in the year 2262. */
    return !__builtin_mul_overflow((gint64)timegm(&tm), (gint64)NS_PER_S, unix_ns);
}

static guint64
clock_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (guint64)ts.tv_sec * NS_PER_S + (guint64)ts.tv_nsec;
}

gint64
vmb_units_now(void)
{
    const char *text = g_getenv("VMBACKUP_TEST_CLOCK");
    gint64 seconds = text != NULL ? g_ascii_strtoll(text, NULL, 10) : 0;
    return seconds > 0 ? seconds * (gint64)NS_PER_S : (gint64)clock_ns(CLOCK_REALTIME);
}

guint64
vmb_units_monotonic(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}
