/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading libvirt's XML with libxml2, without network, entities or surprises. */
#pragma once
#include <glib.h>
#include <libxml/tree.h>
#include "util/error.h"

/* A parsed document; freed by autoptr. */
typedef xmlDoc VmbXml;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbXml, xmlFreeDoc)

/* Parses @text, whose root element must be @root. A document type declaration is refused, nothing is
 * loaded from anywhere, the text is limited to 16 MiB. Errors: @code, with @label naming the document
 * and never a part of its text (it may hold secrets). */
VmbXml *vmb_xml_parse(const char *text, const char *root, const char *label, VmbErrorCode code,
                      GError **error);

/* First child element of @parent with this name (any name if NULL); NULL if there is none or @parent
 * is NULL. vmb_xml_next() gives the following sibling of the same kind. Only elements without a
 * namespace count. */
xmlNode *vmb_xml_child(xmlNode *parent, const char *name);
xmlNode *vmb_xml_next(xmlNode *node, const char *name);

/* Copies of an attribute / of the text of an element; NULL if absent, empty, or @node is NULL.
 * Free with g_free(). */
char *vmb_xml_attribute(xmlNode *node, const char *name);
char *vmb_xml_text(xmlNode *node);
/* TRUE if @node has the attribute with just this value. */
gboolean vmb_xml_attribute_is(xmlNode *node, const char *name, const char *value);
