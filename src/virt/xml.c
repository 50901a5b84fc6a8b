/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading libvirt's XML with libxml2, without network, entities or surprises. */
#include "virt/xml.h"
#include "util/units.h"

#include <libxml/parser.h>
#include <string.h>

#define MAX_XML (16 * VMB_MIB)

VmbXml *
vmb_xml_parse(const char *text, const char *root, const char *label, VmbErrorCode code,
              GError **error)
{
    gsize length = strlen(text);
    if (length > MAX_XML) {
        vmb_error_set(error, code, "%s is longer than 16 MiB", label);
        return NULL;
    }
    g_autoptr(VmbXml) document = xmlReadMemory(text, (int)length, NULL, NULL,
                                               XML_PARSE_NONET | XML_PARSE_NOERROR |
                                                   XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
    xmlNode *top = document != NULL ? xmlDocGetRootElement(document) : NULL;
    if (top == NULL || document->intSubset != NULL) {
        vmb_error_set(error, code, "%s is not well-formed XML%s", label,
                      top != NULL ? " without a document type" : "");
        return NULL;
    }
    if (strcmp((const char *)top->name, root) != 0 || top->ns != NULL) {
        vmb_error_set(error, code, "%s is not a <%s> document", label, root);
        return NULL;
    }
    return g_steal_pointer(&document);
}

static xmlNode *
find(xmlNode *node, const char *name)
{
    for (; node != NULL; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && node->ns == NULL &&
            (name == NULL || strcmp((const char *)node->name, name) == 0))
            return node;
    }
    return NULL;
}

xmlNode *
vmb_xml_child(xmlNode *parent, const char *name)
{
    return parent != NULL ? find(parent->children, name) : NULL;
}

xmlNode *
vmb_xml_next(xmlNode *node, const char *name)
{
    return find(node->next, name);
}

static char *
take(xmlChar *text)
{
    char *copy = text != NULL && text[0] != '\0' ? g_strdup((const char *)text) : NULL;
    xmlFree(text);
    return copy;
}

char *
vmb_xml_attribute(xmlNode *node, const char *name)
{
    return node != NULL ? take(xmlGetNoNsProp(node, BAD_CAST name)) : NULL;
}

char *
vmb_xml_text(xmlNode *node)
{
    return node != NULL ? take(xmlNodeGetContent(node)) : NULL;
}

gboolean
vmb_xml_attribute_is(xmlNode *node, const char *name, const char *value)
{
    g_autofree char *text = vmb_xml_attribute(node, name);
    return g_strcmp0(text, value) == 0;
}
