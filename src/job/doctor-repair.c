/* SPDX-License-Identifier: GPL-2.0-or-later */
/* doctor --repair: undoes what dead runs have left, as the next backup would, without a backup. */
#include "job/doctor-private.h"
#include "job/fold.h"
#include "job/hold.h"
#include "job/reconcile.h"
#include "repo/transaction.h"
#include "util/error.h"
#include "util/log.h"

static void
say_failed(VmbDoctor *doctor, const GError *error)
{
    VmbDoctorLine *line =
        vmb_doctor_say(doctor, VMB_DOCTOR_PROBLEM, NULL, "repair", "%s", error->message);
    line->locked = g_error_matches(error, VMB_ERROR, VMB_ERROR_LOCKED);
}

/* The journal goes on naming what is left, and so do the next runs. */
static gboolean
remember_failed(VmbRepoDomain *repo_domain, GPtrArray *failed, GError **error)
{
    g_autoptr(VmbJournal) journal = NULL;
    int fd = vmb_repo_domain_fd(repo_domain);
    if (failed->len == 0)
        return TRUE;
    if (!vmb_journal_read(fd, &journal, error))
        return FALSE;
    if (journal == NULL)
        journal = g_new0(VmbJournal, 1);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        g_ptr_array_add(names, g_strdup(journal->stale[i]));
    for (guint i = 0; i < failed->len; i++)
        if (!g_ptr_array_find_with_equal_func(names, failed->pdata[i], g_str_equal, NULL))
            g_ptr_array_add(names, g_strdup(failed->pdata[i]));
    g_ptr_array_add(names, NULL);
    g_strfreev(journal->stale);
    journal->stale = (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
    return vmb_journal_write(fd, journal, error);
}

static gboolean
repair_known(VmbDoctor *doctor, VmbRepoDomain *repo_domain, GPtrArray *reasons, guint *old,
             GError **error)
{
    g_auto(GStrv) stale = NULL;
    g_autoptr(GPtrArray) failed = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(repo_domain, error);
    if (points == NULL ||
        !vmb_reconcile(repo_domain, doctor->domain, points, reasons, &stale, error))
        return FALSE;
    *old = vmb_reconcile_retire(doctor->domain, points, NULL, reasons, failed);
    return remember_failed(repo_domain, failed, error);
}

static void
report_reasons(VmbDoctor *doctor, const GPtrArray *reasons)
{
    for (guint i = 0; i < reasons->len; i++) {
        const VmbReason *reason = g_ptr_array_index(reasons, i);
        gboolean done = reason->code == VMB_REASON_LEFTOVERS_REMOVED;
        vmb_doctor_say(doctor, done ? VMB_DOCTOR_OK : VMB_DOCTOR_PROBLEM, NULL, "repair", "%s",
                       reason->message);
    }
}

static gboolean
repair(VmbDoctor *doctor, VmbRepoDomain *repo_domain, GError **error)
{
    guint old = 0;
    gboolean staging = vmb_transaction_has_leftover(repo_domain);
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    gboolean ok = doctor->domain != NULL
                      ? repair_known(doctor, repo_domain, reasons, &old, error)
                      : vmb_reconcile_gone(repo_domain, vmb_connection_uri(doctor->connection),
                                           doctor->name, reasons, error);
    report_reasons(doctor, reasons);
    if (old > 0)
        vmb_doctor_say(doctor, VMB_DOCTOR_OK, NULL, "repair",
                       "%u checkpoint%s of older points deleted", old, old == 1 ? "" : "s");
    if (!ok || !staging)
        return ok;
    if (!vmb_transaction_remove_leftover(repo_domain, error))
        return FALSE;
    vmb_doctor_say(doctor, VMB_DOCTOR_OK, NULL, "repair", "the unfinished point was removed");
    return TRUE;
}

static void
report_folded(const VmbFolded *folded, gpointer user)
{
    VmbDoctor *doctor = user;
    VmbDoctorLine *line =
        vmb_doctor_say(doctor, VMB_DOCTOR_PROBLEM, NULL, "repair",
                       "the unfinished fold of %s is left for another time: %s", folded->point,
                       folded->deferred != NULL ? folded->deferred : "?");
    line->locked = TRUE;
}

/* Points that nobody holds for a backup: the locks are those of a prune, and a backup may go on beside it. */
static void
repair_fold(VmbDoctor *doctor)
{
    const VmbFoldDomainOptions options = {doctor->options->cancel, report_folded, doctor};
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepoDomain) repo_domain =
        vmb_repo_domain_open(doctor->repository, doctor->uuid, FALSE, NULL);
    if (repo_domain == NULL || !vmb_fold_has_leftover(repo_domain))
        return;
    g_autoptr(VmbLock) lock = vmb_maintenance_lock(repo_domain, 0, doctor->options->cancel, &error);
    if (lock == NULL || !vmb_fold_tidy(repo_domain, &options, &error))
        say_failed(doctor, error);
    else if (!vmb_fold_has_leftover(repo_domain))
        vmb_doctor_say(doctor, VMB_DOCTOR_OK, NULL, "repair",
                       "what a prune that died had begun is finished or undone");
}

void
vmb_doctor_repair(VmbDoctor *doctor)
{
    repair_fold(doctor);
    g_auto(VmbHold) hold = {0};
    g_autoptr(GError) error = NULL;
    VmbLogLevel level = vmb_log_level();
    if (!vmb_hold_take(&hold, doctor->repository, doctor->uuid, doctor->name,
                       doctor->options->cancel, &error)) {
        say_failed(doctor, error);
        return;
    }
    if (hold.repo_domain == NULL)
        return;
    vmb_log_set_level(MIN(level, VMB_LOG_ERROR)); /* the report says it, not the log */
    gboolean ok = repair(doctor, hold.repo_domain, &error);
    vmb_log_set_level(level);
    if (!ok)
        say_failed(doctor, error);
}
