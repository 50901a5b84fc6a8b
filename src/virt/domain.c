/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One libvirt domain: looking it up, its state, pausing it. */
#include "virt/domain.h"
#include "virt/call.h"

struct VmbDomain {
    gatomicrefcount refs;
    VmbConnection *connection;
    char *name;
    char *uuid;
    GMutex lock;
    virDomainPtr handle;
    GPtrArray *old; /* handles from before a refresh, which other threads may still hold */
};

static void
free_handle(gpointer handle)
{
    virDomainFree(handle);
}

static virDomainPtr
look_up(VmbConnection *connection, const char *name_or_uuid)
{
    virConnectPtr handle = vmb_connection_handle(connection);
    virDomainPtr domain = NULL;
    if (g_uuid_string_is_valid(name_or_uuid))
        domain = virDomainLookupByUUIDString(handle, name_or_uuid);
    if (domain == NULL &&
        (!g_uuid_string_is_valid(name_or_uuid) || vmb_virt_error_code() == VIR_ERR_NO_DOMAIN))
        domain = virDomainLookupByName(handle, name_or_uuid);
    return domain;
}

VmbDomain *
vmb_domain_lookup(VmbConnection *connection, const char *name_or_uuid, GError **error)
{
    VMB_CONNECTION_CALL(connection);
    virDomainPtr handle = look_up(connection, name_or_uuid);
    if (handle == NULL) {
        if (vmb_virt_error_code() == VIR_ERR_NO_DOMAIN)
            vmb_error_set(
                error, VMB_ERROR_DOMAIN,
                "there is no domain '%s' at %s; `virsh -c %s list --all` shows what there is",
                name_or_uuid, vmb_connection_uri(connection), vmb_connection_uri(connection));
        else
            vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot look up the domain '%s'", name_or_uuid);
        return NULL;
    }
    char uuid[VIR_UUID_STRING_BUFLEN];
    if (virDomainGetUUIDString(handle, uuid) < 0) {
        vmb_virt_error(error, VMB_ERROR_DOMAIN, "the domain '%s' tells no UUID", name_or_uuid);
        virDomainFree(handle);
        return NULL;
    }
    VmbDomain *domain = g_new0(VmbDomain, 1);
    g_atomic_ref_count_init(&domain->refs);
    domain->connection = vmb_connection_ref(connection);
    domain->name = g_strdup(virDomainGetName(handle));
    domain->uuid = g_ascii_strdown(uuid, -1);
    g_mutex_init(&domain->lock);
    domain->handle = handle;
    domain->old = g_ptr_array_new_with_free_func(free_handle);
    return domain;
}

VmbDomain *
vmb_domain_ref(VmbDomain *domain)
{
    g_atomic_ref_count_inc(&domain->refs);
    return domain;
}

void
vmb_domain_unref(VmbDomain *domain)
{
    if (domain == NULL || !g_atomic_ref_count_dec(&domain->refs))
        return;
    g_ptr_array_unref(domain->old);
    virDomainFree(domain->handle);
    vmb_connection_unref(domain->connection);
    g_mutex_clear(&domain->lock);
    g_free(domain->name);
    g_free(domain->uuid);
    g_free(domain);
}

virDomainPtr
vmb_domain_handle(VmbDomain *domain)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&domain->lock);
    return domain->handle;
}

VmbConnection *
vmb_domain_connection(VmbDomain *domain)
{
    return domain->connection;
}

const char *
vmb_domain_name(VmbDomain *domain)
{
    return domain->name;
}

const char *
vmb_domain_uuid(VmbDomain *domain)
{
    return domain->uuid;
}

gboolean
vmb_domain_refresh(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virDomainPtr handle =
        virDomainLookupByUUIDString(vmb_connection_handle(domain->connection), domain->uuid);
    if (handle == NULL)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN, "the domain '%s' (%s) cannot be found again",
                              domain->name, domain->uuid);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&domain->lock);
    g_ptr_array_add(domain->old, domain->handle);
    domain->handle = handle;
    return TRUE;
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *
vmb_domain_list(VmbConnection *connection, gboolean active_only, GError **error)
{
    VMB_CONNECTION_CALL(connection);
    virDomainPtr *domains = NULL;
    int n = virConnectListAllDomains(vmb_connection_handle(connection), &domains,
                                     active_only ? VIR_CONNECT_LIST_DOMAINS_ACTIVE : 0);
    if (n < 0) {
        vmb_virt_error(error, VMB_ERROR_LIBVIRT, "cannot list the domains of %s",
                       vmb_connection_uri(connection));
        return NULL;
    }
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (int i = 0; i < n; i++) {
        g_ptr_array_add(names, g_strdup(virDomainGetName(domains[i])));
        virDomainFree(domains[i]);
    }
    free(domains);
    g_ptr_array_sort(names, compare_names);
    return names;
}

gboolean
vmb_domain_state(VmbDomain *domain, VmbDomainState *state, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virDomainPtr handle = vmb_domain_handle(domain);
    int current = 0, reason = 0;
    *state = (VmbDomainState){0};
    if (virDomainGetState(handle, &current, &reason, 0) < 0)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot read the state of the domain '%s'",
                              domain->name);
    int active = virDomainIsActive(handle);
    int persistent = virDomainIsPersistent(handle);
    if (active < 0 || persistent < 0)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot read the state of the domain '%s'",
                              domain->name);
    /* QEMU is ending, but libvirt may need half a minute more to tidy up after it. */
    state->active = active > 0 && current != VIR_DOMAIN_SHUTDOWN;
    state->persistent = persistent > 0;
    state->paused = state->active && current == VIR_DOMAIN_PAUSED;
    state->io_error = state->paused && reason == VIR_DOMAIN_PAUSED_IOERROR;
    return TRUE;
}

gboolean
vmb_domain_suspend(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    if (virDomainSuspend(vmb_domain_handle(domain)) == 0)
        return TRUE;
    return vmb_virt_error(error, VMB_ERROR_FAILED, "cannot pause the domain '%s'", domain->name);
}

gboolean
vmb_domain_resume(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    if (virDomainResume(vmb_domain_handle(domain)) == 0)
        return TRUE;
    return vmb_virt_error(error, VMB_ERROR_FAILED,
                          "cannot resume the domain '%s' (`virsh resume %s` does it by hand)",
                          domain->name, domain->name);
}
