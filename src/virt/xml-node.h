/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domain XML as a tree that is judged and changed: by local names, so that nothing hides. */
#pragma once
#include "virt/xml.h"

/* Parses a domain XML; what libvirt expects once must be there once. Spaces between elements are
 * dropped. Errors: VMB_ERROR_DAMAGE. */
VmbXml *vmb_node_parse_domain(const char *xml, GError **error);

/* The document as indented text without an XML declaration. Free with g_free(). */
char *vmb_node_print(VmbXml *doc);

/* TRUE if @node is an element with this local name. Namespaces do not count: some of libvirt's own
 * readers do not look at them, and what hides behind one must be found here. */
gboolean vmb_node_is(const xmlNode *node, const char *name);

/* First child element of @parent, and the next sibling element of @node, called @name (NULL: any).
 * @parent may be NULL. */
xmlNode *vmb_node_child(const xmlNode *parent, const char *name);
xmlNode *vmb_node_next(const xmlNode *node, const char *name);

/* Value of an attribute; NULL if absent (or @node is NULL). Free with g_free(). */
char *vmb_node_get(const xmlNode *node, const char *attribute);
gboolean vmb_node_has_value(const xmlNode *node, const char *attribute, const char *value);
void vmb_node_set(xmlNode *node, const char *attribute, const char *value);
void vmb_node_unset(xmlNode *node, const char *attribute);

/* All text inside @node, without spaces around it. Free with g_free(). */
char *vmb_node_content(const xmlNode *node);
/* Replaces everything inside @node by @text (NULL: nothing). */
void vmb_node_set_content(xmlNode *node, const char *text);

/* Deletes @node; all children of @parent called @name. */
void vmb_node_remove(xmlNode *node);
void vmb_node_remove_children(xmlNode *parent, const char *name);
