/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables of options: reading a command line by them, and printing them as help. */
#include "cli/options.h"
#include "util/error.h"
#include "util/units.h"

#include <string.h>

#define HELP_COLUMN 26
#define HELP_WIDTH 79

static const VmbOption *
find_option(const VmbOption *const *tables, guint n_tables, const char *name, gsize length,
            char letter)
{
    for (guint i = 0; i < n_tables; i++)
        for (const VmbOption *option = tables[i]; option->name != NULL; option++)
            if (letter != 0
                    ? option->letter == letter
                    : strlen(option->name) == length && memcmp(option->name, name, length) == 0)
                return option;
    return NULL;
}

static gboolean
takes_value(const VmbOption *option)
{
    return option->kind != VMB_OPTION_FLAG && option->kind != VMB_OPTION_COUNT;
}

static gboolean
read_list(const VmbOption *option, const char *text, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    for (guint i = 0; parts[i] != NULL; i++) {
        if (parts[i][0] == '\0')
            return vmb_error_set(error, VMB_ERROR_USAGE, "an empty name in '%s'", text);
        g_ptr_array_add(option->value, g_strdup(parts[i]));
    }
    return parts[0] != NULL || vmb_error_set(error, VMB_ERROR_USAGE, "the list is empty");
}

static gboolean
read_duration(const VmbOption *option, const char *text, GError **error)
{
    guint64 *value = option->value;
    if (!vmb_units_parse_duration(text, value, error))
        return FALSE;
    if (option->max == 0 || *value <= option->max)
        return TRUE;
    g_autofree char *most = vmb_units_format_duration(option->max);
    return vmb_error_set(error, VMB_ERROR_USAGE, "'%s' is too long: at most %s", text, most);
}

static gboolean
read_number(const VmbOption *option, const char *text, GError **error)
{
    guint64 number = 0;
    if (!g_ascii_string_to_unsigned(text, 10, 1, option->max, &number, NULL))
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "'%s' is not a number from 1 to %" G_GUINT64_FORMAT, text,
                             option->max);
    *(guint *)option->value = (guint)number;
    return TRUE;
}

static gboolean
read_choice(const VmbOption *option, const char *text, GError **error)
{
    g_auto(GStrv) words = g_strsplit(option->argument, "|", -1);
    for (guint i = 0; words[i] != NULL; i++)
        if (strcmp(words[i], text) == 0) {
            *(guint *)option->value = i;
            return TRUE;
        }
    g_autofree char *known = g_strjoinv(", ", words);
    return vmb_error_set(error, VMB_ERROR_USAGE, "'%s' is none of %s", text, known);
}

static gboolean
read_value(const VmbOption *option, const char *text, GError **error)
{
    switch (option->kind) {
    case VMB_OPTION_FLAG:
        *(gboolean *)option->value = TRUE;
        return TRUE;
    case VMB_OPTION_COUNT:
        ++*(guint *)option->value;
        return TRUE;
    case VMB_OPTION_STRING:
        *(const char **)option->value = text;
        return text[0] != '\0' || vmb_error_set(error, VMB_ERROR_USAGE, "the value is empty");
    case VMB_OPTION_EACH:
        g_ptr_array_add(option->value, g_strdup(text));
        return text[0] != '\0' || vmb_error_set(error, VMB_ERROR_USAGE, "the value is empty");
    case VMB_OPTION_LIST:
        return read_list(option, text, error);
    case VMB_OPTION_DURATION:
        return read_duration(option, text, error);
    case VMB_OPTION_NUMBER:
        return read_number(option, text, error);
    case VMB_OPTION_CHOICE:
        return read_choice(option, text, error);
    case VMB_OPTION_PARSED:
        return option->parse(text, option->value, error);
    }
    g_assert_not_reached();
}

/* For the readers that return a number of arguments. */
static int refuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static int
refuse(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    vmb_error_set(error, VMB_ERROR_USAGE, "%s", text);
    return -1;
}

/* @attached: the value in the same argument, or NULL. Returns how many arguments the option took.
 */
static int
apply(const VmbOption *option, const char *attached, char **args, GError **error)
{
    const char *value = attached;
    int used = 1;
    if (!takes_value(option) && attached != NULL)
        return refuse(error, "--%s takes no value", option->name);
    if (takes_value(option) && attached == NULL) {
        value = args[1];
        used = 2;
        if (value == NULL)
            return refuse(error, "--%s needs a value: %s", option->name, option->argument);
    }
    if (!read_value(option, value, error)) {
        g_prefix_error(error, "--%s: ", option->name);
        return -1;
    }
    return used;
}

static int
read_long(char **args, const VmbOption *const *tables, guint n_tables, GError **error)
{
    const char *name = args[0] + 2;
    gsize length = strcspn(name, "=");
    const VmbOption *option = find_option(tables, n_tables, name, length, 0);
    if (option == NULL)
        return refuse(error, "unknown option '--%.*s'", (int)length, name);
    return apply(option, name[length] == '=' ? name + length + 1 : NULL, args, error);
}

/* Letters may stand together; the value of the last one may follow at once. */
static int
read_short(char **args, const VmbOption *const *tables, guint n_tables, GError **error)
{
    for (const char *p = args[0] + 1; *p != '\0'; p++) {
        const VmbOption *option = find_option(tables, n_tables, NULL, 0, *p);
        if (option == NULL) {
            const char *end = g_utf8_find_next_char(p, NULL);
            return refuse(error, "unknown option '-%.*s'", (int)(end - p), p);
        }
        if (takes_value(option))
            return apply(option, p[1] != '\0' ? p + 1 : NULL, args, error);
        if (apply(option, NULL, args, error) < 0)
            return -1;
    }
    return 1;
}

int
vmb_options_read(char **args, const VmbOption *const *tables, guint n_tables, GPtrArray *operands,
                 GError **error)
{
    int i = 0;
    gboolean only_operands = FALSE;
    while (args[i] != NULL) {
        gboolean is_option = !only_operands && args[i][0] == '-' && args[i][1] != '\0';
        if (!is_option && operands == NULL)
            return i;
        int used = 1;
        if (!is_option)
            g_ptr_array_add(operands, args[i]);
        else if (strcmp(args[i], "--") == 0)
            only_operands = TRUE;
        else if (args[i][1] == '-')
            used = read_long(args + i, tables, n_tables, error);
        else
            used = read_short(args + i, tables, n_tables, error);
        if (used < 0)
            return -1;
        i += used;
    }
    return i;
}

static void
append_wrapped(GString *out, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    gsize column = HELP_COLUMN;
    for (guint i = 0; words[i] != NULL; i++) {
        gsize length = strlen(words[i]);
        if (i > 0 && column + 1 + length > HELP_WIDTH) {
            g_string_append_printf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (i > 0) {
            g_string_append_c(out, ' ');
            column++;
        }
        g_string_append(out, words[i]);
        column += length;
    }
    g_string_append_c(out, '\n');
}

void
vmb_options_help(const VmbOption *table, GString *out)
{
    for (const VmbOption *option = table; option->name != NULL; option++) {
        g_autoptr(GString) left = g_string_new("  ");
        if (option->letter != 0)
            g_string_append_printf(left, "-%c, ", option->letter);
        else
            g_string_append(left, "    ");
        g_string_append_printf(left, "--%s", option->name);
        if (option->argument != NULL)
            g_string_append_printf(left, " %s", option->argument);
        g_string_append(out, left->str);
        if (left->len + 2 > HELP_COLUMN)
            g_string_append_printf(out, "\n%*s", HELP_COLUMN, "");
        else
            g_string_append_printf(out, "%*s", (int)(HELP_COLUMN - left->len), "");
        append_wrapped(out, option->help);
    }
}
