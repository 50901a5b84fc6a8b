/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Steps that must succeed although libvirt's daemon may be restarted in between. */
#include "virt/reconnect.h"
#include "util/log.h"
#include "util/units.h"

/* A daemon that is restarted is back within seconds; one that is not will not come for our sake. */
#define RECONNECT_NS (30 * G_GUINT64_CONSTANT(1000000000))
#define RECONNECT_PAUSE_US (250 * 1000)

/* FALSE only when the connection is there and the domain is not. */
static gboolean
reconnect(VmbDomain *domain, guint64 deadline, GError **error)
{
    while (vmb_units_monotonic() < deadline) {
        g_autoptr(GError) local = NULL;
        g_usleep(RECONNECT_PAUSE_US);
        if (vmb_connection_reopen(vmb_domain_connection(domain), &local) &&
            vmb_domain_refresh(domain, &local))
            return TRUE;
        if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
vmb_virt_reconnecting(VmbDomain *domain, VmbVirtStep step, gpointer data, GError **error)
{
    guint64 deadline = vmb_units_monotonic() + RECONNECT_NS;
    for (;;) {
        g_autoptr(GError) local = NULL;
        if (step(domain, data, &local))
            return TRUE;
        if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT) ||
            vmb_units_monotonic() >= deadline) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vmb_info("%s; connecting again", local->message);
        if (!reconnect(domain, deadline, error))
            return FALSE;
    }
}
