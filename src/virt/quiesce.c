/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Freezing, pausing and releasing the guest around the start of the job, with the guard behind it.
 */
#include "virt/quiesce.h"
#include "virt/agent.h"
#include "virt/backup-job.h"
#include "virt/call.h"
#include "virt/reconnect.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/units.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SECOND G_GUINT64_CONSTANT(1000000000)
/* Between two attempts to thaw. */
#define RETRY_PAUSE_US (50 * 1000)
/* So long libvirt may take to connect to a restarted agent once it can. */
#define RECONNECT_NS (5 * SECOND)
/* The agent's answer is awaited for half of the budget, so that the rest is left for a thaw. */
#define TIMEOUT_S(budget_ns) ((int)MAX((budget_ns) / 2 / SECOND, 1))

typedef enum { FREE, FROZEN, PAUSED, PAUSED_BEFORE } Held;

struct VmbQuiesce {
    VmbDomain *domain;
    VmbQuiesceMode mode;
    guint64 budget_ns;
    VmbGuard *guard;
    gboolean entered, left;
    Held held;
    char *socket;          /* of the job, or NULL */
    gboolean job_given_up; /* it was ended so that the guest could be thawed */
    gboolean timeout_set; /* of the agent: to be reset, ... */
    gboolean unanswered;  /* ... but by the guard, as the agent has not answered to the end */
    /* monotonic: when the guest must be free; set before the watchdog starts */
    guint64 deadline_ns;
    guint64 asked_ns; /* monotonic: when the freeze was asked for; 0: it was not */
    guint64 filesystems;
    guint64 ns;
    VmbQuiesced result;
    GThread *watchdog;
    int wake_fd;  /* eventfd that ends the watchdog */
    gint rescued; /* the watchdog released the guest */
};

static const char *const mode_names[] = {"auto", "require", "pause", "none"};

const char *
vmb_quiesce_mode_name(VmbQuiesceMode mode)
{
    g_return_val_if_fail(mode < G_N_ELEMENTS(mode_names), "?");
    return mode_names[mode];
}

gboolean
vmb_quiesce_mode_parse(const char *text, VmbQuiesceMode *mode, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(mode_names); i++) {
        if (strcmp(text, mode_names[i]) == 0) {
            *mode = (VmbQuiesceMode)i;
            return TRUE;
        }
    }
    return vmb_error_set(
        error, VMB_ERROR_USAGE,
        "'%s' is no way to quiesce a guest; there are auto, require, pause and none", text);
}

VmbQuiesce *
vmb_quiesce_new(VmbDomain *domain, VmbQuiesceMode mode, guint64 budget_ns, VmbGuard *guard)
{
    VmbQuiesce *quiesce = g_new0(VmbQuiesce, 1);
    quiesce->domain = vmb_domain_ref(domain);
    quiesce->mode = mode;
    quiesce->budget_ns = budget_ns;
    quiesce->guard = guard;
    quiesce->wake_fd = -1;
    return quiesce;
}

void
vmb_quiesce_set_job(VmbQuiesce *quiesce, const char *socket)
{
    g_free(quiesce->socket);
    quiesce->socket = g_strdup(socket);
}

/* One attempt to let go of the guest. *@count: filesystems thawed, or 1 if it was resumed. */
static VmbThaw
release_once(VmbQuiesce *quiesce, guint64 *count, GError **error)
{
    VmbDomainState state;
    *count = 0;
    if (quiesce->held != PAUSED)
        return vmb_agent_thaw(quiesce->domain, count, error);
    if (!vmb_domain_state(quiesce->domain, &state, error))
        return VMB_THAW_FAILED;
    if (!state.paused)
        return VMB_THAW_ANSWERED;
    *count = 1;
    return vmb_domain_resume(quiesce->domain, error) ? VMB_THAW_ANSWERED : VMB_THAW_FAILED;
}

/* The job stands between libvirt and an agent that was restarted, and so between us and the thaw. */
static void
give_up_job(VmbQuiesce *quiesce)
{
    gboolean ended = FALSE;
    g_autoptr(GError) error = NULL;
    if (quiesce->socket == NULL || quiesce->job_given_up)
        return;
    if (!vmb_backup_job_end_by_socket(quiesce->domain, quiesce->socket, &ended, &error)) {
        vmb_warning("%s", error->message);
        return;
    }
    quiesce->job_given_up = ended;
    if (ended)
        quiesce->deadline_ns = MAX(quiesce->deadline_ns, vmb_units_monotonic() + RECONNECT_NS);
}

/* Asks until the end of the budget, at least once. @leaving: begin has returned. */
static gboolean
release(VmbQuiesce *quiesce, gboolean leaving, guint64 *count, GError **error)
{
    for (;;) {
        g_autoptr(GError) local = NULL;
        VmbThaw result = release_once(quiesce, count, &local);
        if (result == VMB_THAW_ANSWERED || result == VMB_THAW_GONE)
            return TRUE;
        if (result == VMB_THAW_UNCONNECTED && leaving)
            give_up_job(quiesce);
        if (g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT) &&
            vmb_connection_reopen(vmb_domain_connection(quiesce->domain), NULL))
            vmb_domain_refresh(quiesce->domain, NULL);
        if (vmb_units_monotonic() + RETRY_PAUSE_US * 1000 >= quiesce->deadline_ns) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        g_usleep(RETRY_PAUSE_US);
    }
}

static void
rescue(VmbQuiesce *quiesce)
{
    guint64 count = 0;
    g_autoptr(GError) error = NULL;
    g_atomic_int_set(&quiesce->rescued, 1);
    if (!release(quiesce, FALSE, &count, &error))
        vmb_warning("%s", error->message);
}

/* While the main thread is inside libvirt's begin, which may block, only this thread can notice
 * that the guard has died and nobody else would thaw. The freeze itself may still be on its way, so
 * at the deadline it thaws once more. */
static gpointer
watch_guard(gpointer data)
{
    VmbQuiesce *quiesce = data;
    struct pollfd pfds[] = {{quiesce->wake_fd, POLLIN, 0},
                            {vmb_guard_descriptor(quiesce->guard), 0, 0}};
    while (poll(pfds, 2, -1) < 0 && errno == EINTR)
        continue;
    if (pfds[0].revents != 0)
        return NULL;
    vmb_warning("domain '%s': the freeze guard has died; releasing the guest at once",
                vmb_domain_name(quiesce->domain));
    rescue(quiesce);
    guint64 now = vmb_units_monotonic();
    int ms = now < quiesce->deadline_ns ? (int)((quiesce->deadline_ns - now) / 1000000) : 0;
    if (poll(pfds, 1, ms) == 0)
        rescue(quiesce);
    return NULL;
}

/* The last steps before the freeze or pause is asked for. */
static gboolean
arm(VmbQuiesce *quiesce, Held held, GError **error)
{
    quiesce->held = held;
    quiesce->deadline_ns = vmb_units_monotonic() + quiesce->budget_ns;
    quiesce->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (quiesce->wake_fd < 0)
        return vmb_error_errno(error, errno, "cannot make an event descriptor");
    quiesce->watchdog = g_thread_try_new("guard-watch", watch_guard, quiesce, error);
    if (quiesce->watchdog == NULL || !vmb_guard_freezing(quiesce->guard, error))
        return FALSE;
    quiesce->asked_ns = vmb_units_monotonic();
    return vmb_fault_point("freeze-asked", error);
}

static void
stop_watchdog(VmbQuiesce *quiesce)
{
    if (quiesce->watchdog != NULL) {
        eventfd_write(quiesce->wake_fd, 1);
        g_thread_join(g_steal_pointer(&quiesce->watchdog));
    }
    if (quiesce->wake_fd >= 0)
        close(quiesce->wake_fd);
    quiesce->wake_fd = -1;
}

/* The guest is free, or, after @stuck, for the guard to free. */
static void
tell_guard(VmbQuiesce *quiesce, gboolean stuck)
{
    g_autoptr(GError) local = NULL;
    quiesce->unanswered = stuck;
    if (stuck)
        vmb_guard_detach(quiesce->guard);
    else if (!vmb_guard_thawed(quiesce->guard, &local))
        vmb_debug("%s", local->message);
}

/* What --quiesce=require makes of a reason, after it was added. */
static gboolean
weaker(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    const VmbReason *reason = g_ptr_array_index(reasons, reasons->len - 1);
    if (quiesce->mode != VMB_QUIESCE_REQUIRE)
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_QUIESCE, "domain '%s': %s (--quiesce=require)",
                         vmb_domain_name(quiesce->domain), reason->message);
}

/* After a freeze that has not been answered, or was answered for no filesystem. */
static void
undo_freeze(VmbQuiesce *quiesce, GPtrArray *reasons)
{
    guint64 count = 0;
    g_autoptr(GError) local = NULL;
    gboolean released = release(quiesce, FALSE, &count, &local);
    tell_guard(quiesce, !released);
    if (!released)
        vmb_reason_add(
            reasons, VMB_REASON_THAW_DELAYED, NULL,
            "the guest may still freeze late, and does not answer (%s); the guard goes on "
            "asking it to thaw",
            local->message);
}

static gboolean
freeze_failed(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    gboolean uncertain = vmb_agent_is_uncertain();
    g_autoptr(GError) local = NULL;
    vmb_virt_error(&local, VMB_ERROR_QUIESCE, "the guest could not be frozen");
    if (uncertain) {
        undo_freeze(quiesce, reasons);
        vmb_reason_add(reasons, VMB_REASON_AGENT_TIMEOUT, NULL,
                       "%s; see that qemu-guest-agent works in the guest, or allow more time with "
                       "--freeze-timeout",
                       local->message);
        return weaker(quiesce, reasons, error);
    }
    /* The agent has answered, and undone its own half-made freeze. A guest that another program
     * froze is that program's to thaw. */
    tell_guard(quiesce, FALSE);
    vmb_reason_add(reasons, VMB_REASON_FREEZE_FAILED, NULL,
                   "%s; if no other backup is at work, `virsh domfsthaw %s` ends a freeze that was "
                   "left behind",
                   local->message, vmb_domain_name(quiesce->domain));
    return weaker(quiesce, reasons, error);
}

/* libvirt cannot connect to an agent that was restarted as long as a job is active: better begin none. */
static gboolean
check_agent_stays(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    gboolean configured = FALSE, connected = FALSE;
    if (!vmb_agent_find(quiesce->domain, &configured, &connected, NULL) || connected)
        return TRUE;
    quiesce->held = FREE;
    undo_freeze(quiesce, reasons);
    vmb_reason_add(reasons, VMB_REASON_FREEZE_FAILED, NULL,
                   "the guest agent ended or was restarted while the guest was frozen");
    return weaker(quiesce, reasons, error);
}

static gboolean
freeze(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    if (!arm(quiesce, FROZEN, error))
        return FALSE;
    VMB_DOMAIN_CALL(quiesce->domain);
    int n = virDomainFSFreeze(vmb_domain_handle(quiesce->domain), NULL, 0, 0);
    if (n > 0) {
        quiesce->filesystems = (guint64)n;
        return vmb_fault_point("frozen", error) && check_agent_stays(quiesce, reasons, error);
    }
    quiesce->held = FREE;
    if (n < 0)
        return freeze_failed(quiesce, reasons, error);
    undo_freeze(quiesce, reasons);
    vmb_reason_add(reasons, VMB_REASON_FREEZE_EMPTY, NULL,
                   "the guest agent froze no filesystem at all");
    return weaker(quiesce, reasons, error);
}

static gboolean
pause_domain(VmbQuiesce *quiesce, GError **error)
{
    if (!arm(quiesce, PAUSED, error))
        return FALSE;
    g_autoptr(GError) local = NULL;
    if (!vmb_domain_suspend(quiesce->domain, &local))
        return vmb_error_set(error, VMB_ERROR_QUIESCE, "%s", local->message);
    return vmb_fault_point("frozen", error);
}

/* What is known of the guest before anything is asked of it. */
typedef struct {
    VmbQuiesce *quiesce;
    VmbDomainState state;
    gboolean configured, connected;
    GError *hangs; /* why the agent, although connected, is not asked to freeze */
} Guest;

static void
guest_clear(Guest *guest)
{
    g_clear_error(&guest->hangs);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Guest, guest_clear)

/* May be repeated after a restart of the daemon: it changes nothing but the agent's timeout. */
static gboolean
look_step(VmbDomain *domain, gpointer data, GError **error)
{
    Guest *guest = data;
    VmbQuiesce *quiesce = guest->quiesce;
    if (!vmb_domain_state(domain, &guest->state, error))
        return FALSE;
    if (!guest->state.active || guest->state.paused || quiesce->mode == VMB_QUIESCE_PAUSE)
        return TRUE;
    if (!vmb_agent_find(domain, &guest->configured, &guest->connected, error))
        return FALSE;
    if (!guest->connected)
        return TRUE;
    quiesce->timeout_set = TRUE;
    vmb_agent_set_timeout(domain, TIMEOUT_S(quiesce->budget_ns));
    g_clear_error(&guest->hangs);
    if (!vmb_agent_answers(domain, &guest->hangs) &&
        g_error_matches(guest->hangs, VMB_ERROR, VMB_ERROR_LIBVIRT)) {
        g_propagate_error(error, g_steal_pointer(&guest->hangs));
        return FALSE;
    }
    return TRUE;
}

/* Freezes unless it is clear beforehand that it cannot be. */
static gboolean
try_freeze(VmbQuiesce *quiesce, const Guest *guest, GPtrArray *reasons, GError **error)
{
    if (guest->connected && guest->hangs == NULL)
        return freeze(quiesce, reasons, error);
    if (guest->hangs != NULL)
        vmb_reason_add(reasons, VMB_REASON_AGENT_TIMEOUT, NULL,
                       "%s; so it is not asked to freeze, which it might do at any later time; see "
                       "that qemu-guest-agent works in the guest (if it does, libvirt has lost it: "
                       "restart it, or libvirt's daemon), or allow more time with --freeze-timeout",
                       guest->hangs->message);
    else if (guest->configured)
        vmb_reason_add(reasons, VMB_REASON_AGENT_ABSENT, NULL,
                       "the guest agent is not connected, so nothing is frozen; install and start "
                       "qemu-guest-agent in the guest, or restart it if it runs there (libvirt loses "
                       "an agent that was restarted during an earlier job)");
    else
        vmb_reason_add(reasons, VMB_REASON_AGENT_ABSENT, NULL,
                       "the domain has no channel for a guest agent, so nothing is frozen; add "
                       "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>"
                       "</channel> by `virsh edit %s` and qemu-guest-agent in the guest",
                       vmb_domain_name(quiesce->domain));
    return weaker(quiesce, reasons, error);
}

static gboolean
enter(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    g_auto(Guest) guest = {.quiesce = quiesce};
    if (quiesce->mode == VMB_QUIESCE_NONE) {
        vmb_reason_add(reasons, VMB_REASON_QUIESCE_NONE, NULL,
                       "the guest is not quiesced, as asked");
        return TRUE;
    }
    if (!vmb_virt_reconnecting(quiesce->domain, look_step, &guest, error))
        return FALSE;
    if (!guest.state.active)
        return vmb_error_set(error, VMB_ERROR_DOMAIN, "the domain '%s' is shut off",
                             vmb_domain_name(quiesce->domain));
    if (guest.state.paused) {
        vmb_reason_add(reasons, VMB_REASON_DOMAIN_PAUSED, NULL,
                       quiesce->mode == VMB_QUIESCE_REQUIRE
                           ? "the domain is paused, so its agent cannot freeze it; resume it, or "
                             "take another way than --quiesce=require"
                           : "the domain is paused already, so there is nothing to freeze");
        quiesce->held = PAUSED_BEFORE;
        return weaker(quiesce, reasons, error);
    }
    if (quiesce->mode == VMB_QUIESCE_PAUSE)
        return pause_domain(quiesce, error);
    return try_freeze(quiesce, &guest, reasons, error);
}

gboolean
vmb_quiesce_enter(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    g_return_val_if_fail(!quiesce->entered, FALSE);
    quiesce->entered = TRUE;
    vmb_guard_beginning(quiesce->guard);
    if (enter(quiesce, reasons, error))
        return TRUE;
    vmb_quiesce_leave(quiesce, reasons, NULL);
    return FALSE;
}

static gboolean
judge(VmbQuiesce *quiesce, gboolean fired, guint64 count, GPtrArray *reasons, GError **error)
{
    if (fired) {
        g_autofree char *budget = vmb_units_format_duration(quiesce->budget_ns);
        vmb_reason_add(reasons, VMB_REASON_FREEZE_BUDGET, NULL,
                       "the job had not begun when the freeze budget of %s was over; the guest was "
                       "released before",
                       budget);
        return weaker(quiesce, reasons, error);
    }
    if (g_atomic_int_get(&quiesce->rescued) || count == 0) {
        vmb_reason_add(reasons, VMB_REASON_THAWED_BY_ITSELF, NULL,
                       "the guest was no longer %s when the job had begun",
                       quiesce->held == PAUSED ? "paused" : "frozen");
        return weaker(quiesce, reasons, error);
    }
    if (quiesce->held == FROZEN && count < quiesce->filesystems) {
        vmb_reason_add(reasons, VMB_REASON_THAWED_BY_ITSELF, NULL,
                       "only %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                       " filesystems were still frozen when the job had begun",
                       count, quiesce->filesystems);
        return weaker(quiesce, reasons, error);
    }
    quiesce->result = quiesce->held == PAUSED ? VMB_QUIESCED_PAUSED : VMB_QUIESCED_FILESYSTEMS;
    return TRUE;
}

static gboolean
lost_agent(VmbQuiesce *quiesce, gboolean released, GPtrArray *reasons, GError **error)
{
    vmb_reason_add(reasons, VMB_REASON_THAW_DELAYED, NULL,
                   "the guest agent ended or was restarted while the guest was frozen, and libvirt "
                   "connects to it again only without a job; the job was given up for that, and %s",
                   released ? "the guest is thawed"
                            : "the guard goes on asking until it is thawed; if libvirt has lost the "
                              "agent, a restart of its daemon finds it again (guests run on)");
    return vmb_error_set(error,
                         quiesce->mode == VMB_QUIESCE_REQUIRE ? VMB_ERROR_QUIESCE : VMB_ERROR_FAILED,
                         "domain '%s': the backup was given up to thaw the guest, whose agent was "
                         "lost in the freeze",
                         vmb_domain_name(quiesce->domain));
}

/* Nothing is between the return of begin and the release but one look at the guard's word. */
static gboolean
leave_held(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    guint64 count = 0;
    g_autoptr(GError) local = NULL;
    gboolean fired = vmb_guard_fired(quiesce->guard);
    gboolean released = release(quiesce, TRUE, &count, &local);
    quiesce->ns = vmb_units_monotonic() - quiesce->asked_ns;
    tell_guard(quiesce, !released);
    stop_watchdog(quiesce);
    if (!vmb_fault_point("thawed", error))
        return FALSE;
    if (quiesce->job_given_up)
        return lost_agent(quiesce, released, reasons, error);
    if (released)
        return judge(quiesce, fired, count, reasons, error);
    vmb_reason_add(reasons, VMB_REASON_THAW_DELAYED, NULL,
                   "%s; the guard goes on asking until it is done", local->message);
    return weaker(quiesce, reasons, error);
}

gboolean
vmb_quiesce_leave(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error)
{
    gboolean ok = TRUE;
    if (!quiesce->entered || quiesce->left)
        return TRUE;
    quiesce->left = TRUE;
    vmb_guard_begun(quiesce->guard);
    if (quiesce->held == FROZEN || quiesce->held == PAUSED)
        ok = leave_held(quiesce, reasons, error);
    else if (!quiesce->unanswered)
        tell_guard(quiesce, FALSE);
    VmbDomainState state;
    if (quiesce->held == PAUSED_BEFORE && quiesce->mode == VMB_QUIESCE_PAUSE &&
        vmb_domain_state(quiesce->domain, &state, NULL) && state.paused)
        quiesce->result = VMB_QUIESCED_PAUSED;
    stop_watchdog(quiesce);
    if (quiesce->timeout_set && !quiesce->unanswered)
        vmb_agent_reset_timeout(quiesce->domain);
    return ok;
}

void
vmb_quiesce_free(VmbQuiesce *quiesce)
{
    if (quiesce == NULL)
        return;
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    g_autoptr(GError) local = NULL;
    if (!vmb_quiesce_leave(quiesce, reasons, &local))
        vmb_info("%s", local->message);
    vmb_domain_unref(quiesce->domain);
    g_free(quiesce->socket);
    g_free(quiesce);
}

VmbQuiesced
vmb_quiesce_result(VmbQuiesce *quiesce, guint64 *filesystems, guint64 *ns)
{
    if (filesystems != NULL)
        *filesystems = quiesce->filesystems;
    if (ns != NULL)
        *ns = quiesce->ns;
    return quiesce->result;
}

gboolean
vmb_quiesce_thaw_leftover(VmbDomain *domain, int timeout_s, gboolean *was_frozen, GError **error)
{
    guint64 count = 0;
    vmb_agent_set_timeout(domain, timeout_s);
    VmbThaw thaw = vmb_agent_thaw(domain, &count, error);
    vmb_agent_reset_timeout(domain);
    *was_frozen = count > 0;
    return thaw == VMB_THAW_ANSWERED || thaw == VMB_THAW_GONE;
}
