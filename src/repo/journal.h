/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The run in progress, written before anything outside changes: what a dead run may have left. */
#pragma once
#include <glib.h>

typedef struct {
    char *nonce;       /* 32 hexadecimal digits, this run's */
    char *uri;         /* libvirt connection */
    char *checkpoint;  /* the new checkpoint's name */
    char *socket;      /* path of the NBD socket */
    char *run_dir;     /* directory of this run's socket, private to it; removed with its content */
    char *scratch_dir; /* directory of this run's scratch files, likewise */
    gboolean may_freeze; /* the run would freeze the guest */
    gboolean may_pause;  /* the run would pause the domain, which was running before */
    gint64 time_ns;
    gint64 pid;
    char *point;  /* id of the point in the making */
    char **stale; /* NULL-terminated names of checkpoints of earlier runs that are still to be
                   * deleted; NULL: none. A journal may hold nothing else (nonce NULL). */
} VmbJournal;

void vmb_journal_free(VmbJournal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbJournal, vmb_journal_free)

/* domains/<uuid>/journal below @domain_fd: durable when it returns. */
gboolean vmb_journal_write(int domain_fd, const VmbJournal *journal, GError **error);
/* *@journal is NULL if there is none. A damaged one is VMB_ERROR_DAMAGE with what to do. */
gboolean vmb_journal_read(int domain_fd, VmbJournal **journal, GError **error);
gboolean vmb_journal_clear(int domain_fd, GError **error);
