/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of the check-up that looks for what dead runs have left. */
#include "job/doctor-private.h"
#include "job/fold.h"
#include "job/leftovers.h"
#include "repo/consumer.h"
#include "repo/layout.h"
#include "repo/lock.h"
#include "repo/transaction.h"
#include "util/error.h"
#include "util/units.h"
#include "virt/checkpoint.h"

#include <string.h>

static void
advise_repair(VmbDoctor *doctor, VmbDoctorLine *line)
{
    line->advice = g_strdup_printf("vmbackup -r %s doctor --repair %s, or the next backup",
                                   doctor->options->repository, doctor->name);
}

static char *
join(const GPtrArray *names)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; i < names->len; i++)
        g_string_append_printf(text, "%s%s", i > 0 ? ", " : "", (const char *)names->pdata[i]);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* "1 checkpoint WHAT: a" or "2 checkpoints WHAT: a, b"; NULL if there is none. */
static VmbDoctorLine *
say_names(VmbDoctor *doctor, VmbDoctorGrade grade, const GPtrArray *names, const char *noun,
          const char *what)
{
    if (names->len == 0)
        return NULL;
    g_autofree char *list = join(names);
    return vmb_doctor_say(doctor, grade, NULL, "leftovers", "%u %s%s %s: %s", names->len, noun,
                          names->len == 1 ? "" : "s", what, list);
}

/* ---- the journal ---- */

static char *
what_is_left(const VmbJournal *journal)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const char *const places[] = {journal->scratch_dir, journal->run_dir};
    for (gsize i = 0; i < G_N_ELEMENTS(places); i++)
        if (places[i] != NULL && g_file_test(places[i], G_FILE_TEST_EXISTS))
            g_string_append_printf(text, ", directory %s", places[i]);
    if (journal->checkpoint != NULL)
        g_string_append_printf(text, ", checkpoint %s unless a point needs it",
                               journal->checkpoint);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void
report_run(VmbDoctor *doctor, const VmbJournal *journal)
{
    g_autofree char *time = vmb_units_format_time(journal->time_ns);
    if (vmb_journal_is_elsewhere(journal)) {
        const char *host = journal->host != NULL ? journal->host : "?";
        VmbDoctorLine *line = vmb_doctor_say(
            doctor, VMB_DOCTOR_PROBLEM, NULL, "leftovers",
            "a dead run's journal of %s, which may have left scratch files on the host %s", time,
            host);
        line->advice = g_strdup_printf("vmbackup -r %s doctor --repair %s, on the host %s",
                                       doctor->options->repository, doctor->name, host);
        return;
    }
    g_autofree char *left = what_is_left(journal);
    advise_repair(doctor,
                  vmb_doctor_say(doctor, VMB_DOCTOR_PROBLEM, NULL, "leftovers",
                                 "a dead run's journal of %s (process %" G_GINT64_FORMAT ")%s",
                                 time, journal->pid, left));
}

static void
report_stale(VmbDoctor *doctor, const VmbJournal *journal)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autoptr(GPtrArray) paths = g_ptr_array_new();
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        g_ptr_array_add(journal->stale[i][0] == '/' ? paths : names, journal->stale[i]);
    VmbDoctorLine *line =
        say_names(doctor, VMB_DOCTOR_PROBLEM, names, "checkpoint", "that could not be deleted");
    if (line != NULL)
        advise_repair(doctor, line);
    line = say_names(doctor, VMB_DOCTOR_PROBLEM, paths, "scratch or socket directory",
                     "that could not be removed");
    if (line != NULL)
        advise_repair(doctor, line);
}

/* NULL if there is none that can be read. */
static VmbJournal *
report_journals(VmbDoctor *doctor, VmbRepoDomain *repo_domain)
{
    g_autoptr(GError) error = NULL;
    VmbJournal *journal = NULL;
    int fd = vmb_repo_domain_fd(repo_domain);
    g_autoptr(GPtrArray) aside = vmb_journal_list_aside(fd, &error);
    for (guint i = 0; aside != NULL && i < aside->len; i++)
        report_run(doctor, aside->pdata[i]);
    if (aside == NULL || !vmb_journal_read(fd, &journal, &error)) {
        vmb_doctor_say(doctor, VMB_DOCTOR_PROBLEM, NULL, "leftovers", "%s", error->message);
        return NULL;
    }
    if (journal != NULL && journal->nonce != NULL)
        report_run(doctor, journal);
    if (journal != NULL)
        report_stale(doctor, journal);
    return journal;
}

/* ---- checkpoints ---- */

/* Names that libvirt or the images have. */
static GPtrArray *
existing_names(VmbDoctor *doctor)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) unread = NULL;
    g_autoptr(GPtrArray) names = vmb_checkpoint_list(doctor->domain, &error);
    g_autoptr(GPtrArray) stored =
        names != NULL ? vmb_checkpoint_stored_bitmaps(doctor->domain, &unread, &error) : NULL;
    if (stored == NULL) {
        vmb_doctor_say(doctor, VMB_DOCTOR_PROBLEM, NULL, "leftovers", "%s", error->message);
        return NULL;
    }
    for (guint i = 0; i < stored->len; i++)
        if (!g_ptr_array_find_with_equal_func(names, stored->pdata[i], g_str_equal, NULL))
            g_ptr_array_add(names, g_strdup(stored->pdata[i]));
    return g_steal_pointer(&names);
}

static void
report_unnamed(VmbDoctor *doctor, const GPtrArray *names, const GPtrArray *points)
{
    guint damaged = vmb_leftovers_count_damaged(points);
    VmbDoctorLine *line = say_names(
        doctor, VMB_DOCTOR_NOTE, names, "checkpoint",
        damaged > 0 ? "of this repository that no point or journal that can be read names, "
                      "but a point is damaged and may need it"
                    : "of this repository that neither its points nor its journal name, so "
                      "that it is not known whose it is");
    if (line == NULL)
        return;
    const char *first = names->pdata[0];
    gboolean recorded = FALSE;
    vmb_checkpoint_exists(doctor->domain, first, &recorded, NULL);
    g_autofree char *single = g_strdup_printf(
        "virsh checkpoint-delete %s %s deletes one if you know that nobody needs it; ",
        doctor->name, first);
    line->advice =
        g_strdup_printf("%svmbackup -r %s release %s deletes all of this repository's, and "
                        "the next backup compares",
                        recorded ? single : "", doctor->options->repository, doctor->name);
}

static void
report_checkpoints(VmbDoctor *doctor, VmbRepoDomain *repo_domain, const VmbJournal *journal,
                   const GPtrArray *points)
{
    g_autoptr(GPtrArray) names = existing_names(doctor);
    g_autoptr(GPtrArray) old = g_ptr_array_new();
    g_autoptr(GPtrArray) unnamed = g_ptr_array_new();
    for (guint i = 0; names != NULL && i < names->len; i++) {
        VmbCheckpointRole role = vmb_leftovers_role(names->pdata[i], points, journal, NULL,
                                                    vmb_repository_id(doctor->repository));
        gboolean counted = journal != NULL && journal->stale != NULL &&
                           g_strv_contains((const char *const *)journal->stale, names->pdata[i]);
        if (role == VMB_CHECKPOINT_OLD && !counted)
            g_ptr_array_add(old, names->pdata[i]);
        else if (role == VMB_CHECKPOINT_UNNAMED &&
                 (repo_domain == NULL ||
                  !vmb_consumer_needs(vmb_repo_domain_fd(repo_domain), names->pdata[i])))
            g_ptr_array_add(unnamed, names->pdata[i]);
    }
    VmbDoctorLine *line = say_names(doctor, VMB_DOCTOR_PROBLEM, old, "checkpoint",
                                    "of older points that no newest point needs");
    if (line != NULL)
        advise_repair(doctor, line);
    report_unnamed(doctor, unnamed, points);
}

/* ---- consumers ---- */

/* So long without a success, one is worth a word: its bitmaps cost memory and time of the guest. */
#define CONSUMER_OLD_NS (30 * G_GINT64_CONSTANT(86400000000000))

static void
report_consumer(VmbDoctor *doctor, VmbRepoDomain *repo_domain, const char *name)
{
    g_autoptr(VmbConsumer) consumer = NULL;
    g_autoptr(GError) error = NULL;
    VmbDoctorLine *line = NULL;
    if (!vmb_consumer_read(vmb_repo_domain_fd(repo_domain), name, &consumer, &error)) {
        line = vmb_doctor_say(doctor, VMB_DOCTOR_PROBLEM, NULL, "consumer", "%s: %s", name,
                              error->message);
    } else if (consumer != NULL) {
        g_autofree char *time = vmb_units_format_time(consumer->time_ns);
        gboolean old = vmb_units_now() - consumer->time_ns > CONSUMER_OLD_NS;
        gboolean exists = vmb_checkpoint_is_ours(consumer->checkpoint,
                                                 vmb_repository_id(doctor->repository));
        if (exists && doctor->domain != NULL)
            vmb_checkpoint_exists(doctor->domain, consumer->checkpoint, &exists, NULL);
        line = vmb_doctor_say(doctor, exists && !old ? VMB_DOCTOR_OK : VMB_DOCTOR_NOTE, NULL,
                              "consumer", "%s has taken all up to %s%s", name, time,
                              exists ? "" : "; it has no checkpoint here, so it takes everything next");
        if (!old)
            return;
    }
    if (line != NULL)
        line->advice = g_strdup_printf("if nobody needs it any more: vmbackup -r %s release %s --consumer %s",
                                       doctor->options->repository, doctor->name, name);
}

static void
report_consumers(VmbDoctor *doctor, VmbRepoDomain *repo_domain)
{
    g_autoptr(GPtrArray) names = vmb_consumer_names(vmb_repo_domain_fd(repo_domain), NULL);
    for (guint i = 0; names != NULL && i < names->len; i++)
        report_consumer(doctor, repo_domain, names->pdata[i]);
}

/* Only beside who is at it: nobody else tells. */
static void
report_fold(VmbDoctor *doctor, VmbRepoDomain *repo_domain)
{
    if (!vmb_fold_has_leftover(repo_domain) ||
        vmb_lock_holder(vmb_repo_domain_fd(repo_domain), VMB_LAYOUT_MAINTENANCE) > 0)
        return;
    VmbDoctorLine *line = vmb_doctor_say(
        doctor, VMB_DOCTOR_NOTE, NULL, "leftovers",
        "a prune died while it folded or removed a point; all points that are listed read as they should");
    line->advice = g_strdup_printf("vmbackup -r %s doctor --repair %s, or the next prune",
                                   doctor->options->repository, doctor->name);
}

void
vmb_doctor_leftovers(VmbDoctor *doctor, VmbRepoDomain *repo_domain, const GPtrArray *points)
{
    if (repo_domain != NULL) {
        report_fold(doctor, repo_domain);
        report_consumers(doctor, repo_domain);
    }
    gint64 holder =
        repo_domain != NULL ? vmb_lock_holder(vmb_repo_domain_fd(repo_domain), VMB_LAYOUT_LOCK) : 0;
    if (holder > 0) {
        vmb_doctor_say(doctor, VMB_DOCTOR_OK, NULL, "leftovers",
                       "a run of vmbackup is at work (process %" G_GINT64_FORMAT ")", holder);
        return;
    }
    g_autoptr(VmbJournal) journal =
        repo_domain != NULL ? report_journals(doctor, repo_domain) : NULL;
    if (repo_domain != NULL && vmb_transaction_has_leftover(repo_domain))
        advise_repair(doctor, vmb_doctor_say(doctor, VMB_DOCTOR_NOTE, NULL, "leftovers",
                                             "an unfinished point is in staging/"));
    if (doctor->domain != NULL && doctor->repository != NULL)
        report_checkpoints(doctor, repo_domain, journal, points);
}

/* ---- domains that are gone ---- */

static gboolean
has_leftovers(VmbDoctor *doctor, const char *uuid)
{
    g_autoptr(VmbJournal) journal = NULL;
    g_autoptr(VmbRepoDomain) repo_domain =
        vmb_repo_domain_open(doctor->repository, uuid, FALSE, NULL);
    if (repo_domain == NULL)
        return FALSE;
    int fd = vmb_repo_domain_fd(repo_domain);
    g_autoptr(GPtrArray) aside = vmb_journal_list_aside(fd, NULL);
    return vmb_transaction_has_leftover(repo_domain) || vmb_fold_has_leftover(repo_domain) ||
           (aside != NULL && aside->len > 0) ||
           !vmb_journal_read(fd, &journal, NULL) || journal != NULL;
}

GPtrArray *
vmb_doctor_gone_domains(VmbDoctor *doctor, GError **error)
{
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(doctor->repository, error);
    if (uuids == NULL)
        return NULL;
    GPtrArray *gone = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < uuids->len; i++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbDomain) domain =
            vmb_domain_lookup(doctor->connection, uuids->pdata[i], &local);
        if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN) &&
            has_leftovers(doctor, uuids->pdata[i]))
            g_ptr_array_add(gone, g_strdup(uuids->pdata[i]));
    }
    return gone;
}
