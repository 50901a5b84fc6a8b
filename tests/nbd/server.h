/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD servers as children of a test, on a socket in a directory of their own. */
#pragma once
#include "nbd/reader.h"

/* TRUE if all programs (NULL-terminated) are installed. Otherwise the test is skipped, or fails if
 * VMBACKUP_TEST_MUST_RUN=1; the caller returns. */
gboolean server_requires(const char *program, ...) G_GNUC_NULL_TERMINATED;

/* A new directory; short, because socket paths are limited. Removed by server_directory_free(). */
char *server_directory_new(void);
void server_directory_free(char *directory);

typedef struct {
    GPid pid; /* 0 after its end */
    char *directory, *socket;
    gboolean own_directory;
} Server;

/* Starts a program and waits until it listens; the test fails if it does not within 30 s. The words
 * %s and %p in the arguments stand for the socket and the pid file, which the program must write
 * once it listens. @directory: NULL for one of its own. */
Server *server_start(const char *directory, const char *const *argv);
/* Sends @signal; SIGKILL and SIGTERM are followed by waiting for the end. */
void server_signal(Server *server, int signal);
void server_free(Server *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Server, server_free)

/* nbdkit in the foreground with the arguments that follow; qemu-nbd likewise, read-only. */
Server *server_nbdkit(const char *argument, ...) G_GNUC_NULL_TERMINATED;
Server *server_qemu_nbd(const char *directory, const char *argument, ...) G_GNUC_NULL_TERMINATED;

/* Runs a command to its end; the test fails unless it succeeds. Its output, to be freed. */
char *server_run(const char *program, ...) G_GNUC_NULL_TERMINATED;

/* Options that lead to @server, with a timeout of 20 s. */
VmbNbdOptions server_options(const Server *server);

/* What the callbacks of reads told. */
typedef struct {
    guint n_ok, n_failed;
    GError *error; /* of the last one that failed */
    guint8 *seen;  /* one counter per item, an index in GUINT_TO_POINTER() */
    guint n_items;
} Tally;
void tally_init(Tally *tally, guint n_items);
void tally_clear(Tally *tally);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Tally, tally_clear)
/* A VmbNbdDone; @user is the Tally. The test fails if an item is told twice. */
void tally_done(gpointer item, const GError *error, gpointer user);

/* Reads [offset, offset + length) in pieces of @piece bytes and waits for all. FALSE when the
 * reader failed; single failed reads are in @tally (which is initialised here). */
gboolean server_read(VmbNbdReader *reader, guint8 *buffer, guint64 offset, guint64 length,
                     guint32 piece, Tally *tally, GError **error);
