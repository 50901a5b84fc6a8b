/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guard's own process: waits for words, the end of the pipe or the deadline, and then acts. */
#include "virt/guard.h"
#include "virt/agent.h"
#include "virt/backup-job.h"
#include "virt/call.h"
#include "virt/guard-parent.h"
#include "virt/guard-protocol.h"
#include "virt/stray-job.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#define SECOND G_GUINT64_CONSTANT(1000000000)
/* Response timeout of a thaw: short, because it is asked again. */
#define THAW_TIMEOUT_S 2
/* Pauses between two attempts to release the guest. */
#define PAUSE_FIRST_NS (SECOND / 10)
#define PAUSE_LAST_NS (2 * SECOND)
/* An agent that has not answered for so long is asked at leisure, as it may take somebody to restart it, ... */
#define INSIST_NS (600 * SECOND)
#define PAUSE_SLOW_NS (30 * SECOND)
/* ... and in the end no more. */
#define RELEASE_NS (24 * 3600 * SECOND)
/* Between two looks whether the program is being killed. */
#define PARENT_PERIOD_MS 1000
/* When the program died in its freeze or its begin, those calls may still be under way in the
 * daemon: for so long after its end, and while another job makes its virDomainBackupBegin() wait,
 * which libvirt gives up after 30 s. */
#define LATE_NS (5 * SECOND)
#define LATE_MAX_NS (40 * SECOND)
#define LATE_PAUSE_NS (SECOND / 2)

typedef struct {
    char *uri, *uuid, *socket, *scratch_dir;
    guint64 budget_ns;
    gboolean may_freeze, may_pause;
    VmbConnection *connection;
    VmbDomain *domain;
    gboolean had_io_error;  /* before the backup: not ours to resume */
    gboolean armed;         /* the guest may be frozen or paused by us, and the budget runs */
    gboolean begin_pending;  /* the program has not said that its begin is over */
    gboolean freeze_pending; /* nor that the guest is free again */
    gboolean releasing;      /* it is for us to release the guest */
    gboolean acted;          /* the agent's timeout is ours to reset */
    int parent; /* process number of the program */
    gboolean parent_gone, done;
    guint64 deadline; /* of the budget */
    guint64 give_up;  /* of our attempts to release */
    guint64 next_try, pause;
} Guard;

static void report(int priority, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Nobody may be left to read the standard error of the program. */
static void
report(int priority, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    syslog(priority, "%s", text);
    vmb_log(VMB_LOG_WARNING, "guard: %s", text);
}

static void
say(char word)
{
    /* A program that is gone shows as the end of the pipe. */
    if (send(VMB_GUARD_FD, &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return;
}

/* After an error that may mean a restarted daemon; what fails here is tried again at the next
 * attempt. */
static void
reconnect(Guard *guard, const GError *error)
{
    g_autoptr(GError) local = NULL;
    if (!g_error_matches(error, VMB_ERROR, VMB_ERROR_LIBVIRT))
        return;
    if (!vmb_connection_reopen(guard->connection, &local) ||
        !vmb_domain_refresh(guard->domain, &local))
        report(LOG_WARNING, "%s", local->message);
}

/* It stands between libvirt and an agent that was restarted, and so between us and the thaw. */
static void
give_up_job(Guard *guard)
{
    gboolean ended = FALSE;
    g_autoptr(GError) error = NULL;
    if (!vmb_backup_job_end_by_socket(guard->domain, guard->socket, &ended, &error))
        report(LOG_WARNING, "%s", error->message);
    else if (ended)
        report(LOG_WARNING,
               "domain '%s': ended the backup job, as libvirt has lost the agent and connects to it "
               "again only without one",
               vmb_domain_name(guard->domain));
}

static gboolean
thaw(Guard *guard, GError **error)
{
    guint64 count = 0;
    if (!guard->may_freeze)
        return TRUE;
    vmb_agent_set_timeout(guard->domain, THAW_TIMEOUT_S);
    VmbThaw result = vmb_agent_thaw(guard->domain, &count, error);
    if (count > 0)
        report(LOG_NOTICE, "domain '%s': thawed %" G_GUINT64_FORMAT " filesystems",
               vmb_domain_name(guard->domain), count);
    if (result == VMB_THAW_UNCONNECTED)
        give_up_job(guard);
    return result == VMB_THAW_ANSWERED || result == VMB_THAW_GONE;
}

static gboolean
resume(Guard *guard, GError **error)
{
    VmbDomainState state;
    if (!guard->may_pause)
        return TRUE;
    if (!vmb_domain_state(guard->domain, &state, error))
        return g_error_matches(*error, VMB_ERROR, VMB_ERROR_DOMAIN);
    if (!state.paused || state.io_error)
        return TRUE;
    report(LOG_NOTICE, "domain '%s': resuming it", vmb_domain_name(guard->domain));
    return vmb_domain_resume(guard->domain, error);
}

/* One attempt, with the next one scheduled unless it worked. */
static void
release(Guard *guard)
{
    g_autoptr(GError) error = NULL;
    guard->acted = TRUE;
    if (thaw(guard, &error) && resume(guard, &error) && vmb_fault_point("guard-released", &error)) {
        guard->releasing = FALSE;
        return;
    }
    guint64 now = vmb_units_monotonic();
    gboolean insist = now + RELEASE_NS < guard->give_up + INSIST_NS;
    if (insist)
        report(LOG_WARNING, "%s", error->message);
    reconnect(guard, error);
    guard->next_try = now + guard->pause;
    guard->pause = MIN(guard->pause * 2, insist ? PAUSE_LAST_NS : PAUSE_SLOW_NS);
    if (now >= guard->give_up) {
        report(LOG_ERR,
               "domain '%s': giving up; if its guest is frozen or paused, `virsh domfsthaw %s` and "
               "`virsh resume %s` release it",
               vmb_domain_name(guard->domain), vmb_domain_name(guard->domain),
               vmb_domain_name(guard->domain));
        guard->releasing = guard->armed = FALSE;
    }
}

static void
start_releasing(Guard *guard)
{
    if (guard->releasing)
        return;
    guard->releasing = TRUE;
    guard->pause = PAUSE_FIRST_NS;
    guard->next_try = vmb_units_monotonic();
    guard->give_up = guard->next_try + RELEASE_NS;
}

static void
handle_word(Guard *guard, char word)
{
    switch (word) {
    case VMB_GUARD_BEGINNING:
        guard->begin_pending = TRUE;
        break;
    case VMB_GUARD_BEGUN:
        guard->begin_pending = FALSE;
        break;
    case VMB_GUARD_FREEZING:
        guard->armed = guard->freeze_pending = TRUE;
        guard->deadline = vmb_units_monotonic() + guard->budget_ns;
        say(VMB_GUARD_ACK);
        break;
    case VMB_GUARD_THAWED:
        guard->armed = guard->releasing = guard->freeze_pending = FALSE;
        break;
    case VMB_GUARD_STUCK:
        guard->armed = FALSE;
        start_releasing(guard);
        break;
    case VMB_GUARD_DONE:
        guard->done = TRUE;
        break;
    default:
        break;
    }
}

/* A program that ends without having read our last word shows as ECONNRESET once, before its own
 * last words. */
static void
receive(Guard *guard)
{
    char word;
    ssize_t got = recv(VMB_GUARD_FD, &word, 1, MSG_DONTWAIT);
    if (got == 1)
        handle_word(guard, word);
    else if (got == 0 || (errno != EINTR && errno != EAGAIN && errno != ECONNRESET))
        guard->parent_gone = TRUE;
}

static void
wait_for_word(Guard *guard)
{
    guint64 until = G_MAXUINT64, now = vmb_units_monotonic();
    if (guard->releasing)
        until = guard->next_try;
    else if (guard->armed)
        until = guard->deadline;
    int ms = PARENT_PERIOD_MS;
    if (until != G_MAXUINT64)
        ms = until > now ? (int)MIN((until - now) / 1000000 + 1, PARENT_PERIOD_MS) : 0;
    struct pollfd pfd = {VMB_GUARD_FD, POLLIN, 0};
    if (poll(&pfd, 1, ms) > 0)
        receive(guard);
    else if (vmb_guard_parent_is_killed(guard->parent))
        guard->parent_gone = TRUE;
}

/* The budget is over. The program may be stopped just before it asks for the freeze, so this
 * happens again after another budget, until it says that it is past its begin. */
static void
fire(Guard *guard)
{
    /* Before the thaw, so that a job which begins after it can be told from one before. */
    say(VMB_GUARD_FIRED);
    report(LOG_WARNING, "domain '%s': the freeze budget is over", vmb_domain_name(guard->domain));
    vmb_fault_point("guard-fired", NULL);
    guard->deadline = vmb_units_monotonic() + guard->budget_ns;
    start_releasing(guard);
}

/* While the program lives. */
static void
watch(Guard *guard)
{
    while (!guard->done && !guard->parent_gone) {
        wait_for_word(guard);
        guint64 now = vmb_units_monotonic();
        if (guard->armed && !guard->releasing && now >= guard->deadline)
            fire(guard);
        if (guard->releasing && now >= guard->next_try)
            release(guard);
    }
}

static gboolean
has_job(Guard *guard)
{
    virDomainJobInfo info = {0};
    VMB_DOMAIN_CALL(guard->domain);
    return virDomainGetJobInfo(vmb_domain_handle(guard->domain), &info) == 0 &&
           info.type != VIR_DOMAIN_JOB_NONE;
}

/* The daemon has died in the begin as well, and QEMU may have a job of which it knows nothing. */
static gboolean
end_stray_job(Guard *guard)
{
    gboolean ended = FALSE;
    g_autoptr(GError) error = NULL;
    if (!vmb_stray_job_end(guard->domain, guard->scratch_dir, guard->socket, &ended, &error)) {
        report(LOG_WARNING, "%s", error->message);
        reconnect(guard, error);
        return FALSE;
    }
    if (ended)
        report(LOG_NOTICE, "domain '%s': ended a backup job that libvirt had lost",
               vmb_domain_name(guard->domain));
    return TRUE;
}

/* TRUE once there is nothing left to wait for. *@late: until when a job may still begin; it moves
 * on while another one is in its way (to @limit), and while QEMU does not answer. */
static gboolean
end_job(Guard *guard, guint64 *late, guint64 limit)
{
    gboolean ended = FALSE;
    g_autoptr(GError) error = NULL;
    if (!vmb_backup_job_end_by_socket(guard->domain, guard->socket, &ended, &error) ||
        (ended && !vmb_fault_point("guard-job-ended", &error))) {
        if (g_error_matches(error, VMB_ERROR, VMB_ERROR_DOMAIN))
            return TRUE;
        report(LOG_WARNING, "%s", error->message);
        reconnect(guard, error);
        return FALSE;
    }
    if (ended)
        report(LOG_NOTICE, "domain '%s': ended the backup job", vmb_domain_name(guard->domain));
    guint64 now = vmb_units_monotonic();
    if (!ended && guard->begin_pending && vmb_domain_is_occupied(guard->domain))
        *late = now + LATE_NS;
    else if (!ended && guard->begin_pending && has_job(guard))
        *late = MIN(now + LATE_NS, limit);
    if (!ended && guard->begin_pending && now >= *late && !end_stray_job(guard))
        return now >= limit;
    return ended || now >= *late;
}

/* QEMU pauses a guest whose scratch file could not grow, and the job's end does not resume it. */
static void
resume_after_io_error(Guard *guard)
{
    VmbDomainState state;
    g_autoptr(GError) error = NULL;
    if (guard->had_io_error || !vmb_domain_state(guard->domain, &state, &error) || !state.io_error)
        return;
    report(LOG_NOTICE, "domain '%s': resuming it after an I/O error",
           vmb_domain_name(guard->domain));
    if (!vmb_domain_resume(guard->domain, &error))
        report(LOG_ERR, "%s", error->message);
}

static void
pause_between(const Guard *guard)
{
    g_usleep((gulong)(guard->releasing ? guard->pause : LATE_PAUSE_NS) / 1000);
}

/* After the program: the guest first, then the job unless the program said that all is done, then
 * the guest again if its freeze may have come late. */
static void
clean_up(Guard *guard)
{
    guint64 start = vmb_units_monotonic();
    guint64 late = guard->begin_pending ? start + LATE_NS : start;
    gboolean job_done = guard->done, last = !guard->freeze_pending;
    if (!guard->done)
        report(LOG_WARNING, "domain '%s': vmbackup died during its backup",
               vmb_domain_name(guard->domain));
    if (guard->armed)
        start_releasing(guard);
    while (vmb_units_monotonic() < start + RELEASE_NS) {
        if (guard->releasing)
            release(guard);
        if (!job_done && (job_done = end_job(guard, &late, start + LATE_MAX_NS)))
            resume_after_io_error(guard);
        if (job_done && !guard->releasing && last)
            return;
        last = job_done;
        pause_between(guard);
        if (guard->freeze_pending)
            start_releasing(guard);
    }
}

static gboolean
read_spec(Guard *guard)
{
    g_autofree char *packet = g_malloc(VMB_GUARD_PACKET + 1);
    ssize_t got = recv(VMB_GUARD_FD, packet, VMB_GUARD_PACKET, 0);
    if (got <= 0)
        return FALSE;
    packet[got] = '\0';
    const char *words[7];
    gsize at = 0;
    for (gsize i = 0; i < G_N_ELEMENTS(words); i++) {
        if (at >= (gsize)got)
            return FALSE;
        words[i] = packet + at;
        at += strlen(words[i]) + 1;
    }
    guard->uri = g_strdup(words[0]);
    guard->uuid = g_strdup(words[1]);
    guard->socket = g_strdup(words[2]);
    guard->scratch_dir = g_strdup(words[3]);
    guard->may_freeze = strcmp(words[5], "1") == 0;
    guard->may_pause = strcmp(words[6], "1") == 0;
    return g_ascii_string_to_unsigned(words[4], 10, 1, 3600 * SECOND, &guard->budget_ns, NULL);
}

static gboolean
get_ready(Guard *guard, GError **error)
{
    VmbDomainState state;
    guard->connection = vmb_connection_open(guard->uri, error);
    if (guard->connection == NULL)
        return FALSE;
    guard->domain = vmb_domain_lookup(guard->connection, guard->uuid, error);
    if (guard->domain == NULL || !vmb_domain_state(guard->domain, &state, error))
        return FALSE;
    guard->had_io_error = state.io_error;
    return vmb_fault_point("guard-connected", error);
}

/* Tells the next run that it had better wait: vmb_guard_wait_for_end(). The end of the process unlocks. */
static void
lock_run_directory(const Guard *guard)
{
    g_autofree char *directory = g_path_get_dirname(guard->socket);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        report(LOG_WARNING, "cannot lock %s: %s", directory, g_strerror(errno));
}

static void
become_independent(void)
{
    static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};
    for (gsize i = 0; i < G_N_ELEMENTS(ignored); i++)
        signal(ignored[i], SIG_IGN);
    setsid();
    openlog("vmbackup-guard", LOG_PID, LOG_DAEMON);
    const char *log = g_getenv("VMBACKUP_TEST_GUARD_LOG");
    if (log != NULL && freopen(log, "a", stderr) != NULL)
        setvbuf(stderr, NULL, _IOLBF, 0);
    /* The program's faults are not the guard's, which has its own. */
    const char *faults = g_getenv("VMBACKUP_TEST_GUARD_FAIL_AT");
    g_setenv("VMBACKUP_TEST_FAIL_AT", faults != NULL ? faults : "", TRUE);
}

static void
guard_clear(Guard *guard)
{
    vmb_domain_unref(guard->domain);
    vmb_connection_unref(guard->connection);
    g_free(guard->uri);
    g_free(guard->uuid);
    g_free(guard->socket);
    g_free(guard->scratch_dir);
}

int
vmb_guard_main(int argc, char **argv)
{
    Guard guard = {.parent = getppid()};
    g_autoptr(GError) error = NULL;
    become_independent();
    if (!read_spec(&guard))
        return 2;
    if (!get_ready(&guard, &error)) {
        g_autofree char *text = g_strdup_printf("%c%s", VMB_GUARD_ERROR, error->message);
        send(VMB_GUARD_FD, text, strlen(text), MSG_NOSIGNAL);
        guard_clear(&guard);
        return 1;
    }
    lock_run_directory(&guard);
    say(VMB_GUARD_READY);
    watch(&guard);
    clean_up(&guard);
    if (guard.acted)
        vmb_agent_reset_timeout(guard.domain);
    guard_clear(&guard);
    return 0;
}
