/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Steps that must succeed although libvirt's daemon may be restarted in between. */
#include "virt/reconnect.h"
#include "util/log.h"
#include "util/units.h"

#define RECONNECT_PAUSE_US (250 * 1000)

/* At least once. FALSE when the daemon has not come back, or the connection is there and the domain is not. */
static gboolean
reconnect(VmbDomain *domain, guint64 deadline, GError **error)
{
    for (;;) {
        g_autoptr(GError) local = NULL;
        if (vmb_connection_reopen(vmb_domain_connection(domain), &local) &&
            vmb_domain_refresh(domain, &local))
            return TRUE;
        if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT) ||
            vmb_units_monotonic() >= deadline) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        g_usleep(RECONNECT_PAUSE_US);
    }
}

gboolean
vmb_virt_reconnecting(VmbDomain *domain, VmbVirtStep step, gpointer data, GError **error)
{
    guint64 deadline = 0;
    for (;;) {
        g_autoptr(GError) local = NULL;
        if (step(domain, data, &local))
            return TRUE;
        guint64 now = vmb_units_monotonic();
        if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT) ||
            (deadline != 0 && now >= deadline)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        if (deadline == 0)
            deadline = vmb_connection_patience(vmb_domain_connection(domain));
        vmb_info("%s; connecting again", local->message);
        if (!reconnect(domain, deadline, error))
            return FALSE;
    }
}
