/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The run in progress, written before anything outside changes: what a dead run may have left. */
#pragma once
#include <glib.h>

typedef struct {
    char *nonce; /* 32 hexadecimal digits, this run's */
    char *host;  /* name of the host of the run, and its vmb_host_id(): its socket, directories
                  * and job are there. NULL: this host when written, unknown when read */
    char *host_id;
    char *uri;         /* libvirt connection */
    char *checkpoint;  /* the new checkpoint's name */
    char *socket;      /* path of the NBD socket */
    char *run_dir;     /* directory of this run's socket, private to it; removed with its content */
    char *scratch_dir; /* directory of this run's scratch files, likewise */
    gboolean may_freeze;  /* the run would freeze the guest */
    gboolean may_pause;   /* the run would pause the domain, which was running before */
    gboolean was_running; /* the domain was not paused when the run began */
    gboolean io_paused;   /* since the run died it was found paused by QEMU for an I/O error of its
                             scratch */
    gint64 time_ns;
    gint64 pid;
    char *point;  /* id of the point in the making */
    char **stale; /* NULL-terminated: names of checkpoints and absolute paths of directories of
                   * earlier runs that are still to be deleted; NULL: none. A journal may hold
                   * nothing else (nonce NULL). */
} VmbJournal;

void vmb_journal_free(VmbJournal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbJournal, vmb_journal_free)

/* domains/<uuid>/journal below @domain_fd: durable when it returns. */
gboolean vmb_journal_write(int domain_fd, const VmbJournal *journal, GError **error);
/* *@journal is NULL if there is none. A damaged one is VMB_ERROR_DAMAGE with what to do. */
gboolean vmb_journal_read(int domain_fd, VmbJournal **journal, GError **error);
gboolean vmb_journal_clear(int domain_fd, GError **error);

/* A run that died on another host, in a repository that both use, has left things there that this
 * host can neither see nor undo, whatever has the same names here. TRUE if @journal is of such a
 * run. */
gboolean vmb_journal_is_elsewhere(const VmbJournal *journal);
/* Copies the journal that is there, which is @journal, to where its host finds it again; the caller
 * then replaces it. Durable when it returns. */
gboolean vmb_journal_set_aside(int domain_fd, const VmbJournal *journal, GError **error);
/* The journals that were set aside: a GPtrArray of VmbJournal. Those that cannot be read are left
 * out with a warning. */
GPtrArray *vmb_journal_list_aside(int domain_fd, GError **error);
/* Takes one of them away, after what it names was undone on its host. */
gboolean vmb_journal_clear_aside(int domain_fd, const VmbJournal *journal, GError **error);

/* Removes all journals, damaged ones too, *@n of them: nothing that they name is this repository's.
 */
gboolean vmb_journal_drop_all(int domain_fd, guint *n, GError **error);
