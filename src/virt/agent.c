/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest agent's response timeout, and the thaw with all its possible outcomes. */
#include "virt/agent.h"
#include "virt/call.h"
#include "util/log.h"

static void
set_timeout(VmbDomain *domain, int value)
{
    VMB_DOMAIN_CALL(domain);
    if (virDomainAgentSetResponseTimeout(vmb_domain_handle(domain), value, 0) < 0)
        vmb_debug("domain '%s': the agent's timeout cannot be set: %s", vmb_domain_name(domain),
                  virGetLastErrorMessage());
}

void
vmb_agent_set_timeout(VmbDomain *domain, int seconds)
{
    set_timeout(domain, seconds);
}

void
vmb_agent_reset_timeout(VmbDomain *domain)
{
    set_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
}

gboolean
vmb_agent_is_uncertain(void)
{
    g_autoptr(GError) local = NULL;
    int code = vmb_virt_error_code();
    if (code == VIR_ERR_AGENT_UNRESPONSIVE || code == VIR_ERR_AGENT_UNSYNCED ||
        code == VIR_ERR_OPERATION_TIMEOUT || vmb_call_expired(NULL))
        return TRUE;
    vmb_virt_error(&local, VMB_ERROR_FAILED, "agent");
    return g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT);
}

gboolean
vmb_agent_answers(VmbDomain *domain, GError **error)
{
    long long seconds = 0;
    unsigned int nseconds = 0;
    VMB_DOMAIN_CALL(domain);
    if (virDomainGetTime(vmb_domain_handle(domain), &seconds, &nseconds, 0) == 0 ||
        !vmb_agent_is_uncertain())
        return TRUE;
    return vmb_virt_error(error, VMB_ERROR_QUIESCE, "the guest agent of '%s' does not answer",
                          vmb_domain_name(domain));
}

/* A frozen agent refuses this question, and most others. */
static gboolean
is_thawed(VmbDomain *domain)
{
    virDomainFSInfoPtr *list = NULL;
    int n = virDomainGetFSInfo(vmb_domain_handle(domain), &list, 0);
    for (int i = 0; i < n; i++)
        virDomainFSInfoFree(list[i]);
    free(list);
    return n >= 0;
}

/* "Not running" is said of paused domains too, and those may well be frozen. */
static gboolean
is_off(VmbDomain *domain)
{
    VmbDomainState state;
    g_autoptr(GError) local = NULL;
    if (vmb_domain_state(domain, &state, &local))
        return !state.active;
    return g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN);
}

VmbThaw
vmb_agent_thaw(VmbDomain *domain, guint64 *count, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    int n = virDomainFSThaw(vmb_domain_handle(domain), NULL, 0, 0);
    *count = n > 0 ? (guint64)n : 0;
    if (n >= 0)
        return VMB_THAW_ANSWERED;
    int code = vmb_virt_error_code();
    gboolean answered = !vmb_agent_is_uncertain();
    g_autoptr(GError) local = NULL;
    vmb_virt_error(&local, VMB_ERROR_QUIESCE, "cannot thaw the domain '%s'",
                   vmb_domain_name(domain));
    if (code == VIR_ERR_NO_DOMAIN || code == VIR_ERR_ARGUMENT_UNSUPPORTED ||
        (code == VIR_ERR_OPERATION_INVALID && is_off(domain)))
        return VMB_THAW_GONE;
    if (answered && is_thawed(domain)) {
        vmb_warning("%s; yet it is thawed", local->message);
        return VMB_THAW_ANSWERED;
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return VMB_THAW_FAILED;
}
