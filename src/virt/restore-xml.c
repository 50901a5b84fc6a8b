/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Turns a stored domain XML into one that fits restored files, and refuses what is dangerous. */
#include "virt/restore-xml.h"
#include "util/error.h"
#include "virt/restore-xml-live.h"
#include "virt/restore-xml-scan.h"
#include "virt/xml-node.h"

#include <string.h>

static xmlNode *
need_child(xmlNode *parent, const char *name)
{
    xmlNode *child = vmb_node_child(parent, name);
    if (child == NULL) {
        child = xmlNewNode(NULL, (const xmlChar *)name);
        if (parent->children != NULL)
            xmlAddPrevSibling(parent->children, child);
        else
            xmlAddChild(parent, child);
    }
    return child;
}

static void
point_disk_at(xmlNode *disk, const VmbRestoreXmlDisk *ours)
{
    /* What belongs to the old place of the data, or to the layers and the encryption there. */
    static const char *const old[] = {"source", "backingStore", "mirror",
                                      "auth",   "encryption",   "backenddomain"};
    for (gsize i = 0; i < G_N_ELEMENTS(old); i++)
        vmb_node_remove_children(disk, old[i]);
    vmb_node_set(disk, "type", "file");
    vmb_node_set(disk, "device", "disk");
    vmb_node_unset(disk, "sgio");
    vmb_node_unset(disk, "rawio");
    xmlNode *driver = need_child(disk, "driver");
    vmb_node_set(driver, "name", "qemu");
    vmb_node_set(driver, "type", ours->format);
    if (strcmp(ours->format, "qcow2") != 0) {
        vmb_node_unset(driver, "discard_no_unref");
        vmb_node_remove_children(driver, "metadata_cache");
    }
    xmlNode *source = xmlNewNode(NULL, (const xmlChar *)"source");
    vmb_node_set(source, "file", ours->path);
    xmlAddNextSibling(driver, source);
}

/* A drive whose medium is not on this host becomes an empty one, which is one of files: some other
 * types are more than a medium. FALSE: the disk cannot be empty and has to go. */
static gboolean
settle_medium(xmlNode *disk)
{
    static const char *const old[] = {"backingStore", "mirror"};
    for (gsize i = 0; i < G_N_ELEMENTS(old); i++)
        vmb_node_remove_children(disk, old[i]);
    xmlNode *source = vmb_node_child(disk, "source");
    if (source == NULL) {
        vmb_node_set(disk, "type", "file");
        return TRUE;
    }
    g_autofree char *file = vmb_node_get(source, "file");
    g_autofree char *device = vmb_node_get(source, "dev");
    const char *path = file != NULL ? file : device;
    if (path == NULL)
        return TRUE;
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        vmb_node_remove(source);
        vmb_node_set(disk, "type", "file");
        return vmb_node_has_value(disk, "device", "cdrom") ||
               vmb_node_has_value(disk, "device", "floppy");
    }
    if (file != NULL) {
        g_autofree char *policy = vmb_node_get(source, "startupPolicy");
        xmlNode *fresh = xmlNewNode(NULL, (const xmlChar *)"source");
        vmb_node_set(fresh, "file", file);
        if (policy != NULL)
            vmb_node_set(fresh, "startupPolicy", policy);
        xmlReplaceNode(source, fresh);
        xmlFreeNode(source);
    }
    return TRUE;
}

static gboolean
is_allowed(const VmbRestoreXmlOptions *options, const char *name)
{
    return options->allow != NULL && g_strv_contains(options->allow, name);
}

/* A disk that was not restored and can be written to is the original's. */
static gboolean
is_kept(const VmbRestoreXmlOptions *options, xmlNode *disk, const char *target)
{
    g_autofree char *name = g_strconcat("disk:", target, NULL);
    return vmb_restore_xml_is_medium(disk) ? settle_medium(disk) : is_allowed(options, name);
}

static gboolean
rewrite_disks(xmlNode *devices, const VmbRestoreXmlOptions *options, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    xmlNode *next = NULL;
    for (xmlNode *disk = vmb_node_child(devices, "disk"); disk != NULL; disk = next) {
        next = vmb_node_next(disk, "disk");
        g_autofree char *target = vmb_node_get(vmb_node_child(disk, "target"), "dev");
        if (target == NULL || !g_hash_table_add(seen, g_strdup(target)))
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "domain XML: a disk without a target of its own");
        const VmbRestoreXmlDisk *ours = vmb_restore_xml_find_disk(options, target);
        if (ours != NULL && ours->path != NULL)
            point_disk_at(disk, ours);
        else if (ours != NULL || !is_kept(options, disk, target))
            vmb_node_remove(disk);
    }
    return TRUE;
}

static void
move_file(xmlNode *node, const char *attribute, const VmbRestoreXmlOptions *options)
{
    g_autofree char *old = node != NULL ? vmb_node_get(node, attribute) : NULL;
    if (old == NULL || old[0] == '\0')
        return;
    g_autofree char *name = g_path_get_basename(old);
    g_autofree char *path = g_build_filename(options->log_dir, name, NULL);
    /* A port must not write into a disk: such a path stays, and the scan refuses it. */
    if (!vmb_restore_xml_is_own(options, path))
        vmb_node_set(node, attribute, path);
}

/* What a guest's ports write into files goes beside the restored disks: libvirt would give the old
 * files, whatever they are on this host, to QEMU's user. */
static void
move_logs(xmlNode *devices, const VmbRestoreXmlOptions *options)
{
    for (xmlNode *n = vmb_node_child(devices, NULL); options->log_dir != NULL && n != NULL;
         n = vmb_node_next(n, NULL)) {
        if (vmb_node_has_value(n, "type", "file") && !vmb_node_is(n, "disk"))
            move_file(vmb_node_child(n, "source"), "path", options);
        move_file(vmb_node_child(n, "log"), "file", options);
    }
}

static void
replace_file(xmlNode *os, const char *name, const char *path)
{
    xmlNode *node = vmb_node_child(os, name);
    if (node != NULL && path != NULL)
        vmb_node_set_content(node, path);
}

/* With a file of our own, the template stays for the day when that file is lost. Without one, a
 * domain under another name must not share the first one's variables. */
static void
rewrite_nvram(xmlNode *os, const VmbRestoreXmlOptions *options)
{
    xmlNode *nvram = vmb_node_child(os, "nvram");
    gboolean other = options->name != NULL || options->new_identity;
    if (nvram == NULL && options->nvram != NULL &&
        (vmb_node_child(os, "loader") != NULL || !vmb_node_has_value(os, "firmware", NULL))) {
        nvram = xmlNewNode(NULL, (const xmlChar *)"nvram");
        xmlNode *loader = vmb_node_child(os, "loader");
        if (loader != NULL)
            xmlAddNextSibling(loader, nvram);
        else
            xmlAddChild(os, nvram);
    }
    if (nvram == NULL || (options->nvram == NULL && !other))
        return;
    vmb_node_unset(nvram, "type");
    vmb_node_set_content(nvram, options->nvram);
}

static void
rewrite_os(xmlNode *os, const VmbRestoreXmlOptions *options)
{
    replace_file(os, "kernel", options->kernel);
    replace_file(os, "initrd", options->initrd);
    replace_file(os, "dtb", options->dtb);
    rewrite_nvram(os, options);
}

/* Interfaces that share an address (a failover pair) go on sharing one. */
static void
new_mac_addresses(xmlNode *devices)
{
    g_autoptr(GHashTable) fresh = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GHashTable) taken = g_hash_table_new(g_str_hash, g_str_equal);
    for (xmlNode *n = vmb_node_child(devices, "interface"); n != NULL;
         n = vmb_node_next(n, "interface")) {
        xmlNode *mac = vmb_node_child(n, "mac");
        g_autofree char *old = vmb_node_get(mac, "address");
        if (old == NULL)
            continue;
        char *address = g_hash_table_lookup(fresh, old);
        while (address == NULL) {
            guint32 random = g_random_int();
            g_autofree char *candidate = g_strdup_printf(
                "52:54:00:%02x:%02x:%02x", random >> 16 & 0xff, random >> 8 & 0xff, random & 0xff);
            if (g_hash_table_contains(taken, candidate) || g_ascii_strcasecmp(candidate, old) == 0)
                continue;
            address = g_steal_pointer(&candidate);
            g_hash_table_insert(fresh, g_strdup(old), address);
            g_hash_table_add(taken, address);
        }
        vmb_node_set(mac, "address", address);
    }
}

static void
set_domain_child(xmlNode *root, const char *name, const char *text)
{
    vmb_node_set_content(need_child(root, name), text);
}

/* libvirt refuses a definition whose SMBIOS table has another UUID than the domain. */
static void
new_uuid(xmlNode *root)
{
    g_autofree char *uuid = g_uuid_string_random();
    set_domain_child(root, "uuid", uuid);
    for (xmlNode *n = vmb_node_child(root, "sysinfo"); n != NULL; n = vmb_node_next(n, "sysinfo"))
        for (xmlNode *system = vmb_node_child(n, "system"); system != NULL;
             system = vmb_node_next(system, "system"))
            for (xmlNode *entry = vmb_node_child(system, "entry"); entry != NULL;
                 entry = vmb_node_next(entry, "entry"))
                if (vmb_node_has_value(entry, "name", "uuid"))
                    vmb_node_set_content(entry, uuid);
}

/* Socket addresses of the host's vsock must be unique on it. */
static void
new_vsock_addresses(xmlNode *devices)
{
    for (xmlNode *n = vmb_node_child(devices, "vsock"); n != NULL; n = vmb_node_next(n, "vsock")) {
        xmlNode *cid = vmb_node_child(n, "cid");
        if (cid == NULL)
            continue;
        vmb_node_unset(cid, "address");
        vmb_node_set(cid, "auto", "yes");
    }
}

static void
rewrite_identity(xmlNode *root, xmlNode *devices, const VmbRestoreXmlOptions *options)
{
    xmlNode *genid = vmb_node_child(root, "genid");
    if (genid != NULL) {
        g_autofree char *value = g_uuid_string_random();
        vmb_node_set_content(genid, value);
    }
    if (options->name != NULL)
        set_domain_child(root, "name", options->name);
    if (!options->new_identity)
        return;
    if (!options->keep_uuid)
        new_uuid(root);
    if (devices == NULL)
        return;
    if (!options->keep_macs)
        new_mac_addresses(devices);
    new_vsock_addresses(devices);
}

/* The usual emulator of another distribution is not here; libvirt then picks its own. */
static void
forget_absent_emulator(xmlNode *devices)
{
    xmlNode *emulator = vmb_node_child(devices, "emulator");
    if (emulator == NULL)
        return;
    g_autofree char *path = vmb_node_content(emulator);
    if (vmb_restore_xml_is_emulator(path) && !g_file_test(path, G_FILE_TEST_IS_EXECUTABLE))
        vmb_node_remove(emulator);
}

static gboolean
check_allowed(const GPtrArray *dangers, const VmbRestoreXmlOptions *options, GError **error)
{
    g_autoptr(GString) refused = g_string_new(NULL);
    g_autoptr(GString) advice = g_string_new(NULL);
    for (guint i = 0; i < dangers->len; i++) {
        const char *name = g_ptr_array_index(dangers, i);
        if (is_allowed(options, name))
            continue;
        g_autofree char *quoted = g_shell_quote(name);
        g_string_append_printf(refused, "%s%s", refused->len > 0 ? ", " : "", name);
        g_string_append_printf(advice, " --allow %s", quoted);
    }
    if (refused->len == 0)
        return TRUE;
    return vmb_error_set(
        error, VMB_ERROR_FAILED,
        "the domain's XML runs programs or attaches parts of this host: %s; if that "
        "is meant to be, add%s",
        refused->str, advice->str);
}

/* What a point can hold is taken out, so that only the rest is judged. */
static void
drop_own_files(xmlNode *os, xmlNode *devices)
{
    static const char *const files[] = {"nvram", "kernel", "initrd", "dtb"};
    for (gsize i = 0; os != NULL && i < G_N_ELEMENTS(files); i++)
        vmb_node_remove_children(os, files[i]);
    for (xmlNode *n = vmb_node_child(devices, "disk"); n != NULL; n = vmb_node_next(n, "disk"))
        if (vmb_restore_xml_is_medium(n)) {
            settle_medium(n);
        } else {
            vmb_node_remove_children(n, "source");
            vmb_node_remove_children(n, "backingStore");
            vmb_node_remove_children(n, "mirror");
        }
}

GPtrArray *
vmb_restore_xml_dangers(const char *xml, GError **error)
{
    g_autoptr(VmbXml) doc = vmb_node_parse_domain(xml, error);
    if (doc == NULL)
        return NULL;
    xmlNode *root = xmlDocGetRootElement(doc);
    vmb_restore_xml_strip_live(root);
    drop_own_files(vmb_node_child(root, "os"), vmb_node_child(root, "devices"));
    return vmb_restore_xml_scan(root, NULL);
}

char *
vmb_restore_xml(const char *xml, const VmbRestoreXmlOptions *options, GError **error)
{
    g_autoptr(VmbXml) doc = vmb_node_parse_domain(xml, error);
    if (doc == NULL)
        return NULL;
    xmlNode *root = xmlDocGetRootElement(doc);
    xmlNode *devices = vmb_node_child(root, "devices");
    xmlNode *os = vmb_node_child(root, "os");
    vmb_restore_xml_strip_live(root);
    if (devices != NULL && !rewrite_disks(devices, options, error))
        return NULL;
    if (devices != NULL) {
        forget_absent_emulator(devices);
        move_logs(devices, options);
    }
    if (os != NULL)
        rewrite_os(os, options);
    rewrite_identity(root, devices, options);
    g_autoptr(GPtrArray) dangers = vmb_restore_xml_scan(root, options);
    if (!check_allowed(dangers, options, error))
        return NULL;
    return vmb_node_print(doc);
}
