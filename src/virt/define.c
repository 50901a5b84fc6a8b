/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Defining and starting a restored domain, and taking that back. */
#include "virt/define.h"
#include "virt/call.h"
#include "virt/tpm.h"
#include "virt/xml.h"
#include "util/log.h"

/* Of a start: libvirt may have to wait for storage, and reserves the guest's memory. */
#define START_NS (180 * G_GUINT64_CONSTANT(1000000000))

struct VmbDefined {
    VmbConnection *connection;
    virDomainPtr domain;
    gboolean keep;
};

static gboolean
exists(virDomainPtr domain)
{
    if (domain == NULL)
        return FALSE;
    virDomainFree(domain);
    return TRUE;
}

gboolean
vmb_define_conflict(VmbConnection *connection, const char *name, const char *uuid, char **what,
                    GError **error)
{
    VMB_CONNECTION_CALL(connection);
    virConnectPtr handle = vmb_connection_handle(connection);
    *what = NULL;
    if (name != NULL && exists(virDomainLookupByName(handle, name)))
        *what = g_strdup_printf("a domain named %s exists already", name);
    else if (name != NULL && vmb_virt_error_code() != VIR_ERR_NO_DOMAIN)
        return vmb_virt_error(error, VMB_ERROR_FAILED, "cannot look for a domain %s", name);
    else if (uuid != NULL && exists(virDomainLookupByUUIDString(handle, uuid)))
        *what = g_strdup_printf("a domain with the UUID %s exists already", uuid);
    else if (uuid != NULL && vmb_virt_error_code() != VIR_ERR_NO_DOMAIN)
        return vmb_virt_error(error, VMB_ERROR_FAILED, "cannot look for the domain %s", uuid);
    return TRUE;
}

gboolean
vmb_define_identity(const char *xml, char **name, char **uuid, GError **error)
{
    g_autoptr(VmbXml) document =
        vmb_xml_parse(xml, "domain", "the domain's XML", VMB_ERROR_DAMAGE, error);
    if (document == NULL)
        return FALSE;
    *name = vmb_xml_text(vmb_xml_child(xmlDocGetRootElement(document), "name"));
    *uuid = vmb_xml_text(vmb_xml_child(xmlDocGetRootElement(document), "uuid"));
    return TRUE;
}

VmbDefined *
vmb_defined_new(VmbConnection *connection, const char *xml, GError **error)
{
    VMB_CONNECTION_CALL(connection);
    virDomainPtr domain =
        virDomainDefineXMLFlags(vmb_connection_handle(connection), xml, VIR_DOMAIN_DEFINE_VALIDATE);
    if (domain == NULL) {
        vmb_virt_error(error, VMB_ERROR_FAILED, "libvirt refuses to define the restored domain");
        return NULL;
    }
    VmbDefined *defined = g_new0(VmbDefined, 1);
    defined->connection = vmb_connection_ref(connection);
    defined->domain = domain;
    return defined;
}

const char *
vmb_defined_name(VmbDefined *defined)
{
    return virDomainGetName(defined->domain);
}

char *
vmb_defined_tpm_dir(VmbDefined *defined, const char *uri, const char *xml)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    g_autoptr(VmbXml) document =
        vmb_xml_parse(xml, "domain", "the domain's XML", VMB_ERROR_DAMAGE, NULL);
    if (document == NULL || virDomainGetUUIDString(defined->domain, uuid) < 0)
        return NULL;
    return vmb_tpm_state_dir(uri, uuid,
                             vmb_xml_child(xmlDocGetRootElement(document), "devices"));
}

gboolean
vmb_defined_start(VmbDefined *defined, GError **error)
{
    g_autoptr(VmbCall) call G_GNUC_UNUSED =
        vmb_call_begin(vmb_connection_socket(defined->connection), START_NS);
    return virDomainCreate(defined->domain) == 0 ||
           vmb_virt_error(error, VMB_ERROR_FAILED, "domain %s does not start",
                          vmb_defined_name(defined));
}

void
vmb_defined_keep(VmbDefined *defined)
{
    defined->keep = TRUE;
}

void
vmb_defined_free(VmbDefined *defined)
{
    if (defined == NULL)
        return;
    VmbCall *call = vmb_call_begin(vmb_connection_socket(defined->connection), VMB_CALL_NS);
    /* NVRAM and TPM state were ours to restore, so they stay for the next try. */
    if (!defined->keep &&
        virDomainUndefineFlags(defined->domain, VIR_DOMAIN_UNDEFINE_KEEP_NVRAM) < 0)
        vmb_warning("the domain %s could not be undefined again", vmb_defined_name(defined));
    vmb_call_end(call);
    virDomainFree(defined->domain);
    vmb_connection_unref(defined->connection);
    g_free(defined);
}
