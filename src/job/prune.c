/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a prune: a policy decides, domain by domain, and what it does not keep is dropped.
 */
#include "job/prune.h"
#include "job/restorable.h"
#include "repo/catalog.h"
#include "repo/retire.h"
#include "util/error.h"
#include "util/parallel.h"
#include "util/units.h"

#define AT_A_TIME 32 /* domains whose points are in memory */
#define THREADS 4

typedef struct {
    const VmbPruneOptions *options;
    gint64 now_ns;
    VmbRepository *repository;
} Prune;

/* ---- the decision ---- */

static VmbRetentionPoint
view_for_retention(const VmbSummary *summary, gboolean restorable)
{
    return (VmbRetentionPoint){
        .sequence = summary->sequence,
        .time_ns = summary->time_ns,
        .unreadable = summary->damage != NULL,
        .not_restorable = !restorable,
        .is_protected = summary->is_protected || summary->state_unreadable,
        .tags = summary->tags,
    };
}

static void
add_point(const Prune *prune, VmbDropResult *result, const VmbSummary *summary, guint64 frees,
          const VmbRetentionPoint *point, const VmbRetentionVerdict *verdict)
{
    const VmbPruneOptions *options = prune->options;
    VmbDropEntry *entry = vmb_drop_result_add(result, summary, frees, verdict);
    gboolean unknown = verdict->rule == VMB_KEEP_PROTECTED && !summary->is_protected;
    entry->why = unknown ? g_strdup("its state cannot be read, so it may be protected")
                         : vmb_retention_why(point, verdict, &options->policy, options->zone);
    if (!point->unreadable)
        entry->period = vmb_retention_period(verdict->rule, summary->time_ns, options->zone);
}

/* All points that are not retired. */
static void
decide(const Prune *prune, const GPtrArray *summaries, VmbDropResult *result)
{
    guint n = 0;
    g_autofree gboolean *restorable = g_new0(gboolean, summaries->len + 1);
    g_autofree guint64 *frees = g_new0(guint64, summaries->len + 1);
    g_autofree guint *places = g_new0(guint, summaries->len + 1);
    g_autofree VmbRetentionPoint *points = g_new0(VmbRetentionPoint, summaries->len + 1);
    g_autofree VmbRetentionVerdict *verdicts = g_new0(VmbRetentionVerdict, summaries->len + 1);
    vmb_restorable_points(summaries, restorable);
    vmb_summaries_frees(summaries, frees);
    for (guint i = 0; i < summaries->len; i++) {
        const VmbSummary *summary = summaries->pdata[i];
        if (summary->retired)
            continue;
        places[n] = i;
        points[n++] = view_for_retention(summary, restorable[i]);
    }
    vmb_retention_decide(points, n, &prune->options->policy, prune->now_ns, prune->options->zone,
                         verdicts);
    for (guint i = 0; i < n; i++)
        add_point(prune, result, summaries->pdata[places[i]], frees[places[i]], &points[i],
                  &verdicts[i]);
}

/* ---- one domain ---- */

/* The summaries that the decision went by. */
static GPtrArray *
look(const Prune *prune, VmbRepoDomain *domain, VmbSummariesMode mode, VmbDropResult *result,
     GError **error)
{
    g_autoptr(GPtrArray) summaries = vmb_repo_domain_summaries(domain, mode, error);
    if (summaries == NULL)
        return NULL;
    vmb_drop_result_set_name(result, summaries);
    vmb_drop_result_reset(result);
    decide(prune, summaries, result);
    return g_steal_pointer(&summaries);
}

/* One domain in its turn. */
typedef struct {
    VmbDropResult *result;
    gboolean due; /* something is to be dropped or folded */
} Turn;

static void
turn_free(gpointer data)
{
    Turn *turn = data;
    vmb_drop_result_free(turn->result);
    g_free(turn);
}

/* The catalog is enough to see whether there is anything to do, and to show what it would be: of 400000
 * points nobody looks at all documents. Several threads do this at the same time. */
static void
look_for_work(gpointer item, gpointer user)
{
    Turn *turn = item;
    const Prune *prune = user;
    VmbDropResult *result = turn->result;
    g_autoptr(VmbRepoDomain) domain =
        vmb_repo_domain_open(prune->repository, result->uuid, FALSE, &result->error);
    g_autoptr(GPtrArray) seen =
        domain != NULL ? look(prune, domain, VMB_SUMMARIES_QUICK, result, &result->error) : NULL;
    turn->due = seen != NULL && !prune->options->dry_run &&
                (result->n_held > 0 ||
                 (!prune->options->no_fold && vmb_drop_is_fold_due(domain, seen, result)));
}

/* Nothing is dropped by what the catalog says. */
static gboolean
prune_domain(const Prune *prune, VmbDropResult *result, GError **error)
{
    const VmbPruneOptions *options = prune->options;
    g_autoptr(VmbRepoDomain) domain =
        vmb_repo_domain_open(prune->repository, result->uuid, FALSE, error);
    g_autoptr(VmbLock) lock =
        domain != NULL ? vmb_maintenance_lock(domain, 0, options->cancel, error) : NULL;
    if (lock == NULL)
        return FALSE;
    g_autoptr(GPtrArray) fresh = look(prune, domain, VMB_SUMMARIES_FRESH, result, error);
    gboolean done =
        fresh != NULL && vmb_drop_hide(domain, result, FALSE, options->cancel, error) &&
        (options->no_fold || vmb_drop_fold(domain, fresh, result, options->cancel, error));
    vmb_catalog_refresh(domain);
    return done;
}

/* ---- the domains ---- */

static GPtrArray *
choose_domains(const Prune *prune, GError **error)
{
    const char *const *names = prune->options->domains;
    if (names == NULL || names[0] == NULL)
        return vmb_repository_domains(prune->repository, error);
    g_autoptr(GPtrArray) uuids = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; names[i] != NULL; i++) {
        g_autofree char *uuid = vmb_repository_find_domain(prune->repository, names[i], error);
        if (uuid == NULL)
            return NULL;
        if (!g_ptr_array_find_with_equal_func(uuids, uuid, g_str_equal, NULL))
            g_ptr_array_add(uuids, g_steal_pointer(&uuid));
    }
    return g_steal_pointer(&uuids);
}

/* The UUIDs of the domains; NULL if nothing is to begin. */
static GPtrArray *
begin(Prune *prune, GError **error)
{
    if (!vmb_retention_check(&prune->options->policy, error))
        return NULL;
    prune->repository = vmb_repository_open(prune->options->repository, error);
    g_autoptr(GPtrArray) uuids = prune->repository != NULL ? choose_domains(prune, error) : NULL;
    if (uuids == NULL ||
        (!prune->options->dry_run && !vmb_repository_check_writable(prune->repository, error)))
        return NULL;
    return g_steal_pointer(&uuids);
}

static void
take_turn(const Prune *prune, Turn *turn)
{
    VmbDropResult *result = turn->result;
    if (result->error == NULL && g_cancellable_is_cancelled(prune->options->cancel))
        vmb_error_set(&result->error, VMB_ERROR_CANCELLED, "not pruned, as interrupted");
    else if (turn->due)
        prune_domain(prune, result, &result->error);
}

gboolean
vmb_prune(const VmbPruneOptions *options, void (*done)(const VmbDropResult *result, gpointer data),
          gpointer data, GError **error)
{
    Prune prune = {.options = options, .now_ns = vmb_units_now()};
    g_autoptr(GPtrArray) uuids = begin(&prune, error);
    g_autoptr(VmbRepository) repository = prune.repository;
    for (guint i = 0; uuids != NULL && i < uuids->len; i += AT_A_TIME) {
        g_autoptr(GPtrArray) turns = g_ptr_array_new_with_free_func(turn_free);
        for (guint k = i; k < MIN(i + AT_A_TIME, uuids->len); k++) {
            Turn *turn = g_new0(Turn, 1);
            turn->result = vmb_drop_result_new(uuids->pdata[k]);
            g_ptr_array_add(turns, turn);
        }
        vmb_parallel_run(turns, THREADS, look_for_work, &prune);
        for (guint k = 0; k < turns->len; k++) {
            take_turn(&prune, turns->pdata[k]);
            done(((Turn *)turns->pdata[k])->result, data);
        }
    }
    return uuids != NULL;
}
