/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domain XML as a tree that is judged and changed: by local names, so that nothing hides. */
#include "virt/xml-node.h"
#include "util/error.h"

#include <libxml/xmlsave.h>

#define XML(text) ((const xmlChar *)(text))

G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlBuffer, xmlBufferFree)

gboolean
vmb_node_is(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && (name == NULL || xmlStrEqual(node->name, XML(name)));
}

static xmlNode *
first_from(xmlNode *node, const char *name)
{
    while (node != NULL && !vmb_node_is(node, name))
        node = node->next;
    return node;
}

xmlNode *
vmb_node_child(const xmlNode *parent, const char *name)
{
    return parent == NULL ? NULL : first_from(parent->children, name);
}

xmlNode *
vmb_node_next(const xmlNode *node, const char *name)
{
    return first_from(node->next, name);
}

char *
vmb_node_get(const xmlNode *node, const char *attribute)
{
    if (node == NULL)
        return NULL;
    xmlChar *value = xmlGetProp(node, XML(attribute));
    char *copy = g_strdup((const char *)value);
    xmlFree(value);
    return copy;
}

gboolean
vmb_node_has_value(const xmlNode *node, const char *attribute, const char *value)
{
    g_autofree char *found = vmb_node_get(node, attribute);
    return g_strcmp0(found, value) == 0;
}

void
vmb_node_unset(xmlNode *node, const char *attribute)
{
    xmlAttr *next = NULL;
    for (xmlAttr *attr = node->properties; attr != NULL; attr = next) {
        next = attr->next;
        if (xmlStrEqual(attr->name, XML(attribute)))
            xmlRemoveProp(attr);
    }
}

void
vmb_node_set(xmlNode *node, const char *attribute, const char *value)
{
    xmlSetProp(node, XML(attribute), XML(value));
}

char *
vmb_node_content(const xmlNode *node)
{
    xmlChar *content = xmlNodeGetContent(node);
    char *copy = g_strstrip(g_strdup(content != NULL ? (const char *)content : ""));
    xmlFree(content);
    return copy;
}

void
vmb_node_set_content(xmlNode *node, const char *text)
{
    xmlNodeSetContent(node, NULL);
    if (text != NULL)
        xmlNodeAddContent(node, XML(text));
}

void
vmb_node_remove(xmlNode *node)
{
    xmlUnlinkNode(node);
    xmlFreeNode(node);
}

void
vmb_node_remove_children(xmlNode *parent, const char *name)
{
    xmlNode *next = NULL;
    for (xmlNode *child = vmb_node_child(parent, name); child != NULL; child = next) {
        next = vmb_node_next(child, name);
        vmb_node_remove(child);
    }
}

static gboolean
check_once(const xmlNode *parent, const char *const *names, GError **error)
{
    for (int i = 0; names[i] != NULL; i++) {
        const xmlNode *first = vmb_node_child(parent, names[i]);
        if (first != NULL && vmb_node_next(first, names[i]) != NULL)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "domain XML: <%s> holds more than one <%s>",
                                 (const char *)parent->name, names[i]);
    }
    return TRUE;
}

/* libvirt reads the first of several, or the last, as the place may be: what was checked must be
 * what is used, so there has to be just one. */
static gboolean
check_structure(const xmlNode *root, GError **error)
{
    static const char *const in_domain[] = {"name", "uuid", "genid", "os", "devices", NULL};
    static const char *const in_os[] = {"type", "loader", "nvram", "kernel", "initrd", "dtb", NULL};
    static const char *const in_devices[] = {"emulator", NULL};
    static const char *const in_device[] = {"source", "target", "driver", "mac", NULL};
    const xmlNode *devices = vmb_node_child(root, "devices");
    const xmlNode *os = vmb_node_child(root, "os");
    if (!check_once(root, in_domain, error) || (os != NULL && !check_once(os, in_os, error)))
        return FALSE;
    if (devices == NULL)
        return TRUE;
    if (!check_once(devices, in_devices, error))
        return FALSE;
    for (const xmlNode *n = vmb_node_child(devices, NULL); n != NULL; n = vmb_node_next(n, NULL))
        if ((vmb_node_is(n, "disk") || vmb_node_is(n, "interface")) &&
            !check_once(n, in_device, error))
            return FALSE;
    return TRUE;
}

/* Spaces between elements, so that the result can be indented anew. Free text has none beside it.
 */
static void
drop_blanks(xmlNode *parent)
{
    gboolean mixed = FALSE;
    for (xmlNode *n = parent->children; n != NULL; n = n->next)
        mixed = mixed || (n->type == XML_TEXT_NODE && !xmlIsBlankNode(n));
    if (mixed || vmb_node_child(parent, NULL) == NULL)
        return;
    xmlNode *next = NULL;
    for (xmlNode *n = parent->children; n != NULL; n = next) {
        next = n->next;
        if (n->type == XML_TEXT_NODE)
            vmb_node_remove(n);
        else if (n->type == XML_ELEMENT_NODE)
            drop_blanks(n);
    }
}

VmbXml *
vmb_node_parse_domain(const char *xml, GError **error)
{
    g_autoptr(VmbXml) doc =
        vmb_xml_parse(xml, "domain", "the stored domain XML", VMB_ERROR_DAMAGE, error);
    if (doc == NULL || !check_structure(xmlDocGetRootElement(doc), error))
        return NULL;
    drop_blanks(xmlDocGetRootElement(doc));
    return g_steal_pointer(&doc);
}

char *
vmb_node_print(VmbXml *doc)
{
    g_autoptr(xmlBuffer) buffer = xmlBufferCreate();
    xmlSaveCtxt *save = xmlSaveToBuffer(buffer, "UTF-8", XML_SAVE_FORMAT | XML_SAVE_NO_DECL);
    xmlSaveDoc(save, doc);
    xmlSaveClose(save);
    return g_strdup((const char *)xmlBufferContent(buffer));
}
