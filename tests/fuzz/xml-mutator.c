/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mutations that keep an XML document a document in libvirt's language. */
#include "xml-mutator.h"
#include "fuzz.h"
#include "virt/xml.h"

#include <libxml/parser.h>
#include <libxml/xmlsave.h>

/* Words that some branch of a reader looks for, and values that are dangerous somewhere. */
static const char *const elements[] = {
    "disk",      "source",   "target",   "driver",    "backingStore", "mirror",      "readonly",
    "serial",    "console",  "channel",  "parallel",  "interface",    "hostdev",     "filesystem",
    "graphics",  "listen",   "video",    "model",     "rng",          "backend",     "tpm",
    "audio",     "emulator", "loader",   "nvram",     "kernel",       "initrd",      "dtb",
    "os",        "devices",  "metadata", "seclabel",  "label",        "alias",       "address",
    "log",       "shmem",    "lease",    "smartcard", "redirdev",     "memory",      "vsock",
    "cid",       "genid",    "sysinfo",  "system",    "entry",        "encryption",  "auth",
    "dataStore", "slices",   "format",   "server",    "mac",          "bootloader",  "input",
    "protocol",  "sound",    "panic",    "nvme",      "seclabel",     "privateData", "host",
};
static const char *const attributes[] = {
    "type",  "file",   "dev",   "path",     "device",  "name",     "mode",    "socket",
    "bus",   "format", "model", "tty",      "index",   "template", "secrets", "uuid",
    "dir",   "volume", "pool",  "protocol", "state",   "port",     "listen",  "autoport",
    "rawio", "sgio",   "table", "append",   "relabel", "service",
};
static const char *const values[] = {
    "file",
    "block",
    "network",
    "volume",
    "exec",
    "unix",
    "pipe",
    "dev",
    "cdrom",
    "floppy",
    "disk",
    "lun",
    "vda",
    "vdb",
    "sda",
    "bind",
    "connect",
    "yes",
    "no",
    "qemu",
    "kvm",
    "xen",
    "dynamic",
    "static",
    "none",
    "emulator",
    "passthrough",
    "vhostuser",
    "user",
    "hostdev",
    "/etc/shadow",
    "/dev/sda",
    "../../x",
    "./x",
    "/usr/bin/qemu-system-x86_64",
    "/usr/share/../etc/x",
    "/restore/vda.qcow2",
    "/restore/log",
    "/var/lib/libvirt/qemu/nvram/x",
    "/dev/urandom",
    "http://libvirt.org/schemas/domain/qemu/1.0",
    "",
    "rbd",
    "org.qemu.guest_agent.0",
    "/x/libvirt/qemu/channel/../../../etc",
    "egd",
    "smbios",
    "+0:+0",
    "a\tb",
    " /etc/passwd",
};

#define PICK(list) ((list)[g_rand_int(rand) % G_N_ELEMENTS(list)])
#define MAX_NODES 4096u

static void
collect(xmlNode *node, GPtrArray *nodes)
{
    for (; node != NULL && nodes->len < MAX_NODES; node = node->next)
        if (node->type == XML_ELEMENT_NODE) {
            g_ptr_array_add(nodes, node);
            collect(node->children, nodes);
        }
}

static gboolean
is_inside(const xmlNode *node, const xmlNode *tree)
{
    for (; node != NULL; node = node->parent)
        if (node == tree)
            return TRUE;
    return FALSE;
}

static void
change_attribute(xmlNode *node, GRand *rand)
{
    const char *name = PICK(attributes);
    if (node->properties != NULL && g_rand_boolean(rand)) {
        name = (const char *)node->properties->name;
        if (g_rand_int_range(rand, 0, 6) == 0) {
            xmlRemoveProp(node->properties);
            return;
        }
    }
    xmlSetProp(node, BAD_CAST name, BAD_CAST PICK(values));
}

static void
add_node(xmlNode *node, GRand *rand)
{
    xmlNode *fresh = xmlNewNode(NULL, BAD_CAST PICK(elements));
    change_attribute(fresh, rand);
    if (g_rand_boolean(rand))
        xmlNodeAddContent(fresh, BAD_CAST PICK(values));
    xmlAddChild(node, fresh);
}

static void
add_namespace(xmlNode *node, GRand *rand)
{
    static const char *const uris[] = {"http://libvirt.org/schemas/domain/qemu/1.0", "urn:x"};
    static const char *const prefixes[] = {"qemu", "p", NULL};
    xmlNs *ns = xmlNewNs(node, BAD_CAST PICK(uris), BAD_CAST PICK(prefixes));
    if (ns != NULL && g_rand_boolean(rand))
        xmlSetNs(node, ns);
    else if (ns != NULL && ns->prefix != NULL)
        xmlNewNsProp(node, ns, BAD_CAST PICK(attributes), BAD_CAST PICK(values));
}

/* Text that is no plain text: what is beside it or how it is written must not matter. */
static void
add_odd_text(xmlDoc *doc, xmlNode *node, GRand *rand)
{
    const char *text = PICK(values);
    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        xmlAddChild(node, xmlNewCDataBlock(doc, BAD_CAST text, (int)strlen(text)));
        break;
    case 1:
        xmlAddChild(node, xmlNewComment(BAD_CAST "c"));
        break;
    case 2:
        xmlAddChild(node, xmlNewPI(BAD_CAST "pi", BAD_CAST text));
        break;
    default:
        xmlNodeAddContent(node, BAD_CAST text);
    }
}

static void
mutate_once(xmlDoc *doc, GRand *rand)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    collect(xmlDocGetRootElement(doc), nodes);
    xmlNode *node = nodes->pdata[g_rand_int(rand) % nodes->len];
    xmlNode *other = nodes->pdata[g_rand_int(rand) % nodes->len];
    xmlNode *root = nodes->pdata[0];
    switch (g_rand_int_range(rand, 0, 12)) {
    case 0:
        if (node != root) {
            xmlUnlinkNode(node);
            xmlFreeNode(node);
        }
        break;
    case 1:
    case 2:
        if (!is_inside(other, node) && node != root)
            xmlAddChild(other, xmlCopyNode(node, 1));
        break;
    case 3:
        if (node != root)
            xmlAddNextSibling(node, xmlCopyNode(node, 1));
        break;
    case 4:
        if (node != root)
            xmlNodeSetName(node, BAD_CAST PICK(elements));
        break;
    case 5:
        add_namespace(node, rand);
        break;
    case 6:
        add_odd_text(doc, node, rand);
        break;
    case 7:
    case 8:
        add_node(node, rand);
        break;
    default:
        change_attribute(node, rand);
    }
}

gsize
fuzz_xml_mutate(guint8 *data, gsize size, gsize max_size, guint seed, gsize skip)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    if (size <= skip || seed % 8 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    if (skip > 0 && seed % 8 == 1)
        data[0] = (guint8)(seed >> 8);
    g_autoptr(VmbXml) doc =
        xmlReadMemory((const char *)data + skip, (int)(size - skip), NULL, NULL,
                      XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (doc == NULL || xmlDocGetRootElement(doc) == NULL)
        return LLVMFuzzerMutate(data, size, max_size);
    for (gint32 n = g_rand_int_range(rand, 1, 5); n > 0; n--)
        mutate_once(doc, rand);
    xmlChar *text = NULL;
    int length = 0;
    xmlDocDumpMemoryEnc(doc, &text, &length, "UTF-8");
    gsize result = 0;
    if (text != NULL && length > 0 && (gsize)length <= max_size - skip) {
        memcpy(data + skip, text, (gsize)length);
        result = skip + (gsize)length;
    }
    xmlFree(text);
    return result > 0 ? result : LLVMFuzzerMutate(data, size, max_size);
}
