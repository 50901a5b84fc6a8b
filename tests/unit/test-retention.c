/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a policy keeps: the published examples of Proxmox Backup Server, calendars, and properties.
 */
#include "repo/retention.h"
#include "util/error.h"
#include "util/units.h"

#include <string.h>
#include <time.h>

#define SECOND G_GINT64_CONSTANT(1000000000)
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)
#define MAX_POINTS 600u

/* Points of one domain, the number of each is its place plus one. */
typedef struct {
    guint n;
    VmbRetentionPoint points[MAX_POINTS];
    VmbRetentionVerdict verdicts[MAX_POINTS];
} Story;

static gint64
at(const char *text)
{
    gint64 ns = 0;
    g_assert_true(vmb_units_parse_time(text, &ns));
    return ns;
}

static VmbRetentionPoint *
add(Story *story, gint64 time_ns)
{
    VmbRetentionPoint *point = &story->points[story->n++];
    g_assert_cmpuint(story->n, <=, MAX_POINTS);
    *point = (VmbRetentionPoint){.sequence = story->n, .time_ns = time_ns};
    return point;
}

/* @times: separated by spaces; a '!' behind one protects it. */
static void
add_all(Story *story, const char *times)
{
    g_auto(GStrv) words = g_strsplit(times, " ", -1);
    for (guint i = 0; words[i] != NULL; i++) {
        gsize length = strlen(words[i]);
        gboolean is_protected = words[i][length - 1] == '!';
        words[i][length - (is_protected ? 1 : 0)] = '\0';
        add(story, at(words[i]))->is_protected = is_protected;
    }
}

static GTimeZone *
zone_of(const char *name)
{
    GTimeZone *zone = g_time_zone_new_identifier(name);
    g_assert_nonnull(zone);
    return zone;
}

static void
decide_at(Story *story, VmbRetentionPolicy policy, gint64 now_ns, const char *zone_name)
{
    g_autoptr(GTimeZone) zone = zone_of(zone_name);
    vmb_retention_decide(story->points, story->n, &policy, now_ns, zone, story->verdicts);
}

/* The places of the kept points, as "0 2 3". */
static char *
kept(const Story *story)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; i < story->n; i++)
        if (story->verdicts[i].kept)
            g_string_append_printf(text, "%s%u", text->len > 0 ? " " : "", i);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void
assert_kept(Story *story, VmbRetentionPolicy policy, const char *expected)
{
    decide_at(story, policy, at("2030-01-01T00:00:00Z"), "UTC");
    g_autofree char *places = kept(story);
    g_assert_cmpstr(places, ==, expected);
}

/* The decision's words on one point. */
static void
assert_why(const Story *story, guint i, VmbRetentionPolicy policy, const char *zone_name,
           const char *expected)
{
    g_autoptr(GTimeZone) zone = zone_of(zone_name);
    g_autofree char *why = vmb_retention_why(&story->points[i], &story->verdicts[i], &policy, zone);
    g_assert_cmpstr(why, ==, expected);
}

/* ---- the tests of proxmox-backup (tests/prune.rs), as cases ---- */

static void
test_proxmox_protected(void)
{
    Story story = {0};
    add_all(&story, "2019-11-15T09:39:15Z! 2019-11-15T10:39:15Z 2019-11-15T10:49:15Z "
                    "2019-11-15T10:59:15Z!");
    assert_kept(&story, (VmbRetentionPolicy){.last = 1}, "0 2 3");
    assert_kept(&story, (VmbRetentionPolicy){.hourly = 1}, "0 2 3");
}

static void
test_proxmox_hourly(void)
{
    Story story = {0};
    add_all(&story, "2019-11-15T09:39:15Z 2019-11-15T10:49:15Z 2019-11-15T10:59:15Z "
                    "2019-11-15T11:39:15Z 2019-11-15T11:49:15Z 2019-11-15T11:59:15Z");
    assert_kept(&story, (VmbRetentionPolicy){.hourly = 3}, "0 2 5");
    assert_kept(&story, (VmbRetentionPolicy){.hourly = 2}, "2 5");
}

static void
test_proxmox_years(void)
{
    Story story = {0};
    add_all(&story, "2018-11-15T11:59:15Z 2019-11-15T11:59:15Z 2019-11-21T11:59:15Z "
                    "2019-11-22T11:59:15Z 2019-11-29T11:59:15Z 2019-12-01T11:59:15Z "
                    "2019-12-02T11:59:15Z 2019-12-03T11:59:15Z 2019-12-04T11:59:15Z");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 1}, "8");
    assert_kept(&story, (VmbRetentionPolicy){.last = 1, .daily = 1}, "7 8");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 1, .weekly = 1}, "5 8");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 1, .weekly = 1, .monthly = 1}, "3 5 8");
    assert_kept(&story, (VmbRetentionPolicy){.monthly = 1, .yearly = 1}, "0 8");
}

static void
test_proxmox_simple(void)
{
    Story story = {0};
    add_all(&story, "2019-12-02T11:59:15Z 2019-12-03T11:59:15Z 2019-12-04T11:59:15Z "
                    "2019-12-04T12:59:15Z");
    assert_kept(&story, (VmbRetentionPolicy){.last = 4}, "0 1 2 3");
    assert_kept(&story, (VmbRetentionPolicy){.last = 3}, "1 2 3");
    assert_kept(&story, (VmbRetentionPolicy){.last = 2}, "2 3");
    assert_kept(&story, (VmbRetentionPolicy){.last = 1}, "3");
    assert_kept(&story, (VmbRetentionPolicy){.last = 2, .daily = 2}, "0 1 2 3");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 3}, "0 1 3");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 2}, "1 3");
    assert_kept(&story, (VmbRetentionPolicy){.weekly = 5}, "3");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 1, .weekly = 5}, "3");
    assert_kept(&story, (VmbRetentionPolicy){.monthly = 6}, "3");
    assert_kept(&story, (VmbRetentionPolicy){.yearly = 7}, "3");
    assert_kept(&story, (VmbRetentionPolicy){.weekly = 5, .monthly = 6, .yearly = 7}, "3");
}

/* The documented settings for daily backups over ten years: 3 + 13 days cover more than two weeks,
 * 8 weeks more than two months, 11 months the year, 9 years the rest. */
static void
test_proxmox_documented_settings(void)
{
    static Story story;
    VmbRetentionPolicy policy = {.last = 3, .daily = 13, .weekly = 8, .monthly = 11, .yearly = 9};
    guint counts[VMB_KEEP_NEWEST + 1] = {0};
    story.n = 0;
    /* As a nightly prune leaves it: what is dropped is gone the next day. */
    for (gint64 day = 0; day < 11 * 365; day++) {
        gint64 now = at("2008-01-01T02:00:00Z") + day * DAY;
        guint left = 0;
        add(&story, now)->sequence = (guint64)day + 1;
        decide_at(&story, policy, now, "Europe/Vienna");
        for (guint i = 0; i < story.n; i++)
            if (story.verdicts[i].kept)
                story.points[left++] = story.points[i];
        story.n = left;
    }
    decide_at(&story, policy, at("2019-01-01T00:00:00Z"), "Europe/Vienna");
    for (guint i = 0; i < story.n; i++)
        counts[story.verdicts[i].rule]++;
    g_assert_cmpuint(counts[VMB_KEEP_LAST], ==, 3);
    g_assert_cmpuint(counts[VMB_KEEP_DAILY], ==, 13);
    g_assert_cmpuint(counts[VMB_KEEP_WEEKLY], ==, 8);
    g_assert_cmpuint(counts[VMB_KEEP_MONTHLY], ==, 11);
    g_assert_cmpuint(counts[VMB_KEEP_YEARLY], ==, 9);
    g_assert_cmpuint(story.n, ==, 3 + 13 + 8 + 11 + 9);
}

/* "in a week covered by keep-weekly [...] keep-monthly then does not consider backups from that
 * week anymore, even if part of the week is part of an earlier month" */
static void
test_proxmox_week_over_months(void)
{
    Story story = {0};
    add_all(&story, "2019-11-23T12:00:00Z 2019-11-30T12:00:00Z 2019-12-01T12:00:00Z");
    assert_kept(&story, (VmbRetentionPolicy){.monthly = 2}, "1 2");
    assert_kept(&story, (VmbRetentionPolicy){.weekly = 1, .monthly = 1}, "0 2");
}

/* The table of the manual page. */
static void
test_documented_table(void)
{
    static const struct {
        const char *first, *last; /* days */
        const char *why;
    } rows[] = {
        {"2026-11-24", "2026-11-26", "last"},
        {"2026-11-23", "2026-11-23", "daily 2026-11-23"},
        {"2026-11-22", "2026-11-22", "daily 2026-11-22"},
        {"2026-11-21", "2026-11-21", "daily 2026-11-21"},
        {"2026-11-20", "2026-11-20", "daily 2026-11-20"},
        {"2026-11-16", "2026-11-19", "weekly 2026-W47 has a newer one"},
        {"2026-11-15", "2026-11-15", "weekly 2026-W46"},
        {"2026-11-09", "2026-11-14", "weekly 2026-W46 has a newer one"},
        {"2026-11-08", "2026-11-08", "weekly 2026-W45"},
        {"2026-11-02", "2026-11-07", "weekly 2026-W45 has a newer one"},
        {"2026-11-01", "2026-11-01", "monthly 2026-11 has a newer one"},
        {"2026-10-31", "2026-10-31", "monthly 2026-10"},
        {"2026-10-01", "2026-10-30", "monthly 2026-10 has a newer one"},
        {"2026-09-01", "2026-09-30", "older than what is kept"},
    };
    static Story story;
    VmbRetentionPolicy policy = {.last = 3, .daily = 4, .weekly = 2, .monthly = 1};
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    guint seen = 0;
    story.n = 0;
    for (gint64 time = at("2026-09-01T02:00:00Z"); time < at("2026-11-27T00:00:00Z"); time += DAY)
        add(&story, time);
    decide_at(&story, policy, at("2026-11-26T05:00:00Z"), "UTC");
    for (guint i = 0; i < story.n; i++) {
        g_autofree char *day = vmb_retention_period(VMB_KEEP_DAILY, story.points[i].time_ns, utc);
        for (gsize r = 0; r < G_N_ELEMENTS(rows); r++) {
            if (strcmp(day, rows[r].first) < 0 || strcmp(day, rows[r].last) > 0)
                continue;
            assert_why(&story, i, policy, "UTC", rows[r].why);
            seen++;
        }
    }
    g_assert_cmpuint(seen, ==, story.n);
}

/* ---- calendars ---- */

static void
test_iso_years(void)
{
    Story story = {0};
    /* 2020-W53 is from 2020-12-28 to 2021-01-03; 2024-W01 begins on 2024-01-01. */
    add_all(&story, "2020-12-27T12:00:00Z 2020-12-28T12:00:00Z 2020-12-31T12:00:00Z "
                    "2021-01-03T12:00:00Z 2021-01-04T12:00:00Z 2023-12-31T12:00:00Z "
                    "2024-01-01T12:00:00Z");
    VmbRetentionPolicy policy = {.weekly = 10};
    assert_kept(&story, policy, "0 3 4 5 6");
    assert_why(&story, 0, policy, "UTC", "weekly 2020-W52");
    assert_why(&story, 1, policy, "UTC", "weekly 2020-W53 has a newer one");
    assert_why(&story, 3, policy, "UTC", "weekly 2020-W53");
    assert_why(&story, 4, policy, "UTC", "weekly 2021-W01");
    assert_why(&story, 5, policy, "UTC", "weekly 2023-W52");
    assert_why(&story, 6, policy, "UTC", "weekly 2024-W01");
}

static void
test_leap_day(void)
{
    Story story = {0};
    add_all(&story, "2024-02-28T23:59:59Z 2024-02-29T00:00:00Z 2024-02-29T23:59:59Z "
                    "2024-03-01T00:00:00Z");
    VmbRetentionPolicy policy = {.daily = 2};
    assert_kept(&story, policy, "2 3");
    assert_why(&story, 2, policy, "UTC", "daily 2024-02-29");
    assert_why(&story, 1, policy, "UTC", "daily 2024-02-29 has a newer one");
    assert_why(&story, 0, policy, "UTC", "older than what is kept");
    assert_kept(&story, (VmbRetentionPolicy){.monthly = 2}, "2 3");
}

/* A day is a day of the zone: 23:30 UTC is the next day in Berlin. */
static void
test_zone(void)
{
    Story story = {0};
    VmbRetentionPolicy policy = {.daily = 9};
    add_all(&story, "2026-11-20T22:30:00Z 2026-11-20T23:30:00Z 2026-11-21T22:30:00Z");
    decide_at(&story, policy, at("2026-11-22T00:00:00Z"), "Europe/Berlin");
    g_autofree char *berlin = kept(&story);
    g_assert_cmpstr(berlin, ==, "0 2");
    assert_why(&story, 1, policy, "Europe/Berlin", "daily 2026-11-21 has a newer one");
    decide_at(&story, policy, at("2026-11-22T00:00:00Z"), "UTC");
    g_autofree char *utc = kept(&story);
    g_assert_cmpstr(utc, ==, "1 2");
}

/* Days of 23 and 25 hours, hours that do not exist and hours that come twice. */
static void
test_summer_time(void)
{
    Story spring = {0}, autumn = {0};
    for (gint64 hour = 0; hour < 48; hour++) {
        add(&spring, at("2026-03-28T23:00:00Z") + hour * HOUR); /* midnight of 2026-03-29 */
        add(&autumn, at("2026-10-24T22:00:00Z") + hour * HOUR); /* midnight of 2026-10-25 */
    }
    VmbRetentionPolicy daily = {.daily = 9}, hourly = {.hourly = 100};
    decide_at(&spring, daily, at("2030-01-01T00:00:00Z"), "Europe/Berlin");
    g_autofree char *of_spring = kept(&spring);
    g_assert_cmpstr(of_spring, ==, "22 46 47");
    decide_at(&autumn, daily, at("2030-01-01T00:00:00Z"), "Europe/Berlin");
    g_autofree char *of_autumn = kept(&autumn);
    g_assert_cmpstr(of_autumn, ==, "24 47");
    decide_at(&spring, hourly, at("2030-01-01T00:00:00Z"), "Europe/Berlin");
    for (guint i = 0; i < spring.n; i++)
        g_assert_true(spring.verdicts[i].kept);
    assert_why(&spring, 1, hourly, "Europe/Berlin", "hourly 2026-03-29 01:00");
    assert_why(&spring, 2, hourly, "Europe/Berlin", "hourly 2026-03-29 03:00");
    decide_at(&autumn, hourly, at("2030-01-01T00:00:00Z"), "Europe/Berlin");
    for (guint i = 0; i < autumn.n; i++)
        g_assert_cmpint(autumn.verdicts[i].kept, ==, i != 2); /* 02:00 and 02:00 */
    assert_why(&autumn, 2, hourly, "Europe/Berlin", "hourly 2026-10-25 02:00 has a newer one");
}

static void
test_several_in_a_second(void)
{
    Story story = {0};
    for (guint i = 0; i < 4; i++)
        add(&story, at("2026-11-21T02:00:00Z") + i / 2);
    assert_kept(&story, (VmbRetentionPolicy){.last = 2}, "2 3");
    assert_kept(&story, (VmbRetentionPolicy){.last = 1, .hourly = 3}, "3");
}

/* The clock was set back by two days between number 3 and number 4: the order is that of the
 * numbers. */
static void
test_clock_set_back(void)
{
    Story story = {0};
    add_all(&story, "2026-11-20T02:00:00Z 2026-11-21T02:00:00Z 2026-11-22T02:00:00Z "
                    "2026-11-20T03:00:00Z 2026-11-21T01:00:00Z");
    assert_kept(&story, (VmbRetentionPolicy){.last = 2}, "3 4");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 3}, "2 3 4");
    assert_kept(&story, (VmbRetentionPolicy){.daily = 2}, "3 4");
    /* The order in which they are given means nothing. */
    VmbRetentionPoint first = story.points[0];
    story.points[0] = story.points[4];
    story.points[4] = first;
    assert_kept(&story, (VmbRetentionPolicy){.last = 2}, "0 3");
}

/* Before 1970, and as far as the numbers go. */
static void
test_extreme_times(void)
{
    Story story = {0};
    VmbRetentionPolicy policy = {.yearly = 9, .within_ns = 1};
    add(&story, G_MININT64);
    add(&story, -1);
    add(&story, 0);
    add(&story, G_MAXINT64);
    decide_at(&story, policy, G_MAXINT64, "UTC");
    assert_why(&story, 0, policy, "UTC", "yearly 1677");
    assert_why(&story, 1, policy, "UTC", "yearly 1969");
    assert_why(&story, 2, policy, "UTC", "yearly 1970");
    g_assert_cmpint(story.verdicts[3].rule, ==, VMB_KEEP_WITHIN);
    decide_at(&story, (VmbRetentionPolicy){.within_ns = G_MAXUINT64}, G_MAXINT64, "UTC");
    g_assert_cmpint(story.verdicts[0].rule, ==, VMB_KEEP_WITHIN);
}

/* ---- within, tags, protection, damage ---- */

static void
test_within(void)
{
    Story story = {0};
    VmbRetentionPolicy policy = {.within_ns = (guint64)(2 * DAY)};
    gint64 now = at("2026-11-21T12:00:00Z");
    add(&story, now - 10 * DAY);
    add(&story, now - 2 * DAY - 1);
    add(&story, now - 2 * DAY);
    add(&story, now);
    decide_at(&story, policy, now, "UTC");
    g_autofree char *places = kept(&story);
    g_assert_cmpstr(places, ==, "2 3");
    assert_why(&story, 2, policy, "UTC", "within 2d");
    policy.within_ns = (guint64)(90 * 60 * SECOND);
    policy.last = 1;
    policy.daily = 2;
    decide_at(&story, policy, now, "UTC");
    /* 3 is the last one; the day of 1 and 2 is one; of these the newer one is kept. */
    g_autofree char *mixed = kept(&story);
    g_assert_cmpstr(mixed, ==, "0 2 3");
    policy = (VmbRetentionPolicy){.within_ns = (guint64)(90 * 60 * SECOND)};
    add(&story, now - 60 * 60 * SECOND);
    decide_at(&story, policy, now, "UTC");
    assert_why(&story, 4, policy, "UTC", "within 90m");
    /* Days that "within" covers are not counted by "daily". */
    policy = (VmbRetentionPolicy){.within_ns = (guint64)(2 * DAY), .daily = 1};
    decide_at(&story, policy, now, "UTC");
    g_autofree char *covered = kept(&story);
    g_assert_cmpstr(covered, ==, "0 2 3 4");
}

static void
test_tags(void)
{
    static const char *const upgrade[] = {"nightly", "upgrade", NULL};
    static const char *const nightly[] = {"nightly", NULL};
    static const char *const wanted[] = {"release", "upgrade", NULL};
    Story story = {0};
    VmbRetentionPolicy policy = {.tags = wanted, .daily = 1};
    add_all(&story, "2026-11-19T02:00:00Z 2026-11-20T02:00:00Z 2026-11-21T02:00:00Z "
                    "2026-11-21T03:00:00Z");
    story.points[0].tags = upgrade;
    story.points[1].tags = nightly;
    story.points[3].tags = upgrade;
    /* A tagged point does not stand for its day. */
    assert_kept(&story, policy, "0 2 3");
    assert_why(&story, 0, policy, "UTC", "tag upgrade");
    policy.daily = 0;
    assert_kept(&story, policy, "0 3");
}

static void
test_future(void)
{
    Story story = {0};
    VmbRetentionPolicy policy = {.last = 1};
    gint64 now = at("2026-11-21T12:00:00Z");
    add(&story, now - 2 * DAY);
    add(&story, now + DAY);
    add(&story, now - DAY);
    add(&story, now + 1);
    decide_at(&story, policy, now, "UTC");
    g_autofree char *places = kept(&story);
    g_assert_cmpstr(places, ==, "1 2 3");
    assert_why(&story, 1, policy, "UTC", "dated in the future");
}

static void
test_unreadable(void)
{
    Story story = {0};
    VmbRetentionPolicy policy = {.last = 1};
    add_all(&story, "2026-11-19T02:00:00Z 2026-11-20T02:00:00Z");
    add(&story, 0)->unreadable = TRUE;
    story.points[2].sequence = 0;
    assert_kept(&story, policy, "1 2");
    assert_why(&story, 2, policy, "UTC", "its manifest cannot be read");
    g_assert_cmpstr(vmb_retention_rule_name(story.verdicts[2].rule), ==, "unreadable");
}

/* Damaged points grow old as others do, but never in the place of a good one. */
static void
test_not_restorable(void)
{
    Story story = {0};
    VmbRetentionPolicy policy = {.daily = 2};
    add_all(&story, "2026-11-18T02:00:00Z 2026-11-19T02:00:00Z 2026-11-20T02:00:00Z "
                    "2026-11-21T02:00:00Z 2026-11-21T03:00:00Z");
    story.points[4].not_restorable = story.points[2].not_restorable = TRUE;
    /* Among the good ones 1 and 3, among all 2 and 4. */
    assert_kept(&story, policy, "1 2 3 4");
    assert_why(&story, 4, policy, "UTC", "daily 2026-11-21");
    add_all(&story, "2026-11-22T02:00:00Z 2026-11-23T02:00:00Z");
    assert_kept(&story, policy, "5 6");
}

static void
test_newest_restorable(void)
{
    static const char *const wanted[] = {"none", NULL};
    Story story = {0};
    VmbRetentionPolicy policy = {.tags = wanted};
    add_all(&story, "2026-11-18T02:00:00Z 2026-11-19T02:00:00Z 2026-11-20T02:00:00Z");
    assert_kept(&story, policy, "2");
    assert_why(&story, 2, policy, "UTC", "newest that can be restored");
    story.points[2].not_restorable = TRUE;
    assert_kept(&story, policy, "1");
    story.points[1].not_restorable = story.points[0].not_restorable = TRUE;
    assert_kept(&story, policy, "2");
    assert_kept(&story, (VmbRetentionPolicy){.within_ns = 1}, "2");
    Story none = {0};
    assert_kept(&none, policy, "");
}

static void
test_empty_policy(void)
{
    static const char *const no_tags[] = {NULL};
    static const char *const tags[] = {"a", NULL};
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_retention_check(&(VmbRetentionPolicy){.tags = no_tags}, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_USAGE);
    const VmbRetentionPolicy some[] = {{.last = 1},    {.hourly = 1},   {.daily = 1},
                                       {.weekly = 1},  {.monthly = 1},  {.yearly = 1},
                                       {.tags = tags}, {.within_ns = 1}};
    for (gsize i = 0; i < G_N_ELEMENTS(some); i++)
        g_assert_true(vmb_retention_check(&some[i], NULL));
}

/* ---- properties of random stories ---- */

static VmbRetentionPolicy
random_policy(gboolean with_weeks)
{
    VmbRetentionPolicy policy = {0};
    guint *rules[] = {&policy.last,   &policy.hourly,  &policy.daily,
                      &policy.weekly, &policy.monthly, &policy.yearly};
    for (gsize i = 0; i < G_N_ELEMENTS(rules); i++)
        *rules[i] = g_test_rand_bit() ? (guint)g_test_rand_int_range(1, 12) : 0;
    if (g_test_rand_bit())
        policy.within_ns = (guint64)g_test_rand_int_range(1, 1000) * (guint64)HOUR;
    if (!with_weeks)
        policy.weekly = 0;
    return policy;
}

/* @jumps: the clock is sometimes set back. */
static void
random_story(Story *story, gboolean jumps)
{
    gint64 time = at("2025-10-01T00:00:00Z");
    guint n = (guint)g_test_rand_int_range(0, 120);
    gint64 longest = g_test_rand_int_range(1, 100 * 3600);
    story->n = 0;
    for (guint i = 0; i < n; i++) {
        time += g_test_rand_int_range(0, (int)longest) * SECOND;
        if (jumps && g_test_rand_int_range(0, 10) == 0)
            time -= g_test_rand_int_range(0, 30 * 24) * HOUR;
        VmbRetentionPoint *point = add(story, time);
        point->is_protected = g_test_rand_int_range(0, 20) == 0;
        point->unreadable = g_test_rand_int_range(0, 30) == 0;
        point->not_restorable = jumps && g_test_rand_int_range(0, 8) == 0;
    }
}

/* Sometimes the newest points are of the future. */
static gint64
random_now(const Story *story)
{
    gint64 end = story->n > 0 ? story->points[story->n - 1].time_ns : 0;
    return end + g_test_rand_int_range(-48, 200) * HOUR;
}

static const char *
random_zone(void)
{
    static const char *const zones[] = {"UTC", "Europe/Berlin", "America/New_York",
                                        "Australia/Lord_Howe", "Asia/Kathmandu"};
    return zones[g_test_rand_int_range(0, G_N_ELEMENTS(zones))];
}

/* The rule by the letter: texts as periods, a list that is searched, and an end at the first period
 * too many. */
static void
oracle_rule(const Story *story, GTimeZone *zone, const char *format, guint keep, gint64 now_ns,
            int *marks)
{
    g_autoptr(GPtrArray) taken = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) mine = g_ptr_array_new_with_free_func(g_free);
    char *periods[MAX_POINTS] = {0};
    for (guint i = 0; i < story->n; i++) {
        g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(story->points[i].time_ns / SECOND);
        g_autoptr(GDateTime) local = g_date_time_to_timezone(utc, zone);
        periods[i] = format != NULL ? g_date_time_format(local, format) : g_strdup_printf("%u", i);
        if (marks[i] == 1)
            g_ptr_array_add(taken, g_strdup(periods[i]));
    }
    for (guint i = story->n; i-- > 0;) {
        const VmbRetentionPoint *point = &story->points[i];
        if (marks[i] != 0 || point->is_protected || point->unreadable || point->time_ns > now_ns)
            continue;
        if (g_ptr_array_find_with_equal_func(taken, periods[i], g_str_equal, NULL))
            continue;
        if (g_ptr_array_find_with_equal_func(mine, periods[i], g_str_equal, NULL)) {
            marks[i] = 2;
            continue;
        }
        if (mine->len >= keep)
            break;
        g_ptr_array_add(mine, g_strdup(periods[i]));
        marks[i] = 1;
    }
    for (guint i = 0; i < story->n; i++)
        g_free(periods[i]);
}

/* Where no clock was set back, the decision is the rule by the letter. */
static void
test_oracle(void)
{
    static const char *const formats[] = {NULL, "%Y/%m/%d/%H", "%Y/%m/%d", "%G/%V", "%Y/%m", "%Y"};
    static Story story;
    for (guint round = 0; round < 400; round++) {
        VmbRetentionPolicy policy = random_policy(TRUE);
        const guint keep[] = {policy.last,   policy.hourly,  policy.daily,
                              policy.weekly, policy.monthly, policy.yearly};
        const char *zone_name = random_zone();
        g_autoptr(GTimeZone) zone = zone_of(zone_name);
        random_story(&story, FALSE);
        gint64 now = random_now(&story);
        int marks[MAX_POINTS] = {0};
        policy.within_ns = 0;
        for (gsize rule = 0; rule < G_N_ELEMENTS(formats); rule++)
            if (keep[rule] > 0)
                oracle_rule(&story, zone, formats[rule], keep[rule], now, marks);
        decide_at(&story, policy, now, zone_name);
        for (guint i = 0; i < story.n; i++) {
            const VmbRetentionPoint *point = &story.points[i];
            gboolean stays = marks[i] == 1 || point->is_protected || point->unreadable ||
                             point->time_ns > now || story.verdicts[i].rule == VMB_KEEP_NEWEST;
            g_assert_cmpint(story.verdicts[i].kept, ==, stays);
        }
    }
}

/* Deciding again on what is left, at the same time, drops nothing. */
static void
test_idempotent(void)
{
    static Story story, left;
    for (guint round = 0; round < 2000; round++) {
        VmbRetentionPolicy policy = random_policy(TRUE);
        const char *zone = random_zone();
        random_story(&story, TRUE);
        gint64 now = random_now(&story);
        decide_at(&story, policy, now, zone);
        left.n = 0;
        for (guint i = 0; i < story.n; i++)
            if (story.verdicts[i].kept)
                left.points[left.n++] = story.points[i];
        decide_at(&left, policy, now, zone);
        for (guint i = 0; i < left.n; i++)
            g_assert_true(left.verdicts[i].kept);
    }
}

/* A policy that asks for more keeps all that the lesser one keeps. Weeks do not fit into months, so
 * that this cannot hold where weeks push months back; months and years may always be raised. */
static void
test_monotone(void)
{
    static Story story, more_story;
    for (guint round = 0; round < 2000; round++) {
        gboolean with_weeks = g_test_rand_bit();
        VmbRetentionPolicy less = random_policy(with_weeks), more;
        gboolean jumps = g_test_rand_bit();
        if (with_weeks && g_test_rand_bit())
            less.monthly = less.yearly = 0;
        gboolean nested = !with_weeks || (less.monthly == 0 && less.yearly == 0);
        more = less;
        guint *rules[] = {&more.monthly, &more.yearly, &more.last,
                          &more.hourly,  &more.daily,  &more.weekly};
        /* Without weeks all but the weeks; with weeks and nothing above, all but what is above. */
        guint from = nested && with_weeks ? 2 : 0;
        guint to = !nested ? 2 : with_weeks ? 6 : 5;
        *rules[g_test_rand_int_range((int)from, (int)to)] += (guint)g_test_rand_int_range(1, 5);
        if (nested && !jumps && more.within_ns > 0 && g_test_rand_bit())
            more.within_ns += (guint64)g_test_rand_int_range(1, 500) * (guint64)HOUR;
        const char *zone = random_zone();
        random_story(&story, jumps);
        more_story = story;
        gint64 now = random_now(&story);
        decide_at(&story, less, now, zone);
        decide_at(&more_story, more, now, zone);
        for (guint i = 0; i < story.n; i++)
            if (story.verdicts[i].kept && story.verdicts[i].rule != VMB_KEEP_NEWEST)
                g_assert_true(more_story.verdicts[i].kept);
    }
}

/* Something that can be restored is always left, and it is the newest. */
static void
test_something_is_left(void)
{
    static Story story;
    for (guint round = 0; round < 2000; round++) {
        random_story(&story, TRUE);
        decide_at(&story, random_policy(TRUE), random_now(&story), random_zone());
        guint newest = story.n;
        for (guint i = 0; i < story.n; i++)
            if (!story.points[i].unreadable && !story.points[i].not_restorable)
                newest = i;
        if (newest < story.n)
            g_assert_true(story.verdicts[newest].kept);
        for (guint i = 0; i < story.n; i++)
            if (story.points[i].is_protected || story.points[i].unreadable)
                g_assert_true(story.verdicts[i].kept);
    }
}

/* A large repository, hourly for three weeks, is decided in a moment; tests/bench has the number.
 */
static void
test_many(void)
{
    static Story story;
    VmbRetentionPolicy policy = {.last = 30, .hourly = 24, .daily = 14, .weekly = 8, .monthly = 12};
    gint64 begin = at("2026-03-10T00:30:00Z");
    story.n = 0;
    for (guint i = 0; i < 512; i++)
        add(&story, begin + i * HOUR);
    g_autoptr(GTimeZone) zone = zone_of("Europe/Berlin");
    clock_t start = clock();
    for (guint domain = 0; domain < 800; domain++)
        vmb_retention_decide(story.points, story.n, &policy, begin + 600 * HOUR, zone,
                             story.verdicts);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    g_test_message("800 domains of 512 points: %.2f s", seconds);
    g_assert_cmpfloat(seconds, <, 2);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/retention/proxmox-protected", test_proxmox_protected);
    g_test_add_func("/retention/proxmox-hourly", test_proxmox_hourly);
    g_test_add_func("/retention/proxmox-years", test_proxmox_years);
    g_test_add_func("/retention/proxmox-simple", test_proxmox_simple);
    g_test_add_func("/retention/proxmox-documented-settings", test_proxmox_documented_settings);
    g_test_add_func("/retention/proxmox-week-over-months", test_proxmox_week_over_months);
    g_test_add_func("/retention/documented-table", test_documented_table);
    g_test_add_func("/retention/iso-years", test_iso_years);
    g_test_add_func("/retention/leap-day", test_leap_day);
    g_test_add_func("/retention/zone", test_zone);
    g_test_add_func("/retention/summer-time", test_summer_time);
    g_test_add_func("/retention/several-in-a-second", test_several_in_a_second);
    g_test_add_func("/retention/clock-set-back", test_clock_set_back);
    g_test_add_func("/retention/extreme-times", test_extreme_times);
    g_test_add_func("/retention/within", test_within);
    g_test_add_func("/retention/tags", test_tags);
    g_test_add_func("/retention/future", test_future);
    g_test_add_func("/retention/unreadable", test_unreadable);
    g_test_add_func("/retention/not-restorable", test_not_restorable);
    g_test_add_func("/retention/newest-restorable", test_newest_restorable);
    g_test_add_func("/retention/empty-policy", test_empty_policy);
    g_test_add_func("/retention/oracle", test_oracle);
    g_test_add_func("/retention/idempotent", test_idempotent);
    g_test_add_func("/retention/monotone", test_monotone);
    g_test_add_func("/retention/something-is-left", test_something_is_left);
    g_test_add_func("/retention/many", test_many);
    return g_test_run();
}
