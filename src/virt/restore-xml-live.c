/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Takes out of a live domain XML what only holds while that domain runs. */
#include "virt/restore-xml-live.h"

#include <string.h>

/* A path that libvirt makes up below its own directories, such as
 * /var/lib/libvirt/qemu/channel/target/domain-1-web01/org.qemu.guest_agent.0. */
static gboolean
is_generated(const char *path)
{
    return path != NULL && strstr(path, "/libvirt/qemu/") != NULL && strstr(path, "/..") == NULL &&
           (strstr(path, "/channel/") != NULL || strstr(path, "/domain-") != NULL);
}

static void
strip_alias(xmlNode *device)
{
    xmlNode *next = NULL;
    for (xmlNode *n = vmb_node_child(device, "alias"); n != NULL; n = next) {
        next = vmb_node_next(n, "alias");
        g_autofree char *name = vmb_node_get(n, "name");
        if (name == NULL || !g_str_has_prefix(name, "ua-"))
            vmb_node_remove(n);
    }
}

static void
strip_chardev(xmlNode *device)
{
    xmlNode *source = vmb_node_child(device, "source");
    xmlNode *target = vmb_node_child(device, "target");
    vmb_node_unset(device, "tty");
    if (target != NULL)
        vmb_node_unset(target, "state");
    if (source == NULL)
        return;
    g_autofree char *path = vmb_node_get(source, "path");
    gboolean pty = vmb_node_has_value(device, "type", "pty");
    gboolean channel = vmb_node_is(device, "channel") &&
                       vmb_node_has_value(device, "type", "unix") &&
                       vmb_node_has_value(source, "mode", "bind");
    if (pty || (channel && is_generated(path)))
        vmb_node_unset(source, "path");
    vmb_node_remove_children(source, "seclabel");
    if (source->properties == NULL && vmb_node_child(source, NULL) == NULL)
        vmb_node_remove(source);
}

static gboolean
is_generated_interface(const char *name)
{
    static const char *const prefixes[] = {"vnet", "macvtap", "macvlan"};
    for (gsize i = 0; name != NULL && i < G_N_ELEMENTS(prefixes); i++)
        if (g_str_has_prefix(name, prefixes[i]))
            return TRUE;
    return FALSE;
}

static void
strip_interface(xmlNode *device)
{
    xmlNode *target = vmb_node_child(device, "target");
    xmlNode *source = vmb_node_child(device, "source");
    g_autofree char *name = vmb_node_get(target, "dev");
    if (is_generated_interface(name)) {
        vmb_node_unset(target, "dev");
        if (target->properties == NULL)
            vmb_node_remove(target);
    }
    if (source == NULL)
        return;
    vmb_node_unset(source, "portid");
    if (vmb_node_has_value(device, "type", "network"))
        vmb_node_unset(source, "bridge");
}

static void
strip_graphics(xmlNode *device)
{
    g_autofree char *path = vmb_node_get(device, "socket");
    if (is_generated(path))
        vmb_node_unset(device, "socket");
    if (vmb_node_has_value(device, "autoport", "yes")) {
        vmb_node_unset(device, "port");
        vmb_node_unset(device, "tlsPort");
    }
    for (xmlNode *n = vmb_node_child(device, "listen"); n != NULL; n = vmb_node_next(n, "listen")) {
        g_autofree char *socket = vmb_node_get(n, "socket");
        if (is_generated(socket))
            vmb_node_unset(n, "socket");
        if (vmb_node_has_value(n, "type", "network"))
            vmb_node_unset(n, "address");
    }
}

static void
strip_disk(xmlNode *device)
{
    xmlNode *source = vmb_node_child(device, "source");
    vmb_node_remove_children(device, "mirror");
    if (source == NULL)
        return;
    vmb_node_unset(source, "index");
    vmb_node_remove_children(source, "seclabel");
    vmb_node_remove_children(source, "privateData");
}

/* A dynamic label names the user, the paths and the categories of one run. */
static void
strip_seclabels(xmlNode *root)
{
    xmlNode *next = NULL;
    for (xmlNode *n = vmb_node_child(root, "seclabel"); n != NULL; n = next) {
        next = vmb_node_next(n, "seclabel");
        if (!vmb_node_has_value(n, "type", "dynamic"))
            continue;
        vmb_node_remove_children(n, "label");
        vmb_node_remove_children(n, "imagelabel");
        if (vmb_node_child(n, NULL) == NULL && !vmb_node_has_value(n, "relabel", "no"))
            vmb_node_remove(n);
    }
}

static void
strip_device(xmlNode *device)
{
    static const char *const chardevs[] = {"serial",   "parallel",  "console", "channel",
                                           "redirdev", "smartcard", NULL};
    const char *name = (const char *)device->name;
    strip_alias(device);
    if (g_strv_contains(chardevs, name))
        strip_chardev(device);
    else if (strcmp(name, "interface") == 0)
        strip_interface(device);
    else if (strcmp(name, "graphics") == 0)
        strip_graphics(device);
    else if (strcmp(name, "disk") == 0)
        strip_disk(device);
}

void
vmb_restore_xml_strip_live(xmlNode *root)
{
    xmlNode *devices = vmb_node_child(root, "devices");
    vmb_node_unset(root, "id");
    strip_seclabels(root);
    for (xmlNode *n = vmb_node_child(devices, NULL); n != NULL; n = vmb_node_next(n, NULL))
        strip_device(n);
}
