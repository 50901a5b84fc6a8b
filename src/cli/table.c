/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables for people: columns as wide as their widest cell, counted in terminal cells. */
#include "cli/table.h"
#include "util/text.h"

struct VmbTable {
    guint n_columns;
    gboolean *right;
    GPtrArray *cells; /* char *, row after row, the headers first */
};

guint
vmb_text_width(const char *text)
{
    guint width = 0;
    const char *p = text;
    for (; *p >= 0x20 && *p < 0x7f; p++)
        width++;
    for (; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        if (!g_unichar_iszerowidth(c))
            width += g_unichar_iswide(c) ? 2 : 1;
    }
    return width;
}

VmbTable *
vmb_table_new(const char *const *headers)
{
    VmbTable *table = g_new0(VmbTable, 1);
    table->n_columns = g_strv_length((char **)headers);
    table->right = g_new0(gboolean, table->n_columns);
    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < table->n_columns; i++) {
        table->right[i] = headers[i][0] == '>';
        g_ptr_array_add(table->cells, g_strdup(headers[i] + (table->right[i] ? 1 : 0)));
    }
    return table;
}

void
vmb_table_free(VmbTable *table)
{
    if (table == NULL)
        return;
    g_free(table->right);
    g_ptr_array_unref(table->cells);
    g_free(table);
}

void
vmb_table_add(VmbTable *table, ...)
{
    va_list args;
    va_start(args, table);
    for (guint i = 0; i < table->n_columns; i++) {
        const char *cell = va_arg(args, const char *);
        g_ptr_array_add(table->cells, vmb_text_clean(cell != NULL ? cell : "-"));
    }
    va_end(args);
}

guint
vmb_table_rows(const VmbTable *table)
{
    return table->cells->len / table->n_columns - 1;
}

static guint
column_width(const VmbTable *table, guint column)
{
    guint width = 0;
    for (guint i = column; i < table->cells->len; i += table->n_columns)
        width = MAX(width, vmb_text_width(g_ptr_array_index(table->cells, i)));
    return width;
}

static void
append_row(const VmbTable *table, guint row, const guint *widths, GString *out)
{
    for (guint i = 0; i < table->n_columns; i++) {
        const char *cell = g_ptr_array_index(table->cells, row * table->n_columns + i);
        int padding = (int)(widths[i] - vmb_text_width(cell));
        if (i > 0)
            g_string_append(out, "  ");
        if (table->right[i])
            g_string_append_printf(out, "%*s%s", padding, "", cell);
        else
            g_string_append_printf(out, "%s%*s", cell, padding, "");
    }
    while (out->len > 0 && out->str[out->len - 1] == ' ')
        g_string_truncate(out, out->len - 1);
    g_string_append_c(out, '\n');
}

char *
vmb_table_text(const VmbTable *table, const char *indent)
{
    g_autofree guint *widths = g_new(guint, table->n_columns);
    for (guint i = 0; i < table->n_columns; i++)
        widths[i] = column_width(table, i);
    GString *out = g_string_new(NULL);
    for (guint row = 0; row <= vmb_table_rows(table); row++) {
        g_string_append(out, indent);
        append_row(table, row, widths, out);
    }
    return g_string_free(out, FALSE);
}
