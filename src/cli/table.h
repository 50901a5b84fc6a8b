/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables for people: columns as wide as their widest cell, counted in terminal cells. */
#pragma once
#include <glib.h>

typedef struct VmbTable VmbTable;

/* @headers: NULL-terminated; one that begins with '>' is aligned to the right. */
VmbTable *vmb_table_new(const char *const *headers);
void vmb_table_free(VmbTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbTable, vmb_table_free)

/* Adds a row; as many texts as there are columns (NULL counts as "-"), cleaned of control
 * characters. */
void vmb_table_add(VmbTable *table, ...);
guint vmb_table_rows(const VmbTable *table);

/* The lines, each ending in a line feed, without spaces at their ends. Free with g_free(). */
char *vmb_table_text(const VmbTable *table, const char *indent);

/* Number of terminal cells that @text takes. */
guint vmb_text_width(const char *text);
