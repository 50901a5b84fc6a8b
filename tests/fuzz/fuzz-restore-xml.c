/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: a stored domain XML that is to be defined on this host. */
#include "fuzz.h"
#include "virt/restore-xml.h"
#include "virt/xml.h"
#include "xml-mutator.h"
#include "xml-seeds.h"

/* Input: u8 options (bits below); the XML. Nothing dangerous is ever allowed here. What comes out
 * is judged by rules of its own, which know no more than what may stand there. */
#define OPTION_NEW_IDENTITY 1u
#define OPTION_NAME 2u
#define OPTION_LOGS 4u
#define OPTION_NVRAM 8u
#define OPTION_BOOT 16u
#define OPTION_NO_VDB 32u /* that disk is left out */

#define LOG_DIR "/restore"

gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed);

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed)
{
    return fuzz_xml_mutate(data, size, max_size, seed, 1);
}

void
fuzz_set_up(void)
{
}

static gboolean
is_listed(const char *text, const char *const *list)
{
    return text != NULL && g_strv_contains(list, text);
}

static gboolean
is_own_file(const char *path)
{
    static const char *const own[] = {"/restore/vda.qcow2",
                                      "/restore/vdb.raw",
                                      "/restore/nvram.fd",
                                      "/restore/kernel",
                                      "/restore/initrd",
                                      "/restore/dtb",
                                      NULL};
    return is_listed(path, own);
}

/* A path that may stand at this device or part of the domain (@part: its name). */
static gboolean
is_harmless_path(const char *part, const char *path, gboolean logs)
{
    static const char *const network[] = {"/dev/net/tun", "/dev/vhost-net", NULL};
    static const char *const random[] = {"/dev/random", "/dev/urandom", NULL};
    static const char *const ports[] = {"serial", "parallel", "console", "channel", NULL};
    if (strstr(path, "/..") != NULL)
        return FALSE;
    if (is_listed(part, ports) && logs) {
        g_autofree char *directory = g_path_get_dirname(path);
        if (strcmp(directory, LOG_DIR) == 0)
            return !is_own_file(path);
    }
    if (strcmp(part, "disk") == 0 && !is_own_file(path))
        return g_file_test(path, G_FILE_TEST_IS_REGULAR); /* a medium of this host */
    if (!is_listed(part, ports) && is_own_file(path))
        return TRUE;
    if (strcmp(part, "emulator") == 0)
        return g_str_has_prefix(path, "/usr/bin/qemu-system-") ||
               strcmp(path, "/usr/bin/kvm") == 0 || strcmp(path, "/usr/bin/qemu-kvm") == 0 ||
               strcmp(path, "/usr/libexec/qemu-kvm") == 0;
    if (strcmp(part, "interface") == 0 && is_listed(path, network))
        return TRUE;
    if (strcmp(part, "rng") == 0 && is_listed(path, random))
        return TRUE;
    if (strcmp(part, "nvram") == 0 && g_str_has_prefix(path, "/var/lib/libvirt/qemu/nvram/"))
        return TRUE;
    return g_str_has_prefix(path, "/usr/share/");
}

static void
check_text(const char *part, const char *text, gboolean logs)
{
    g_autofree char *path = g_strstrip(g_strdup(text != NULL ? text : ""));
    if (path[0] == '/' || g_str_has_prefix(path, "./") || g_str_has_prefix(path, "../"))
        FUZZ_CHECK(is_harmless_path(part, path, logs));
}

/* Everything below a part of the domain: plain language, and no path of the host. */
static void
check_tree(const char *part, xmlNode *node, gboolean logs)
{
    static const char *const prose[] = {"name",   "title",   "description", "cmdline",
                                        "entry",  "serial",  "product",     "vendor",
                                        "dhCert", "session", "partition",   NULL};
    const char *name = (const char *)node->name;
    FUZZ_CHECK(node->ns == NULL && strchr(name, ':') == NULL);
    for (xmlAttr *attr = node->properties; attr != NULL; attr = attr->next) {
        xmlChar *value = xmlNodeListGetString(node->doc, attr->children, 1);
        FUZZ_CHECK(attr->ns == NULL);
        check_text(part, (const char *)value, logs);
        xmlFree(value);
    }
    xmlChar *text = xmlNodeGetContent(node);
    if (xmlChildElementCount(node) == 0 && !is_listed(name, prose))
        check_text(part, (const char *)text, logs);
    xmlFree(text);
    for (xmlNode *child = node->children; child != NULL; child = child->next)
        if (child->type == XML_ELEMENT_NODE)
            check_tree(part, child, logs);
}

/* Programs, other devices of the host and sockets come by these. */
static void
check_device(xmlNode *device, gboolean logs)
{
    static const char *const never[] = {"hostdev", "filesystem", "shmem", "lease", NULL};
    static const char *const typed[] = {"disk",    "interface", "serial",    "parallel", "console",
                                        "channel", "audio",     "smartcard", "redirdev", NULL};
    static const char *const types[] = {
        "exec", "vhostuser", "hostdev", "server",        "client", "mcast",
        "udp",  "vdpa",      "tcp",     "dev",           "pipe",   "stdio",
        "nmdm", "vhostvdpa", "nvme",    "vhostuser-gpu", NULL};
    const char *name = (const char *)device->name;
    xmlChar *type = xmlGetNoNsProp(device, BAD_CAST "type");
    FUZZ_CHECK(!is_listed(name, never));
    FUZZ_CHECK(!is_listed(name, typed) || !is_listed((const char *)type, types));
    xmlFree(type);
    check_tree(name, device, logs);
}

/* A disk that can be written to is a restored one, or it is not there. */
static void
check_disk(xmlNode *disk)
{
    g_autofree char *device = vmb_xml_attribute(disk, "device");
    g_autofree char *file = vmb_xml_attribute(vmb_xml_child(disk, "source"), "file");
    static const char *const media[] = {"cdrom", "floppy", NULL};
    if (is_listed(device, media) || vmb_xml_child(disk, "readonly") != NULL)
        return;
    FUZZ_CHECK(is_own_file(file));
    FUZZ_CHECK(vmb_xml_attribute_is(disk, "type", "file"));
}

static void
check_domain(const char *xml, gboolean logs)
{
    static const char *const prose[] = {"metadata", "title", "description", "blkiotune", NULL};
    static const char *const types[] = {"qemu", "kvm", NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbXml) document = vmb_xml_parse(xml, "domain", "fuzz", VMB_ERROR_FAILED, &error);
    FUZZ_CHECK(document != NULL);
    xmlNode *root = xmlDocGetRootElement(document);
    g_autofree char *type = vmb_xml_attribute(root, "type");
    FUZZ_CHECK(type == NULL || is_listed(type, types));
    for (xmlNode *part = root->children; part != NULL; part = part->next) {
        const char *name = (const char *)part->name;
        if (part->type != XML_ELEMENT_NODE || is_listed(name, prose))
            continue;
        FUZZ_CHECK(!g_str_has_prefix(name, "bootloader"));
        gboolean os = strcmp(name, "os") == 0, devices = strcmp(name, "devices") == 0;
        if (!os && !devices)
            check_tree(name, part, logs);
        for (xmlNode *n = part->children; (os || devices) && n != NULL; n = n->next) {
            if (n->type != XML_ELEMENT_NODE)
                continue;
            if (devices)
                check_device(n, logs);
            else
                check_tree((const char *)n->name, n, logs);
            if (devices && strcmp((const char *)n->name, "disk") == 0)
                check_disk(n);
        }
    }
}

/* But for white space, which is laid out anew around what is no element. */
static gboolean
is_same(const char *a, const char *b)
{
    for (;; a++, b++) {
        while (g_ascii_isspace(*a))
            a++;
        while (g_ascii_isspace(*b))
            b++;
        if (*a != *b || *a == '\0')
            return *a == *b;
    }
}

/* TRUE if the rewriting was not refused. */
static gboolean
try(const guint8 *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    guint bits = length > 0 ? data[0] : 0;
    g_autofree char *xml = length > 0 ? fuzz_text(data + 1, length - 1) : g_strdup("");
    VmbRestoreXmlDisk disks[] = {{"vda", "/restore/vda.qcow2", "qcow2"},
                                 {"vdb", "/restore/vdb.raw", "raw"}};
    VmbRestoreXmlOptions options = {.disks = disks, .n_disks = G_N_ELEMENTS(disks)};
    if (bits & OPTION_NO_VDB)
        disks[1].path = NULL;
    options.new_identity = (bits & OPTION_NEW_IDENTITY) != 0;
    options.name = bits & OPTION_NAME ? "other" : NULL;
    options.log_dir = bits & OPTION_LOGS ? LOG_DIR : NULL;
    options.nvram = bits & OPTION_NVRAM ? "/restore/nvram.fd" : NULL;
    options.kernel = bits & OPTION_BOOT ? "/restore/kernel" : NULL;
    options.initrd = bits & OPTION_BOOT ? "/restore/initrd" : NULL;
    options.dtb = bits & OPTION_BOOT ? "/restore/dtb" : NULL;
    g_autoptr(GPtrArray) dangers = vmb_restore_xml_dangers(xml, NULL);
    g_autofree char *result = vmb_restore_xml(xml, &options, &error);
    if (result == NULL) {
        fuzz_check_error(error, -1);
        FUZZ_CHECK(error->code == (dangers == NULL ? VMB_ERROR_DAMAGE : error->code));
        return FALSE;
    }
    FUZZ_CHECK(dangers != NULL);
    check_domain(result, options.log_dir != NULL);
    /* Once more changes nothing more, random values aside, nor how the text is written: what was
     * odd about the first one is gone after that. */
    g_autofree char *again = vmb_restore_xml(result, &options, &error);
    FUZZ_CHECK(again != NULL);
    g_autofree char *third = vmb_restore_xml(again, &options, &error);
    FUZZ_CHECK(third != NULL);
    if (!options.new_identity && strstr(result, "genid") == NULL)
        FUZZ_CHECK(is_same(again, third));
    return TRUE;
}

void
fuzz_one(const guint8 *data, gsize length)
{
    try(data, length);
}

void
fuzz_seeds(void)
{
    static const char good[] = "\x1c<domain type='kvm'><devices><disk><target dev='vda'/></disk>"
                               "</devices></domain>";
    gboolean accepted = try((const guint8 *)good, strlen(good));
    g_assert(accepted); /* or nothing would be reached from here */
    fuzz_seed("good", good, strlen(good));
    fuzz_xml_seeds("\x1c");
}
