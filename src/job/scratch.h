/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The private directories of one run: scratch images and the socket, and the watch over their space. */
#pragma once
#include "job/plan.h"
#include "repo/journal.h"

/* Where scratch images go without --scratch-dir: /var/lib/vmbackup/scratch for root, else below the
 * user's cache directory. The test variable VMBACKUP_TEST_SCRATCH_DIR names another one. Free with g_free(). */
char *vmb_scratch_default_dir(void);

typedef struct {
    char *run_dir;     /* private directory of the socket */
    char *socket;
    char *dir;         /* private directory of the scratch images */
    GPtrArray *paths;  /* char *: one image per plan disk, in its order */
    gboolean keep;     /* for the guard that goes on alone */
} VmbScratch;

/* Names only: nothing is made yet, so that the journal can be written first. @nonce: of the run.
 * Errors: VMB_ERROR_FAILED for a socket path that is too long. */
VmbScratch *vmb_scratch_new(const char *scratch_dir, const char *nonce, const VmbPlan *plan,
                            GError **error);
/* Removes both directories with what is in them; FALSE if something is left, which the journal then has to
 * name further on. */
gboolean vmb_scratch_remove(VmbScratch *scratch);
/* The same, unless that was done or the directories are to be kept. */
void vmb_scratch_free(VmbScratch *scratch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbScratch, vmb_scratch_free)

/* Bytes that the scratch images will probably need and the worst case. @seconds: since the last point
 * and @dirty: bytes that changed meanwhile (0, 0: unknown). Pure. */
guint64 vmb_scratch_estimate(const VmbPlan *plan, guint64 *worst);
/* Refuses (VMB_ERROR_NO_SPACE) when the estimate and the reserve do not fit; tells the worst case as a
 * reason when that does not. */
gboolean vmb_scratch_check_space(const VmbScratch *scratch, const VmbPlan *plan, const char *domain,
                                 GPtrArray *reasons, GError **error);
/* Makes directories and images that only QEMU's user may use. */
gboolean vmb_scratch_create(const VmbScratch *scratch, const VmbPlan *plan,
                            const VmbDomainInfo *info, GError **error);

/* TRUE if @directory has the name that a run with this @nonce gives its directories. */
gboolean vmb_scratch_is_of_run(const char *directory, const char *nonce);

/* The journal's directory of scratch images, if it has the name that its run gave it; else NULL: any other is none of
 * our business. Borrowed. */
const char *vmb_scratch_of_journal(const VmbJournal *journal);

/* Removes the directories of a dead run, if their names are ones that we make. */
gboolean vmb_scratch_remove_leftover(const char *directory, GError **error);

/* Threads that look at the free space, and at the domain, and cancel before the space is gone. */
typedef struct VmbScratchWatch VmbScratchWatch;
/* @stop is cancelled when the reserve is touched or QEMU has paused the domain for an I/O error that was
 * not there before the job (@had_io_error). */
VmbScratchWatch *vmb_scratch_watch_start(const VmbScratch *scratch, VmbDomain *domain,
                                         gboolean had_io_error, GCancellable *stop);
/* TRUE with @error set if the watch was the one that cancelled. */
gboolean vmb_scratch_watch_fired(VmbScratchWatch *watch, GError **error);
void vmb_scratch_watch_free(VmbScratchWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbScratchWatch, vmb_scratch_watch_free)
