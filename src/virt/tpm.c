/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where libvirt keeps the state of an emulated TPM. */
#include "virt/tpm.h"

#include <string.h>

#define SYSTEM_TPM_DIR "/var/lib/libvirt/swtpm"

char *
vmb_tpm_state_dir(const char *uri, const char *uuid, xmlNode *devices)
{
    xmlNode *backend = vmb_xml_child(vmb_xml_child(devices, "tpm"), "backend");
    if (!vmb_xml_attribute_is(backend, "type", "emulator"))
        return NULL;
    char *explicit_path = vmb_xml_attribute(vmb_xml_child(backend, "source"), "path");
    if (explicit_path != NULL)
        return explicit_path;
    const char *version = vmb_xml_attribute_is(backend, "version", "1.2") ? "tpm1.2" : "tpm2";
    g_autoptr(GUri) parsed =
        g_uri_parse(uri, G_URI_FLAGS_NON_DNS | G_URI_FLAGS_PARSE_RELAXED, NULL);
    if (parsed == NULL || strcmp(g_uri_get_path(parsed), "/session") != 0)
        return g_build_filename(SYSTEM_TPM_DIR, uuid, version, NULL);
    return g_build_filename(g_get_user_config_dir(), "libvirt", "qemu", "swtpm", uuid, version,
                            NULL);
}
