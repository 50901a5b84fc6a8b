/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest agent's response timeout, and the thaw with all its possible outcomes. */
#include "virt/agent.h"
#include "virt/call.h"
#include "virt/domain-xml.h"
#include "util/log.h"
#include "util/units.h"

/* Less than the shortest response timeout, which is a second. */
#define AT_ONCE_NS (800 * G_GUINT64_CONSTANT(1000000))

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

gboolean
vmb_agent_find(VmbDomain *domain, gboolean *configured, gboolean *connected, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    char *xml = virDomainGetXMLDesc(vmb_domain_handle(domain), 0);
    if (xml == NULL)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot read the XML of the domain '%s'",
                              vmb_domain_name(domain));
    g_autoptr(VmbDomainInfo) info = vmb_domain_info_from_xml(xml, error);
    free(xml);
    if (info == NULL)
        return FALSE;
    *configured = info->agent_channel;
    *connected = info->agent_connected;
    return TRUE;
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
    guint64 begun = vmb_units_monotonic();
    int n = virDomainFSThaw(vmb_domain_handle(domain), NULL, 0, 0);
    *count = n > 0 ? (guint64)n : 0;
    if (n >= 0)
        return VMB_THAW_ANSWERED;
    int code = vmb_virt_error_code();
    gboolean answered = !vmb_agent_is_uncertain();
    /* One code for agents that do not answer and for those that are not there: only the former take time. */
    gboolean lost = code == VIR_ERR_AGENT_UNRESPONSIVE && vmb_units_monotonic() - begun < AT_ONCE_NS;
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
    return lost ? VMB_THAW_UNCONNECTED : VMB_THAW_FAILED;
}
