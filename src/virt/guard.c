/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The program's side of the guard: starting it, telling it, knowing whether it lives. */
#include "virt/guard.h"
#include "virt/guard-protocol.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* Connecting to libvirt takes milliseconds; a daemon that is just being started, some seconds. */
#define START_NS (30 * G_GUINT64_CONSTANT(1000000000))
#define ACK_NS (5 * G_GUINT64_CONSTANT(1000000000))
/* After DONE the guard only closes its connection. */
#define END_NS (5 * G_GUINT64_CONSTANT(1000000000))
/* flock() cannot wait with a deadline. */
#define LOCK_PAUSE_US (100 * 1000)

/* Shared with the thread that reaps the process. */
typedef struct {
    gatomicrefcount refs;
    GPid pid;
    GMutex lock;
    GCond cond;
    gboolean exited;
} Child;

struct VmbGuard {
    int fd;
    Child *child;
    GMutex lock; /* of fired and of receiving */
    gboolean fired;
    gboolean detached, handed_over;
};

static void
child_unref(Child *child)
{
    if (!g_atomic_ref_count_dec(&child->refs))
        return;
    g_mutex_clear(&child->lock);
    g_cond_clear(&child->cond);
    g_free(child);
}

/* A guard may live on for long after the program has let go of it; it must not become a zombie. */
static gpointer
reap(gpointer data)
{
    Child *child = data;
    siginfo_t info;
    while (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        continue;
    g_mutex_lock(&child->lock);
    child->exited = TRUE;
    waitpid(child->pid, NULL, 0);
    g_cond_broadcast(&child->cond);
    g_mutex_unlock(&child->lock);
    child_unref(child);
    return NULL;
}

/* Under the lock its process number cannot have passed to another. */
static void
kill_child(Child *child)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&child->lock);
    if (!child->exited)
        kill(child->pid, SIGKILL);
}

static gboolean
wait_exit(Child *child, guint64 ns)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)(ns / 1000);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&child->lock);
    while (!child->exited && g_cond_wait_until(&child->cond, &child->lock, deadline))
        continue;
    return child->exited;
}

static gboolean
say(VmbGuard *guard, char word)
{
    return send(guard->fd, &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

/* Receives one packet; returns its length, 0 at the end of the guard, -1 when nothing came in time.
 */
static ssize_t
hear(VmbGuard *guard, char *packet, gsize size, guint64 deadline)
{
    for (;;) {
        guint64 now = vmb_units_monotonic();
        int ms = now < deadline ? (int)((deadline - now) / 1000000) + 1 : 0;
        struct pollfd pfd = {guard->fd, POLLIN, 0};
        int n = poll(&pfd, 1, ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        ssize_t got = recv(guard->fd, packet, size, MSG_DONTWAIT);
        if (got >= 0)
            return got;
        if (errno != EINTR && errno != EAGAIN)
            return 0;
    }
}

static gboolean
send_spec(VmbGuard *guard, const VmbGuardSpec *spec, GError **error)
{
    g_autofree char *budget = g_strdup_printf("%" G_GUINT64_FORMAT, spec->budget_ns);
    const char *const words[] = {spec->uri,
                                 spec->uuid,
                                 spec->socket,
                                 spec->scratch_dir,
                                 budget,
                                 spec->may_freeze ? "1" : "0",
                                 spec->may_pause ? "1" : "0"};
    g_autoptr(GString) packet = g_string_new(NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(words); i++)
        g_string_append_len(packet, words[i], (gssize)strlen(words[i]) + 1);
    if (packet->len > VMB_GUARD_PACKET)
        return vmb_error_set(error, VMB_ERROR_USAGE, "the connection's URI is too long");
    if (send(guard->fd, packet->str, packet->len, MSG_NOSIGNAL) != (ssize_t)packet->len)
        return vmb_error_errno(error, errno, "cannot talk to the freeze guard");
    return TRUE;
}

/* No descriptor but its end of the socket pair passes on: GLib closes them in the child. */
static gboolean
spawn(int fd, GPid *pid, GError **error)
{
    const char *const argv[] = {"/proc/self/exe", "vmbackup-guard", VMB_GUARD_VERB, NULL};
    const int target = VMB_GUARD_FD;
    g_autoptr(GError) local = NULL;
    if (g_spawn_async_with_pipes_and_fds(
            "/", argv, NULL,
            G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_FILE_AND_ARGV_ZERO | G_SPAWN_STDOUT_TO_DEV_NULL |
                G_SPAWN_STDERR_TO_DEV_NULL,
            NULL, NULL, -1, -1, -1, &fd, &target, 1, pid, NULL, NULL, NULL, &local))
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_FAILED, "cannot start the freeze guard: %s",
                         local->message);
}

static Child *
adopt(GPid pid)
{
    Child *child = g_new0(Child, 1);
    g_atomic_ref_count_init(&child->refs);
    child->pid = pid;
    g_mutex_init(&child->lock);
    g_cond_init(&child->cond);
    g_atomic_ref_count_inc(&child->refs);
    g_thread_unref(g_thread_new("guard-reaper", reap, child));
    return child;
}

static gboolean
wait_ready(VmbGuard *guard, GError **error)
{
    char packet[4096];
    ssize_t got = hear(guard, packet, sizeof packet - 1, vmb_units_monotonic() + START_NS);
    if (got > 0 && packet[0] == VMB_GUARD_READY)
        return TRUE;
    if (got > 1 && packet[0] == VMB_GUARD_ERROR) {
        packet[got] = '\0';
        return vmb_error_set(error, VMB_ERROR_FAILED, "the freeze guard could not start: %s",
                             packet + 1);
    }
    return vmb_error_set(
        error, VMB_ERROR_FAILED,
        "the freeze guard %s; nothing was begun, because without it a killed backup "
        "could leave the guest frozen",
        got == 0 ? "died at its start" : "did not get ready in 30 s");
}

VmbGuard *
vmb_guard_start(const VmbGuardSpec *spec, GError **error)
{
    int pair[2];
    GPid pid;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        vmb_error_errno(error, errno, "cannot make a socket pair for the freeze guard");
        return NULL;
    }
    g_auto(VmbFd) mine = pair[0], theirs = pair[1];
    if (!spawn(theirs, &pid, error))
        return NULL;
    VmbGuard *guard = g_new0(VmbGuard, 1);
    guard->fd = vmb_fd_steal(&mine);
    guard->child = adopt(pid);
    g_mutex_init(&guard->lock);
    vmb_fd_clear(&theirs);
    if (send_spec(guard, spec, error) && wait_ready(guard, error)) {
        vmb_debug("freeze guard: process %d", (int)pid);
        return guard;
    }
    kill_child(guard->child);
    vmb_guard_free(guard);
    return NULL;
}

void
vmb_guard_beginning(VmbGuard *guard)
{
    say(guard, VMB_GUARD_BEGINNING);
}

void
vmb_guard_begun(VmbGuard *guard)
{
    say(guard, VMB_GUARD_BEGUN);
}

gboolean
vmb_guard_freezing(VmbGuard *guard, GError **error)
{
    char word = 0;
    guint64 deadline = vmb_units_monotonic() + ACK_NS;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&guard->lock);
    if (say(guard, VMB_GUARD_FREEZING)) {
        while (hear(guard, &word, 1, deadline) == 1) {
            if (word == VMB_GUARD_ACK)
                return TRUE;
        }
    }
    return vmb_error_set(error, VMB_ERROR_FAILED,
                         "the freeze guard does not answer, so the guest is not frozen");
}

gboolean
vmb_guard_thawed(VmbGuard *guard, GError **error)
{
    return say(guard, VMB_GUARD_THAWED) ||
           vmb_error_set(error, VMB_ERROR_FAILED, "the freeze guard has died");
}

gboolean
vmb_guard_fired(VmbGuard *guard)
{
    char word = 0;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&guard->lock);
    while (hear(guard, &word, 1, 0) == 1) {
        if (word == VMB_GUARD_FIRED)
            guard->fired = TRUE;
    }
    return guard->fired;
}

gboolean
vmb_guard_alive(VmbGuard *guard)
{
    return !wait_exit(guard->child, 0);
}

int
vmb_guard_descriptor(VmbGuard *guard)
{
    return guard->fd;
}

void
vmb_guard_detach(VmbGuard *guard)
{
    guard->detached = TRUE;
    say(guard, VMB_GUARD_STUCK);
}

void
vmb_guard_hand_over(VmbGuard *guard)
{
    guard->handed_over = TRUE;
}

void
vmb_guard_free(VmbGuard *guard)
{
    if (guard == NULL)
        return;
    if (!guard->handed_over)
        say(guard, VMB_GUARD_DONE);
    if (!guard->handed_over && !guard->detached && !wait_exit(guard->child, END_NS))
        vmb_warning("the freeze guard (process %d) is still at work", (int)guard->child->pid);
    close(guard->fd);
    child_unref(guard->child);
    g_mutex_clear(&guard->lock);
    g_free(guard);
}

gboolean
vmb_guard_wait_for_end(const char *run_dir, guint64 ns)
{
    guint64 deadline = vmb_units_monotonic() + ns;
    g_auto(VmbFd) fd = open(run_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return TRUE;
    while (flock(fd, LOCK_SH | LOCK_NB) < 0) {
        if (vmb_units_monotonic() >= deadline)
            return FALSE;
        g_usleep(LOCK_PAUSE_US);
    }
    return TRUE;
}
