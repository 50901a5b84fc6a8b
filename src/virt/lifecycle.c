/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Notices when a domain that is shut off is started, or its definition changes. */
#include "virt/lifecycle.h"
#include "virt/call.h"

gboolean
vmb_shut_off_read(VmbDomain *domain, VmbShutOff *how, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virDomainPtr handle = vmb_domain_handle(domain);
    int state = 0, reason = 0, saved = virDomainHasManagedSaveImage(handle, 0);
    if (saved < 0 || virDomainGetState(handle, &state, &reason, 0) < 0)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot ask how the domain '%s' was shut off",
                              vmb_domain_name(domain));
    how->saved = saved > 0;
    how->migrated = state == VIR_DOMAIN_SHUTOFF && reason == VIR_DOMAIN_SHUTOFF_MIGRATED;
    return TRUE;
}

char *
vmb_shut_off_xml(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    char *raw = virDomainGetXMLDesc(vmb_domain_handle(domain),
                                    VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
    char *xml = g_strdup(raw);
    free(raw);
    if (xml == NULL)
        vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot read the XML of the domain '%s'",
                       vmb_domain_name(domain));
    return xml;
}

/* libvirt may call back until it has released this, which is later than the deregistration. */
typedef struct {
    gatomicrefcount refs;
    gint events;
} Seen;

struct VmbLifecycle {
    VmbDomain *domain;
    virConnectPtr handle; /* the connection that it is registered with */
    int id;
    Seen *seen;
};

static void
seen_unref(void *data)
{
    Seen *seen = data;
    if (g_atomic_ref_count_dec(&seen->refs))
        g_free(seen);
}

static int
note(virConnectPtr handle, virDomainPtr domain, int event, int detail, void *data)
{
    g_atomic_int_inc(&((Seen *)data)->events);
    return 0;
}

VmbLifecycle *
vmb_lifecycle_watch(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virConnectPtr handle = vmb_connection_handle(vmb_domain_connection(domain));
    Seen *seen = g_new0(Seen, 1);
    g_atomic_ref_count_init(&seen->refs);
    g_atomic_ref_count_inc(&seen->refs);
    int id = virConnectDomainEventRegisterAny(
        handle, vmb_domain_handle(domain), VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        VIR_DOMAIN_EVENT_CALLBACK(note), seen, seen_unref);
    if (id < 0) {
        vmb_virt_error(error, VMB_ERROR_LIBVIRT, "cannot watch for a start of the domain '%s'",
                       vmb_domain_name(domain));
        g_free(seen);
        return NULL;
    }
    VmbLifecycle *watch = g_new0(VmbLifecycle, 1);
    watch->domain = vmb_domain_ref(domain);
    watch->handle = handle;
    virConnectRef(handle);
    watch->id = id;
    watch->seen = seen;
    return watch;
}

gboolean
vmb_lifecycle_stirred(VmbLifecycle *watch)
{
    return g_atomic_int_get(&watch->seen->events) > 0 ||
           vmb_connection_handle(vmb_domain_connection(watch->domain)) != watch->handle ||
           virConnectIsAlive(watch->handle) != 1;
}

void
vmb_lifecycle_free(VmbLifecycle *watch)
{
    if (watch == NULL)
        return;
    {
        VMB_DOMAIN_CALL(watch->domain);
        virConnectDomainEventDeregisterAny(watch->handle, watch->id);
        virConnectClose(watch->handle);
    }
    vmb_domain_unref(watch->domain);
    seen_unref(watch->seen);
    g_free(watch);
}
