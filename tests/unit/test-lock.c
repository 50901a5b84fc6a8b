/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Locks: who excludes whom, waiting, cancelling, and the death of a holder. */
#include "repo-fixture.h"

#include <signal.h>
#include <sys/file.h>
#include <sys/time.h>
#include <sys/wait.h>

#define SECOND G_GUINT64_CONSTANT(1000000000)

static VmbLock *
take(const Fixture *fixture, gboolean exclusive, GError **error)
{
    return vmb_lock_take(fixture->fd, "lock", exclusive, 0, "the domain web01", NULL, error);
}

static void
test_exclusion(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    mode_t old = umask(0277);
    g_autoptr(VmbLock) writer = take(fixture, TRUE, &error);
    umask(old);
    g_assert_no_error(error);
    struct stat st;
    g_assert_cmpint(fstatat(fixture->fd, "lock", &st, 0), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    g_assert_cmpint(st.st_size, ==, 0);
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        g_assert_null(take(fixture, exclusive, &error));
        assert_error_contains(error, VMB_ERROR_LOCKED, "the domain web01 is in use");
        g_clear_error(&error);
    }
    g_clear_pointer(&writer, vmb_lock_free);
    g_autoptr(VmbLock) reader = take(fixture, FALSE, &error);
    g_autoptr(VmbLock) another = take(fixture, FALSE, &error);
    g_assert_no_error(error);
    g_assert_null(take(fixture, TRUE, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_LOCKED);
    g_clear_error(&error);
    g_clear_pointer(&reader, vmb_lock_free);
    g_clear_pointer(&another, vmb_lock_free);
    writer = take(fixture, TRUE, &error);
    g_assert_no_error(error);
}

static void
test_holder(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbLock) lock = take(fixture, TRUE, &error);
    g_autofree char *locks = NULL, *pid = g_strdup_printf("process %d", (int)getpid());
    struct stat st;
    g_assert_cmpint(fstatat(fixture->fd, "lock", &st, 0), ==, 0);
    g_autofree char *inode = g_strdup_printf(":%" G_GUINT64_FORMAT " ", (guint64)st.st_ino);
    g_assert_null(take(fixture, TRUE, &error));
    /* Some filesystems show another device number there, and containers no process at all. */
    if (g_file_get_contents("/proc/locks", &locks, NULL, NULL) && strstr(locks, inode) != NULL &&
        strstr(error->message, "process") != NULL)
        assert_error_contains(error, VMB_ERROR_LOCKED, pid);
    g_assert_null(strchr(error->message, '\n'));
}

static void
test_reader_without_file(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbLock) lock = take(fixture, FALSE, &error);
    g_assert_no_error(error);
    g_assert_nonnull(lock);
    g_assert_cmpint(faccessat(fixture->fd, "lock", F_OK, 0), ==, -1);
}

static void
test_strange_files(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(mkfifoat(fixture->fd, "lock", 0600), ==, 0);
    g_assert_null(take(fixture, TRUE, &error));
    assert_error_contains(error, VMB_ERROR_DAMAGE, "no regular file");
    g_clear_error(&error);
    g_assert_cmpint(unlinkat(fixture->fd, "lock", 0), ==, 0);
    g_assert_cmpint(symlinkat("elsewhere", fixture->fd, "lock"), ==, 0);
    g_assert_null(take(fixture, TRUE, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_cmpint(faccessat(fixture->fd, "elsewhere", F_OK, 0), ==, -1);
}

/* A child that holds the lock until it is killed or @release is closed; returns when it has it. */
static pid_t
hold_in_child(const Fixture *fixture, int release[2])
{
    int ready[2];
    char byte;
    g_assert_cmpint(pipe(ready), ==, 0);
    g_assert_cmpint(pipe(release), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        int fd = openat(fixture->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        close(release[1]);
        if (flock(fd, LOCK_EX) != 0 || write(ready[1], "x", 1) != 1)
            _exit(1);
        _exit(read(release[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ready[1]);
    close(release[0]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static void
test_death_of_holder(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int release[2];
    pid_t pid = hold_in_child(fixture, release);
    g_assert_null(take(fixture, TRUE, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_LOCKED);
    g_clear_error(&error);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    close(release[1]);
    g_autoptr(VmbLock) lock = take(fixture, TRUE, &error);
    g_assert_no_error(error);
}

static gpointer
close_later(gpointer data)
{
    g_usleep(250 * 1000);
    close(GPOINTER_TO_INT(data));
    return NULL;
}

static void
test_wait(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int release[2];
    pid_t pid = hold_in_child(fixture, release);
    guint64 start = vmb_units_monotonic();
    g_assert_null(vmb_lock_take(fixture->fd, "lock", TRUE, SECOND / 4, "it", NULL, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_LOCKED);
    g_assert_cmpuint(vmb_units_monotonic() - start, >=, SECOND / 4);
    g_clear_error(&error);
    GThread *thread = g_thread_new("release", close_later, GINT_TO_POINTER(release[1]));
    g_autoptr(VmbLock) lock =
        vmb_lock_take(fixture->fd, "lock", TRUE, G_MAXUINT64, "it", NULL, &error);
    g_assert_no_error(error);
    g_thread_join(thread);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static gpointer
cancel_later(gpointer data)
{
    g_usleep(150 * 1000);
    g_cancellable_cancel(data);
    return NULL;
}

static void
on_alarm(int number)
{
}

static void
test_cancel(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(VmbLock) holder = take(fixture, TRUE, &error);
    /* Signals that arrive meanwhile neither end nor lengthen the wait. */
    struct sigaction action = {.sa_handler = on_alarm}, old;
    struct itimerval interval = {{0, 20000}, {0, 20000}}, off = {{0, 0}, {0, 0}};
    g_assert_cmpint(sigaction(SIGALRM, &action, &old), ==, 0);
    g_assert_cmpint(setitimer(ITIMER_REAL, &interval, NULL), ==, 0);
    GThread *thread = g_thread_new("cancel", cancel_later, cancel);
    g_assert_null(vmb_lock_take(fixture->fd, "lock", TRUE, 100 * SECOND, "it", cancel, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_CANCELLED);
    g_thread_join(thread);
    g_assert_cmpint(setitimer(ITIMER_REAL, &off, NULL), ==, 0);
    g_assert_cmpint(sigaction(SIGALRM, &old, NULL), ==, 0);
    g_clear_error(&error);
    /* Cancelled before: not even a free lock is taken. */
    g_assert_null(vmb_lock_take(fixture->fd, "free", TRUE, 0, "it", cancel, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_CANCELLED);
}

typedef struct {
    const Fixture *fixture;
    GError *error;
} Waiter;

static gpointer
wait_for_lock(gpointer data)
{
    Waiter *waiter = data;
    g_autoptr(VmbLock) lock =
        vmb_lock_take(waiter->fixture->fd, "lock", TRUE, SECOND, "it", NULL, &waiter->error);
    g_assert_null(lock);
    return NULL;
}

/* The lock's file is replaced while somebody waits for it: only the new one counts. */
static void
test_replaced(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int release[2];
    pid_t pid = hold_in_child(fixture, release);
    Waiter waiter = {fixture, NULL};
    GThread *thread = g_thread_new("wait", wait_for_lock, &waiter);
    g_usleep(150 * 1000);
    g_assert_cmpint(renameat(fixture->fd, "lock", fixture->fd, "old"), ==, 0);
    g_autoptr(VmbLock) fresh = take(fixture, TRUE, &error);
    g_assert_no_error(error);
    close(release[1]);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    g_thread_join(thread);
    g_assert_error(waiter.error, VMB_ERROR, VMB_ERROR_LOCKED);
    g_error_free(waiter.error);
}

static void
test_not_inherited(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbLock *lock = take(fixture, TRUE, &error);
    GPid pid = 0;
    char *argv[] = {(char *)"sleep", (char *)"30", NULL};
    g_assert_true(g_spawn_async(NULL, argv, NULL,
                                G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD |
                                    G_SPAWN_LEAVE_DESCRIPTORS_OPEN,
                                NULL, NULL, &pid, &error));
    vmb_lock_free(lock);
    g_autoptr(VmbLock) again =
        vmb_lock_take(fixture->fd, "lock", TRUE, 5 * SECOND, "it", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static void
test_host(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *run = g_build_filename(fixture->path, "run", NULL);
    g_setenv("VMBACKUP_TEST_RUN_DIR", run, TRUE);
    g_autoptr(VmbLock) lock = vmb_lock_take_host(FIXTURE_UUID, 0, "web01", NULL, &error);
    g_assert_no_error(error);
    g_autoptr(VmbLock) other = vmb_lock_take_host(FIXTURE_UUID_2, 0, "db", NULL, &error);
    g_assert_no_error(error);
    g_assert_null(vmb_lock_take_host(FIXTURE_UUID, 0, "web01", NULL, &error));
    assert_error_contains(error, VMB_ERROR_LOCKED, "web01 is in use");
    g_clear_error(&error);
    g_assert_null(vmb_lock_take_host("../x", 0, "web01", NULL, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_clear_error(&error);
    g_autofree char *locks = g_build_filename(run, "locks", NULL);
    struct stat st;
    g_assert_cmpint(stat(locks, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0700);
    g_assert_cmpint(chmod(locks, 0777), ==, 0);
    g_assert_null(vmb_lock_take_host(FIXTURE_UUID, 0, "web01", NULL, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, "open to others");
    g_unsetenv("VMBACKUP_TEST_RUN_DIR");
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    fixture_add("/lock/exclusion", test_exclusion);
    fixture_add("/lock/holder", test_holder);
    fixture_add("/lock/reader-without-file", test_reader_without_file);
    fixture_add("/lock/strange-files", test_strange_files);
    fixture_add("/lock/death-of-holder", test_death_of_holder);
    fixture_add("/lock/wait", test_wait);
    fixture_add("/lock/cancel", test_cancel);
    fixture_add("/lock/replaced", test_replaced);
    fixture_add("/lock/not-inherited", test_not_inherited);
    fixture_add("/lock/host", test_host);
    return g_test_run();
}
