/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points of a domain a policy keeps: a pure function of points, policy and time. */
#pragma once
#include <glib.h>

/* Why a point is kept; or, of a dropped one, the rule whose period a newer point stands for already
 * (VMB_KEEP_NONE: no rule reaches back to it). */
typedef enum {
    VMB_KEEP_NONE,
    VMB_KEEP_LAST, /* the rules, in the order in which they are applied */
    VMB_KEEP_WITHIN,
    VMB_KEEP_HOURLY,
    VMB_KEEP_DAILY,
    VMB_KEEP_WEEKLY,
    VMB_KEEP_MONTHLY,
    VMB_KEEP_YEARLY,
    VMB_KEEP_TAG, /* these neither count for a rule nor stand for a period */
    VMB_KEEP_PROTECTED,
    VMB_KEEP_FUTURE,     /* made after "now": some clock was wrong */
    VMB_KEEP_UNREADABLE, /* its manifest cannot be read, so nobody knows its time */
    VMB_KEEP_NEWEST,     /* the newest point that can be restored */
} VmbKeepRule;

/* What the decision needs of one point of the domain; a retired point is none. */
typedef struct {
    guint64 sequence;
    gint64 time_ns;          /* since 1970 */
    gboolean unreadable;     /* without manifest: the members above mean nothing */
    gboolean not_restorable; /* damage was found in it, or in what it builds on */
    gboolean is_protected;
    const char *const *tags; /* NULL-terminated; NULL: none */
} VmbRetentionPoint;

typedef struct {
    guint last, hourly, daily, weekly, monthly, yearly; /* 0: the rule is not asked for */
    guint64 within_ns;                                  /* likewise */
    const char *const *tags;                            /* NULL-terminated; NULL: none */
} VmbRetentionPolicy;

typedef struct {
    gboolean kept;
    VmbKeepRule rule;
    const char *tag; /* with VMB_KEEP_TAG: the policy's; borrowed from there */
} VmbRetentionVerdict;

/* VMB_ERROR_USAGE for a policy that asks for nothing: it would drop everything. */
gboolean vmb_retention_check(const VmbRetentionPolicy *policy, GError **error);

/* Decides on the @n points of one domain, in any order; @verdicts gets as many. The rule is that of
 * Proxmox Backup Server (its chapter on pruning): the rules are applied in turn, each from the
 * newest point (by sequence) to the oldest; each keeps the newest point of each of its periods, of
 * as many periods as it was given, and passes over periods of which an earlier rule has kept a
 * point; what a rule has passed over in the periods that it keeps is dropped, later rules do not
 * see it. Periods are those of the calendar in
 * @zone (weeks: ISO 8601). Points that cannot be restored never take the place of one that can:
 * they are kept where the rules keep them among all points, beside those that are kept among the
 * good ones. The newest point that can be restored is always kept; if there is none, the newest. */
void vmb_retention_decide(const VmbRetentionPoint *points, guint n,
                          const VmbRetentionPolicy *policy, gint64 now_ns, GTimeZone *zone,
                          VmbRetentionVerdict *verdicts);

/* "daily" and so on; NULL for VMB_KEEP_NONE. */
const char *vmb_retention_rule_name(VmbKeepRule rule);
/* The period of a time: "2026-11-21 02:00", "2026-11-21", "2026-W47", "2026-11", "2026"; NULL for
 * rules without periods. Free with g_free(). */
char *vmb_retention_period(VmbKeepRule rule, gint64 time_ns, GTimeZone *zone);
/* In words: "daily 2026-11-21", "within 7d"; of a dropped one "daily 2026-11-21 has a newer one".
 * Free with g_free(). */
char *vmb_retention_why(const VmbRetentionPoint *point, const VmbRetentionVerdict *verdict,
                        const VmbRetentionPolicy *policy, GTimeZone *zone);
