/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finds what in a domain XML runs programs of, or attaches parts of, the host that defines it. */
#include "virt/restore-xml-scan.h"

#include <string.h>

#define QEMU_NAMESPACE "http://libvirt.org/schemas/domain/qemu/1.0"

typedef struct {
    const VmbRestoreXmlOptions *options;
    GPtrArray *found;
} Scan;

static void found(Scan *scan, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
found(Scan *scan, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *name = g_strdup_vprintf(format, args);
    va_end(args);
    if (!g_ptr_array_find_with_equal_func(scan->found, name, g_str_equal, NULL))
        g_ptr_array_add(scan->found, g_steal_pointer(&name));
}

static gboolean
is_one_of(const char *text, const char *const *list)
{
    return text != NULL && g_strv_contains(list, text);
}

const VmbRestoreXmlDisk *
vmb_restore_xml_find_disk(const VmbRestoreXmlOptions *options, const char *target)
{
    for (guint i = 0; options != NULL && target != NULL && i < options->n_disks; i++)
        if (strcmp(options->disks[i].target, target) == 0)
            return &options->disks[i];
    return NULL;
}

gboolean
vmb_restore_xml_is_medium(const xmlNode *disk)
{
    static const char *const removable[] = {"cdrom", "floppy", NULL};
    g_autofree char *device = vmb_node_get(disk, "device");
    return is_one_of(device, removable) || vmb_node_child(disk, "readonly") != NULL;
}

gboolean
vmb_restore_xml_is_emulator(const char *path)
{
    static const char *const exact[] = {"/usr/bin/kvm", "/usr/bin/qemu-kvm",
                                        "/usr/libexec/qemu-kvm", NULL};
    static const char prefix[] = "/usr/bin/qemu-system-";
    if (is_one_of(path, exact))
        return TRUE;
    if (!g_str_has_prefix(path, prefix) || path[sizeof prefix - 1] == '\0')
        return FALSE;
    for (const char *p = path + sizeof prefix - 1; *p != '\0'; p++)
        if (!g_ascii_isalnum(*p) && *p != '_')
            return FALSE;
    return TRUE;
}

static gboolean
is_below(const char *path, const char *directory)
{
    return g_str_has_prefix(path, directory) && strstr(path, "/..") == NULL;
}

gboolean
vmb_restore_xml_is_own(const VmbRestoreXmlOptions *options, const char *path)
{
    if (options == NULL)
        return FALSE;
    const char *const files[] = {options->nvram, options->kernel, options->initrd, options->dtb};
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++)
        if (g_strcmp0(files[i], path) == 0)
            return TRUE;
    for (guint i = 0; i < options->n_disks; i++)
        if (g_strcmp0(options->disks[i].path, path) == 0)
            return TRUE;
    return FALSE;
}

static gboolean
is_port(const char *owner)
{
    static const char *const ports[] = {"serial", "parallel", "console", "channel", NULL};
    return is_one_of(owner, ports);
}

/* A file beside the restored disks that only a port writes to. */
static gboolean
is_log(const VmbRestoreXmlOptions *options, const char *owner, const char *path)
{
    if (options == NULL || options->log_dir == NULL || !is_port(owner))
        return FALSE;
    g_autofree char *directory = g_path_get_dirname(path);
    return strcmp(directory, options->log_dir) == 0 && !vmb_restore_xml_is_own(options, path);
}

/* An image of a removable or read-only medium: judged by its name, so that a stored XML cannot hand
 * any other file of this host to the guest. */
static gboolean
is_medium_file(const char *path)
{
    static const char *const endings[] = {".iso", ".img", ".raw", ".qcow2", ".vfd", ".flp"};
    g_autofree char *lower = g_ascii_strdown(path, -1);
    for (gsize i = 0; i < G_N_ELEMENTS(endings); i++)
        if (g_str_has_suffix(lower, endings[i]))
            return path[0] == '/' && strstr(path, "/..") == NULL &&
                   g_file_test(path, G_FILE_TEST_IS_REGULAR);
    return FALSE;
}

/* Paths that do no harm in the part of the XML that @owner names. */
static gboolean
is_known_path(const char *owner, const char *path)
{
    static const char *const network[] = {"/dev/net/tun", "/dev/vhost-net", NULL};
    static const char *const random[] = {"/dev/random", "/dev/urandom", NULL};
    if (strcmp(owner, "emulator") == 0)
        return vmb_restore_xml_is_emulator(path);
    if (strcmp(owner, "interface") == 0 && is_one_of(path, network))
        return TRUE;
    if (strcmp(owner, "rng") == 0)
        return is_one_of(path, random);
    if (strcmp(owner, "nvram") == 0 && is_below(path, "/var/lib/libvirt/qemu/nvram/"))
        return TRUE;
    if (strcmp(owner, "disk") == 0)
        return is_medium_file(path);
    return is_below(path, "/usr/share/");
}

/* @name: of the element or attribute that holds @value. */
static void
check_value(Scan *scan, const char *owner, const char *name, const char *value)
{
    static const char *const always_paths[] = {"file",   "path",  "socket", "emulator",
                                               "loader", "nvram", "kernel", "initrd",
                                               "dtb",    "table", NULL};
    if (value == NULL || value[0] == '\0')
        return;
    gboolean is_path = value[0] == '/' || g_str_has_prefix(value, "./") ||
                       g_str_has_prefix(value, "../") || is_one_of(name, always_paths);
    if (!is_path || is_log(scan->options, owner, value) || is_known_path(owner, value))
        return;
    if (is_port(owner) || !vmb_restore_xml_is_own(scan->options, value))
        found(scan, "%s:%s", owner, value);
}

/* TRUE if @node must not be looked at further, because it is no part of libvirt's plain language.
 */
static gboolean
check_namespace(Scan *scan, const xmlNode *node)
{
    const char *local = (const char *)node->name;
    if (node->ns != NULL) {
        const char *uri = (const char *)node->ns->href;
        if (g_strcmp0(uri, QEMU_NAMESPACE) == 0)
            found(scan, "qemu:%s", local);
        else
            found(scan, "namespace:%s", uri);
        return TRUE;
    }
    if (strchr(local, ':') != NULL) {
        found(scan, "namespace:%s", local);
        return TRUE;
    }
    for (const xmlAttr *attr = node->properties; attr != NULL; attr = attr->next)
        if (attr->ns != NULL)
            found(scan, "namespace:%s", (const char *)attr->ns->href);
    return FALSE;
}

static gboolean
has_own_text(const xmlNode *node)
{
    for (const xmlNode *child = node->children; child != NULL; child = child->next)
        if (child->type != XML_ELEMENT_NODE && child->type != XML_COMMENT_NODE)
            return TRUE;
    return FALSE;
}

/* Looks at @node and all below it. Nothing is known of the element but that a path in it is one. */
static void
scan_tree(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const free_text[] = {"name",   "title",   "description", "cmdline",
                                            "entry",  "serial",  "product",     "vendor",
                                            "dhCert", "session", "partition",   NULL};
    const char *name = (const char *)node->name;
    if (check_namespace(scan, node))
        return;
    for (const xmlAttr *attr = node->properties; attr != NULL; attr = attr->next) {
        g_autofree char *value = vmb_node_get(node, (const char *)attr->name);
        check_value(scan, owner, (const char *)attr->name,
                    value != NULL ? g_strstrip(value) : NULL);
    }
    if (has_own_text(node) && !is_one_of(name, free_text)) {
        g_autofree char *text = vmb_node_content(node);
        check_value(scan, owner, name, text);
    }
    for (const xmlNode *n = vmb_node_child(node, NULL); n != NULL; n = vmb_node_next(n, NULL))
        scan_tree(scan, owner, n);
}

/* One attribute that must have one of few values, or be absent. TRUE if it has. */
static gboolean
check_choice(Scan *scan, const char *owner, const xmlNode *node, const char *attribute,
             const char *const *harmless)
{
    g_autofree char *value = vmb_node_get(node, attribute);
    if (value == NULL || is_one_of(value, harmless))
        return TRUE;
    found(scan, "%s:%s=%s", owner, attribute, value);
    return FALSE;
}

static void
scan_disk(Scan *scan, const char *owner, const xmlNode *disk)
{
    g_autofree char *target = vmb_node_get(vmb_node_child(disk, "target"), "dev");
    g_autofree char *type = vmb_node_get(disk, "type");
    const VmbRestoreXmlDisk *ours = vmb_restore_xml_find_disk(scan->options, target);
    gboolean medium = vmb_restore_xml_is_medium(disk);
    /* Such a disk is only still here because the user allowed it. */
    if (ours == NULL && !medium && scan->options != NULL)
        return;
    if (ours == NULL && medium && vmb_node_child(disk, "source") != NULL &&
        g_strcmp0(type, "file") != 0) {
        found(scan, "disk:%s:type=%s", target != NULL ? target : "?", type != NULL ? type : "?");
        return;
    }
    scan_tree(scan, owner, disk);
}

static void
scan_chardev(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const types[] = {"pty",       "null",         "vc", "spicevmc",
                                        "spiceport", "qemu-vdagent", NULL};
    static const char *const modes[] = {"passthrough", NULL};
    const xmlNode *target = vmb_node_child(node, "target");
    const xmlNode *source = vmb_node_child(node, "source");
    /* The first console is the first serial port under another name. */
    if (strcmp(owner, "console") == 0 &&
        (target == NULL || vmb_node_has_value(target, "type", "serial")))
        owner = "serial";
    gboolean private_socket =
        strcmp(owner, "channel") == 0 && vmb_node_has_value(node, "type", "unix") &&
        (source == NULL ||
         (vmb_node_has_value(source, "mode", "bind") && vmb_node_has_value(source, "path", NULL)));
    gboolean own_file = scan->options != NULL && scan->options->log_dir != NULL &&
                        vmb_node_has_value(node, "type", "file");
    if (!private_socket && !own_file && !check_choice(scan, owner, node, "type", types))
        return;
    if (strcmp(owner, "smartcard") == 0 && !check_choice(scan, owner, node, "mode", modes))
        return;
    scan_tree(scan, owner, node);
}

static void
scan_interface(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const types[] = {"network",  "bridge",   "user", "direct",
                                        "internal", "ethernet", "null", NULL};
    if (check_choice(scan, owner, node, "type", types))
        scan_tree(scan, owner, node);
}

static void
scan_rng(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const models[] = {"random", "builtin", NULL};
    for (const xmlNode *n = vmb_node_child(node, "backend"); n != NULL;
         n = vmb_node_next(n, "backend")) {
        if (!check_choice(scan, owner, n, "model", models))
            return;
        /* QEMU's working directory is /, so a relative path is one as well. */
        g_autofree char *path = vmb_node_content(n);
        check_value(scan, owner, "path", path);
    }
    scan_tree(scan, owner, node);
}

static void
scan_tpm(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const types[] = {"emulator", NULL};
    for (const xmlNode *n = vmb_node_child(node, "backend"); n != NULL;
         n = vmb_node_next(n, "backend"))
        if (!check_choice(scan, owner, n, "type", types))
            return;
    scan_tree(scan, owner, node);
}

static void
scan_audio(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const types[] = {"none", "spice", NULL};
    if (check_choice(scan, owner, node, "type", types))
        scan_tree(scan, owner, node);
}

static void
scan_video(Scan *scan, const char *owner, const xmlNode *node)
{
    static const char *const drivers[] = {"qemu", NULL};
    for (const xmlNode *n = vmb_node_child(node, "driver"); n != NULL;
         n = vmb_node_next(n, "driver"))
        if (!check_choice(scan, owner, n, "name", drivers))
            return;
    scan_tree(scan, owner, node);
}

static void
scan_always(Scan *scan, const char *owner, const xmlNode *node)
{
    found(scan, "%s", owner);
}

/* Every device that may pass; what libvirt learns later is dangerous until somebody thought of it.
 */
static const struct {
    const char *name;
    void (*scan)(Scan *scan, const char *owner, const xmlNode *node);
} device_table[] = {
    {"audio", scan_audio},         {"channel", scan_chardev},   {"console", scan_chardev},
    {"controller", scan_tree},     {"crypto", scan_tree},       {"disk", scan_disk},
    {"emulator", scan_tree},       {"filesystem", scan_always}, {"graphics", scan_tree},
    {"hostdev", scan_always},      {"hub", scan_tree},          {"input", scan_tree},
    {"interface", scan_interface}, {"iommu", scan_tree},        {"lease", scan_always},
    {"memballoon", scan_tree},     {"memory", scan_tree},       {"nvram", scan_tree},
    {"panic", scan_tree},          {"parallel", scan_chardev},  {"pstore", scan_tree},
    {"redirdev", scan_chardev},    {"redirfilter", scan_tree},  {"rng", scan_rng},
    {"serial", scan_chardev},      {"shmem", scan_always},      {"smartcard", scan_chardev},
    {"sound", scan_tree},          {"tpm", scan_tpm},           {"video", scan_video},
    {"vsock", scan_tree},          {"watchdog", scan_tree},
};

static void
scan_device(Scan *scan, const xmlNode *node)
{
    const char *name = (const char *)node->name;
    if (check_namespace(scan, node))
        return;
    for (gsize i = 0; i < G_N_ELEMENTS(device_table); i++)
        if (strcmp(device_table[i].name, name) == 0) {
            device_table[i].scan(scan, device_table[i].name, node);
            return;
        }
    found(scan, "device:%s", name);
}

static void
scan_domain_part(Scan *scan, const xmlNode *node)
{
    static const char *const inert[] = {"metadata", "title", "description", "blkiotune", NULL};
    static const char *const confined[] = {"dynamic", NULL};
    const char *name = (const char *)node->name;
    if (check_namespace(scan, node) || is_one_of(name, inert))
        return;
    if (g_str_has_prefix(name, "bootloader")) {
        found(scan, "%s", name);
    } else if (strcmp(name, "seclabel") == 0) {
        if (check_choice(scan, name, node, "type", confined))
            scan_tree(scan, name, node);
    } else if (strcmp(name, "os") == 0) {
        for (const xmlNode *n = vmb_node_child(node, NULL); n != NULL; n = vmb_node_next(n, NULL))
            scan_tree(scan, (const char *)n->name, n);
    } else if (strcmp(name, "devices") == 0) {
        for (const xmlNode *n = vmb_node_child(node, NULL); n != NULL; n = vmb_node_next(n, NULL))
            scan_device(scan, n);
    } else {
        scan_tree(scan, name, node);
    }
}

GPtrArray *
vmb_restore_xml_scan(const xmlNode *root, const VmbRestoreXmlOptions *options)
{
    static const char *const types[] = {"qemu", "kvm", NULL};
    Scan scan = {options, g_ptr_array_new_with_free_func(g_free)};
    check_namespace(&scan, root);
    check_choice(&scan, "domain", root, "type", types);
    for (const xmlNode *n = vmb_node_child(root, NULL); n != NULL; n = vmb_node_next(n, NULL))
        scan_domain_part(&scan, n);
    return scan.found;
}
