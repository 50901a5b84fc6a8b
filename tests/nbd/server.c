/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD servers as children of a test, on a socket in a directory of their own. */
#include "server.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define START_TIMEOUT (30 * G_USEC_PER_SEC)

gboolean
server_requires(const char *program, ...)
{
    va_list args;
    g_autoptr(GString) missing = g_string_new(NULL);
    va_start(args, program);
    for (; program != NULL; program = va_arg(args, const char *)) {
        g_autofree char *path = g_find_program_in_path(program);
        if (path == NULL)
            g_string_append_printf(missing, " %s", program);
    }
    va_end(args);
    if (missing->len == 0)
        return TRUE;
    if (g_strcmp0(g_getenv("VMBACKUP_TEST_MUST_RUN"), "1") == 0)
        g_test_fail_printf("not installed:%s", missing->str);
    else
        g_test_skip_printf("not installed:%s", missing->str);
    return FALSE;
}

char *
server_directory_new(void)
{
    g_autoptr(GError) error = NULL;
    char *directory = g_dir_make_tmp("vmb-nbd-XXXXXX", &error);
    g_assert_no_error(error);
    return directory;
}

void
server_directory_free(char *directory)
{
    g_autoptr(GError) error = NULL;
    vmb_fs_remove_tree(AT_FDCWD, directory, &error);
    g_assert_no_error(error);
    g_free(directory);
}

/* A child must not outlive a test that crashed. */
static void
die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static gboolean
has_written(const char *path)
{
    g_autofree char *content = NULL;
    return g_file_get_contents(path, &content, NULL, NULL) && content[0] != '\0';
}

static void
wait_listening(Server *server, const char *pid_file, const char *program)
{
    gint64 deadline = g_get_monotonic_time() + START_TIMEOUT;
    while (!has_written(pid_file) || !g_file_test(server->socket, G_FILE_TEST_EXISTS)) {
        int status;
        if (waitpid(server->pid, &status, WNOHANG) == server->pid)
            g_error("%s ended with status %#x before it listened", program, (unsigned)status);
        if (g_get_monotonic_time() > deadline)
            g_error("%s does not listen", program);
        g_usleep(2000);
    }
}

Server *
server_start(const char *directory, const char *const *argv)
{
    Server *server = g_new0(Server, 1);
    server->own_directory = directory == NULL;
    server->directory = directory != NULL ? g_strdup(directory) : server_directory_new();
    server->socket = g_build_filename(server->directory, "nbd.sock", NULL);
    g_autofree char *pid_file = g_build_filename(server->directory, "nbd.pid", NULL);
    g_unlink(pid_file);
    g_unlink(server->socket);
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    for (; *argv != NULL; argv++) {
        const char *word = *argv;
        if (strcmp(word, "%s") == 0)
            word = server->socket;
        else if (strcmp(word, "%p") == 0)
            word = pid_file;
        g_ptr_array_add(words, (gpointer)word);
    }
    g_ptr_array_add(words, NULL);
    g_autoptr(GError) error = NULL;
    g_spawn_async(NULL, (char **)words->pdata, NULL,
                  G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL,
                  die_with_parent, NULL, &server->pid, &error);
    g_assert_no_error(error);
    wait_listening(server, pid_file, words->pdata[0]);
    return server;
}

void
server_signal(Server *server, int signal)
{
    g_assert_cmpint(server->pid, >, 0);
    g_assert_cmpint(kill(server->pid, signal), ==, 0);
    if (signal != SIGKILL && signal != SIGTERM)
        return;
    while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    server->pid = 0;
}

void
server_free(Server *server)
{
    if (server == NULL)
        return;
    if (server->pid > 0)
        server_signal(server, SIGKILL);
    if (server->own_directory)
        server_directory_free(server->directory);
    else
        g_free(server->directory);
    g_free(server->socket);
    g_free(server);
}

static GPtrArray *
collect_words(const char *const *first, const char *argument, va_list args)
{
    GPtrArray *words = g_ptr_array_new();
    for (; *first != NULL; first++)
        g_ptr_array_add(words, (gpointer)*first);
    for (; argument != NULL; argument = va_arg(args, const char *))
        g_ptr_array_add(words, (gpointer)argument);
    g_ptr_array_add(words, NULL);
    return words;
}

Server *
server_nbdkit(const char *argument, ...)
{
    static const char *const first[] = {"nbdkit", "-f", "-U", "%s", "-P", "%p", NULL};
    va_list args;
    va_start(args, argument);
    g_autoptr(GPtrArray) words = collect_words(first, argument, args);
    va_end(args);
    return server_start(NULL, (const char *const *)words->pdata);
}

Server *
server_qemu_nbd(const char *directory, const char *argument, ...)
{
    static const char *const first[] = {"qemu-nbd", "-r",         "-t", "-k",
                                        "%s",       "--pid-file", "%p", NULL};
    va_list args;
    va_start(args, argument);
    g_autoptr(GPtrArray) words = collect_words(first, argument, args);
    va_end(args);
    return server_start(directory, (const char *const *)words->pdata);
}

char *
server_run(const char *program, ...)
{
    static const char *const first[] = {NULL};
    va_list args;
    va_start(args, program);
    g_autoptr(GPtrArray) words = collect_words(first, program, args);
    va_end(args);
    g_autoptr(GError) error = NULL;
    char *output = NULL;
    int status = 0;
    g_spawn_sync(NULL, (char **)words->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &output, NULL,
                 &status, &error);
    g_assert_no_error(error);
    g_spawn_check_wait_status(status, &error);
    g_assert_no_error(error);
    return output;
}

VmbNbdOptions
server_options(const Server *server)
{
    return (VmbNbdOptions){.socket = server->socket,
                           .export_name = "",
                           .label = "guest/vda",
                           .timeout_ns = G_GUINT64_CONSTANT(20000000000)};
}

void
tally_init(Tally *tally, guint n_items)
{
    *tally = (Tally){.seen = g_malloc0(n_items), .n_items = n_items};
}

void
tally_clear(Tally *tally)
{
    g_clear_error(&tally->error);
    g_clear_pointer(&tally->seen, g_free);
}

void
tally_done(gpointer item, const GError *error, gpointer user)
{
    Tally *tally = user;
    g_assert_cmpuint(GPOINTER_TO_UINT(item), <, tally->n_items);
    g_assert_cmpuint(tally->seen[GPOINTER_TO_UINT(item)]++, ==, 0);
    if (error == NULL) {
        tally->n_ok++;
        return;
    }
    tally->n_failed++;
    g_clear_error(&tally->error);
    tally->error = g_error_copy(error);
}

gboolean
server_read(VmbNbdReader *reader, guint8 *buffer, guint64 offset, guint64 length, guint32 piece,
            Tally *tally, GError **error)
{
    tally_init(tally, (guint)((length + piece - 1) / piece));
    for (guint i = 0; i < tally->n_items; i++) {
        guint64 start = (guint64)i * piece;
        while (!vmb_nbd_reader_has_room(reader))
            if (!vmb_nbd_reader_wait(reader, -1, error))
                return FALSE;
        if (!vmb_nbd_reader_submit(reader, buffer + start, offset + start,
                                   (guint32)MIN(piece, length - start), tally_done,
                                   GUINT_TO_POINTER(i), tally, error))
            return FALSE;
    }
    if (!vmb_nbd_reader_drain(reader, error))
        return FALSE;
    g_assert_cmpuint(tally->n_ok + tally->n_failed, ==, tally->n_items);
    return TRUE;
}
