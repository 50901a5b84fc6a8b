/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Named points at which tests make the program fail, die or wait. */
#include "util/fault.h"
#include "util/error.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In the order in which a backup passes them; those of restore and init follow. */
static const char *const names[] = {
    "backup-locked",      "backup-reconciled",   "backup-inspected",  "staging-created",
    "config-saved",       "scratch-created",     "journal-written",   "guard-armed",
    "freeze-asked",       "frozen",              "job-started",       "thawed",
    "disk-opened",        "disk-data",           "disk-finished",     "before-job-end",
    "job-ended",          "manifest-written",    "staging-synced",    "published",
    "points-synced",      "checkpoints-retired", "journal-cleared",   "init-repository-written",
    "repository-upgraded",
    "restore-disk-data",  "restore-disk-done",   "restore-before-publish", "restore-before-file",
    "restore-files-moved", "restore-published", "export-overlay-made", "export-ready",
    "consumer-noted", "consumer-advanced",
    "restore-defined",    "verify-pinned",     "adopt-journals-dropped", "adopted",        "checkpoint-redefined",
    /* Deleting checkpoints, whichever story does it, and undoing what a dead run has left. */
    "checkpoint-taken-apart", "bitmap-removed", "checkpoint-deleted",
    "stray-job-cancelled", "stray-job-ended",
    "reconcile-noted", "reconcile-job-ended", "reconcile-guest-released",
    "reconcile-directories-removed", "reconcile-journal-written",
    /* Folding. */
    "fold-copied", "fold-tables", "fold-checked", "fold-cleaned-table", "fold-cleaned",
    "fold-recorded", "fold-appended", "fold-ready", "fold-switched", "fold-image-moved",
    "fold-digests-moved", "fold-manifest-written", "fold-parent-cleared", "fold-record-cleared",
    "fold-undone", "copy-disk-written", "copy-published", "point-retired", "drop-remembered",
    "point-trashed", "point-removed",
    /* A shut-off domain. */
    "offline-watched", "offline-remembered", "offline-journal-written", "offline-bitmap-added",
    "offline-checkpoint-defined", "offline-read", "offline-confirmed",
    "image-open-alone",
    /* The guard, which has a variable of its own: VMBACKUP_TEST_GUARD_FAIL_AT. */
    "guard-connected", "guard-fired", "guard-released", "guard-job-ended", NULL,
};

const char *const *
vmb_fault_points(void)
{
    return names;
}

/* Tests wait for the file NAME.reached, then create NAME to let the program go on. */
static void
wait_for_file(const char *path)
{
    g_autofree char *reached = g_strconcat(path, ".reached", NULL);
    g_file_set_contents(reached, "", 0, NULL);
    for (int i = 0; i < 6000 && !g_file_test(path, G_FILE_TEST_EXISTS); i++)
        g_usleep(10 * 1000);
}

static gboolean
act(const char *name, const char *action, GError **error)
{
    if (strcmp(action, "kill") == 0)
        kill(getpid(), SIGKILL);
    else if (strcmp(action, "stop") == 0)
        kill(getpid(), SIGSTOP);
    else if (strcmp(action, "term") == 0)
        kill(getpid(), SIGTERM);
    else if (strcmp(action, "int") == 0)
        kill(getpid(), SIGINT);
    else if (g_str_has_prefix(action, "delay:"))
        g_usleep((gulong)g_ascii_strtoull(action + 6, NULL, 10) * 1000);
    else if (g_str_has_prefix(action, "wait:"))
        wait_for_file(action + 5);
    else if (strcmp(action, "enospc") == 0)
        return vmb_error_set(error, VMB_ERROR_NO_SPACE, "injected lack of space at %s", name);
    else
        return vmb_error_set(error, VMB_ERROR_FAILED, "injected failure at %s", name);
    return TRUE;
}

static void
check_names(char **faults)
{
    for (int i = 0; faults[i] != NULL; i++) {
        g_autofree char *name = g_strndup(faults[i], strcspn(faults[i], "="));
        if (!g_strv_contains(names, name)) {
            fprintf(stderr, "vmbackup: VMBACKUP_TEST_FAIL_AT: unknown step '%s'\n", name);
            _exit(2);
        }
    }
}

gboolean
vmb_fault_point(const char *name, GError **error)
{
    static gsize once;
    static char **faults;
    if (g_once_init_enter(&once)) {
        const char *value = g_getenv("VMBACKUP_TEST_FAIL_AT");
        if (value != NULL && value[0] != '\0') {
            faults = g_strsplit(value, ",", -1);
            check_names(faults);
        }
        g_once_init_leave(&once, 1);
    }
    if (faults == NULL)
        return TRUE;
    gsize length = strlen(name);
    for (int i = 0; faults[i] != NULL; i++) {
        if (strncmp(faults[i], name, length) != 0)
            continue;
        if (faults[i][length] == '=' && !act(name, faults[i] + length + 1, error))
            return FALSE;
        if (faults[i][length] == '\0')
            kill(getpid(), SIGKILL);
    }
    return TRUE;
}
