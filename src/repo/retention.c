/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points of a domain a policy keeps: a pure function of points, policy and time. */
#include "repo/retention.h"
#include "util/error.h"

#include <string.h>

#define NS_PER_S G_GINT64_CONSTANT(1000000000)
#define N_RULES (VMB_KEEP_YEARLY + 1)

static const char *const names[] = {
    NULL,
    "last",
    "within",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "yearly",
    "tag",
    "protected",
    "future",
    "unreadable",
    "newest-restorable",
};
G_STATIC_ASSERT(G_N_ELEMENTS(names) == VMB_KEEP_NEWEST + 1);

const char *
vmb_retention_rule_name(VmbKeepRule rule)
{
    return names[rule];
}

/* ---- periods ---- */

static GDateTime *
local_time(gint64 time_ns, GTimeZone *zone)
{
    gint64 seconds = time_ns / NS_PER_S - (time_ns % NS_PER_S < 0 ? 1 : 0);
    g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(seconds);
    return g_date_time_to_timezone(utc, zone);
}

/* Numbers that are equal for times of one period. An hour that the clock shows twice, when it is
 * put back, is one. */
static void
number_periods(gint64 time_ns, GTimeZone *zone, guint32 periods[N_RULES])
{
    g_autoptr(GDateTime) time = local_time(time_ns, zone);
    gint year = 0, month = 0, day = 0;
    g_date_time_get_ymd(time, &year, &month, &day);
    periods[VMB_KEEP_YEARLY] = (guint32)year;
    periods[VMB_KEEP_MONTHLY] = (guint32)(year * 12 + month - 1);
    periods[VMB_KEEP_WEEKLY] = (guint32)(g_date_time_get_week_numbering_year(time) * 54 +
                                         g_date_time_get_week_of_year(time));
    periods[VMB_KEEP_DAILY] = periods[VMB_KEEP_MONTHLY] * 32 + (guint32)day;
    periods[VMB_KEEP_HOURLY] = periods[VMB_KEEP_DAILY] * 24 + (guint32)g_date_time_get_hour(time);
}

char *
vmb_retention_period(VmbKeepRule rule, gint64 time_ns, GTimeZone *zone)
{
    static const char *const formats[N_RULES] = {
        [VMB_KEEP_HOURLY] = "%Y-%m-%d %H:00",
        [VMB_KEEP_DAILY] = "%Y-%m-%d",
        [VMB_KEEP_WEEKLY] = "%G-W%V",
        [VMB_KEEP_MONTHLY] = "%Y-%m",
        [VMB_KEEP_YEARLY] = "%Y",
    };
    if (rule >= N_RULES || formats[rule] == NULL)
        return NULL;
    g_autoptr(GDateTime) time = local_time(time_ns, zone);
    return g_date_time_format(time, formats[rule]);
}

/* ---- rules ---- */

typedef struct {
    const VmbRetentionPoint *point;
    VmbRetentionVerdict *verdict;
    guint32 periods[N_RULES];
    gboolean takes_part;          /* the rules count it */
    gboolean decided;             /* kept or dropped by a rule: later ones do not see it */
    VmbRetentionVerdict of_rules; /* what this pass of the rules says */
} Candidate;

/* Keeps the newest point of each period, of @keep periods. Once so many are found, older ones in
 * these periods are still dropped: a clock that was set back may put them behind points of other
 * periods. */
static void
apply_periods(Candidate *all, guint n, VmbKeepRule rule, guint keep)
{
    g_autoptr(GHashTable) earlier = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) kept = g_hash_table_new(NULL, NULL);
    for (guint i = 0; keep > 0 && i < n; i++)
        if (all[i].of_rules.kept)
            g_hash_table_add(earlier, GUINT_TO_POINTER(all[i].periods[rule]));
    for (guint i = 0; keep > 0 && i < n; i++) {
        Candidate *candidate = &all[i];
        gpointer period = GUINT_TO_POINTER(candidate->periods[rule]);
        if (!candidate->takes_part || candidate->decided)
            continue;
        gboolean is_taken = g_hash_table_contains(kept, period);
        if (is_taken || g_hash_table_contains(earlier, period)) {
            candidate->decided = is_taken;
            if (candidate->of_rules.rule == VMB_KEEP_NONE)
                candidate->of_rules.rule = rule;
        } else if (g_hash_table_size(kept) < keep) {
            g_hash_table_add(kept, period);
            candidate->decided = candidate->of_rules.kept = TRUE;
            candidate->of_rules.rule = rule;
        }
    }
}

static void
keep(Candidate *candidate, VmbKeepRule rule)
{
    candidate->decided = candidate->of_rules.kept = TRUE;
    candidate->of_rules.rule = rule;
}

static void
apply_last(Candidate *all, guint n, guint last)
{
    for (guint i = 0, kept = 0; i < n && kept < last; i++) {
        if (!all[i].takes_part)
            continue;
        keep(&all[i], VMB_KEEP_LAST);
        kept++;
    }
}

static gboolean
is_within(gint64 time_ns, gint64 now_ns, guint64 within_ns)
{
    /* The difference may be larger than a gint64 can hold; no point here is newer than now. */
    return (guint64)now_ns - (guint64)time_ns <= within_ns;
}

static void
apply_within(Candidate *all, guint n, gint64 now_ns, guint64 within_ns)
{
    for (guint i = 0; within_ns > 0 && i < n; i++)
        if (all[i].takes_part && !all[i].decided &&
            is_within(all[i].point->time_ns, now_ns, within_ns))
            keep(&all[i], VMB_KEEP_WITHIN);
}

/* One pass of the rules; what it keeps is kept, beside what an earlier pass has. */
static void
apply_rules(Candidate *all, guint n, const VmbRetentionPolicy *policy, gint64 now_ns)
{
    apply_last(all, n, policy->last);
    apply_within(all, n, now_ns, policy->within_ns);
    apply_periods(all, n, VMB_KEEP_HOURLY, policy->hourly);
    apply_periods(all, n, VMB_KEEP_DAILY, policy->daily);
    apply_periods(all, n, VMB_KEEP_WEEKLY, policy->weekly);
    apply_periods(all, n, VMB_KEEP_MONTHLY, policy->monthly);
    apply_periods(all, n, VMB_KEEP_YEARLY, policy->yearly);
    for (guint i = 0; i < n; i++) {
        if (all[i].takes_part && !all[i].verdict->kept)
            *all[i].verdict = all[i].of_rules;
        all[i].decided = FALSE;
        all[i].of_rules = (VmbRetentionVerdict){0};
    }
}

/* ---- the decision ---- */

static const char *
find_tag(const VmbRetentionPoint *point, const VmbRetentionPolicy *policy)
{
    for (guint i = 0; policy->tags != NULL && policy->tags[i] != NULL; i++)
        if (point->tags != NULL && g_strv_contains(point->tags, policy->tags[i]))
            return policy->tags[i];
    return NULL;
}

/* What is kept whatever its period is. */
static VmbRetentionVerdict
judge_alone(const VmbRetentionPoint *point, const VmbRetentionPolicy *policy, gint64 now_ns)
{
    const char *tag = find_tag(point, policy);
    VmbKeepRule rule = VMB_KEEP_NONE;
    if (point->unreadable)
        rule = VMB_KEEP_UNREADABLE;
    else if (point->is_protected)
        rule = VMB_KEEP_PROTECTED;
    else if (point->time_ns > now_ns)
        rule = VMB_KEEP_FUTURE;
    else if (tag != NULL)
        rule = VMB_KEEP_TAG;
    return (VmbRetentionVerdict){rule != VMB_KEEP_NONE, rule, rule == VMB_KEEP_TAG ? tag : NULL};
}

static int
compare_newest_first(gconstpointer a, gconstpointer b)
{
    const VmbRetentionPoint *left = ((const Candidate *)a)->point;
    const VmbRetentionPoint *right = ((const Candidate *)b)->point;
    if (left->sequence != right->sequence)
        return left->sequence > right->sequence ? -1 : 1;
    return left < right ? 1
                        : -1; /* equal numbers are damage; the order is still the same each time */
}

/* Those with a manifest, newest first. GArray of Candidate. */
static GArray *
make_candidates(const VmbRetentionPoint *points, guint n, const VmbRetentionPolicy *policy,
                gint64 now_ns, GTimeZone *zone, VmbRetentionVerdict *verdicts)
{
    GArray *all = g_array_sized_new(FALSE, TRUE, sizeof(Candidate), n);
    for (guint i = 0; i < n; i++) {
        Candidate candidate = {.point = &points[i], .verdict = &verdicts[i]};
        verdicts[i] = judge_alone(&points[i], policy, now_ns);
        if (points[i].unreadable)
            continue;
        if (!verdicts[i].kept)
            number_periods(points[i].time_ns, zone, candidate.periods);
        g_array_append_val(all, candidate);
    }
    g_array_sort(all, compare_newest_first);
    return all;
}

/* Lets those take part that no rule is needed for to keep them; *@n_bad: how many of them are
 * damaged. */
static void
choose(GArray *all, gboolean with_bad, guint *n_bad)
{
    *n_bad = 0;
    for (guint i = 0; i < all->len; i++) {
        Candidate *candidate = &g_array_index(all, Candidate, i);
        VmbKeepRule rule = candidate->verdict->rule;
        gboolean counts = rule < N_RULES;
        gboolean bad = candidate->point->not_restorable;
        candidate->takes_part = counts && (with_bad || !bad);
        *n_bad += counts && bad ? 1 : 0;
    }
}

static void
keep_newest(GArray *all)
{
    VmbRetentionVerdict *newest = NULL;
    for (guint i = 0; newest == NULL && i < all->len; i++)
        if (!g_array_index(all, Candidate, i).point->not_restorable)
            newest = g_array_index(all, Candidate, i).verdict;
    if (newest == NULL && all->len > 0)
        newest = g_array_index(all, Candidate, 0).verdict;
    if (newest != NULL && !newest->kept)
        *newest = (VmbRetentionVerdict){TRUE, VMB_KEEP_NEWEST, NULL};
}

void
vmb_retention_decide(const VmbRetentionPoint *points, guint n, const VmbRetentionPolicy *policy,
                     gint64 now_ns, GTimeZone *zone, VmbRetentionVerdict *verdicts)
{
    g_autoptr(GArray) all = make_candidates(points, n, policy, now_ns, zone, verdicts);
    Candidate *candidates = (Candidate *)(void *)all->data;
    guint n_bad = 0;
    choose(all, FALSE, &n_bad);
    apply_rules(candidates, all->len, policy, now_ns);
    if (n_bad > 0) {
        choose(all, TRUE, &n_bad);
        apply_rules(candidates, all->len, policy, now_ns);
    }
    keep_newest(all);
}

gboolean
vmb_retention_check(const VmbRetentionPolicy *policy, GError **error)
{
    gboolean has_tag = policy->tags != NULL && policy->tags[0] != NULL;
    if (policy->last > 0 || policy->hourly > 0 || policy->daily > 0 || policy->weekly > 0 ||
        policy->monthly > 0 || policy->yearly > 0 || policy->within_ns > 0 || has_tag)
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_USAGE,
                         "nothing says what to keep: give at least one of the --keep options, such "
                         "as --keep-daily 14 (nothing was changed)");
}

/* ---- in words ---- */

/* As a user would write it: "7d". */
static char *
describe_duration(guint64 ns)
{
    static const struct {
        guint64 seconds;
        const char *unit;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "m"}, {1, "s"}};
    for (gsize i = 0; i < G_N_ELEMENTS(units); i++) {
        guint64 unit = units[i].seconds * (guint64)NS_PER_S;
        if (ns % unit == 0)
            return g_strdup_printf("%" G_GUINT64_FORMAT "%s", ns / unit, units[i].unit);
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT "ms", ns / 1000000);
}

char *
vmb_retention_why(const VmbRetentionPoint *point, const VmbRetentionVerdict *verdict,
                  const VmbRetentionPolicy *policy, GTimeZone *zone)
{
    const char *name = names[verdict->rule];
    g_autofree char *period =
        point->unreadable ? NULL : vmb_retention_period(verdict->rule, point->time_ns, zone);
    g_autofree char *within = describe_duration(policy->within_ns);
    switch (verdict->rule) {
    case VMB_KEEP_NONE:
        return g_strdup("older than what is kept");
    case VMB_KEEP_WITHIN:
        return g_strdup_printf("within %s", within);
    case VMB_KEEP_TAG:
        return g_strdup_printf("tag %s", verdict->tag);
    case VMB_KEEP_FUTURE:
        return g_strdup("dated in the future");
    case VMB_KEEP_UNREADABLE:
        return g_strdup("its manifest cannot be read");
    case VMB_KEEP_NEWEST:
        return g_strdup("newest that can be restored");
    default:
        return g_strdup_printf("%s%s%s%s", name, period != NULL ? " " : "",
                               period != NULL ? period : "",
                               verdict->kept ? "" : " has a newer one");
    }
}
