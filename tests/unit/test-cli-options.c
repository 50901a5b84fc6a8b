/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options: reading command lines by tables, and their help. */
#include "cli/options.h"
#include "cli/table.h"
#include "util/error.h"

#include <string.h>

typedef struct {
    gboolean flag, other;
    guint count, number, choice, parsed;
    const char *text;
    guint64 duration;
    GPtrArray *list, *each, *operands;
    int used;
} Values;

static gboolean
parse_hex(const char *text, void *value, GError **error)
{
    guint64 number = 0;
    if (!g_ascii_string_to_unsigned(text, 16, 0, 255, &number, NULL))
        return vmb_error_set(error, VMB_ERROR_USAGE, "'%s' is not hexadecimal", text);
    *(guint *)value = (guint)number;
    return TRUE;
}

static void
values_clear(Values *values)
{
    g_ptr_array_unref(values->list);
    g_ptr_array_unref(values->each);
    g_ptr_array_unref(values->operands);
}

/* @line: arguments separated by '|' */
static gboolean
read_line(const char *line, gboolean stop, Values *values, char ***args, GError **error)
{
    *values = (Values){.list = g_ptr_array_new_with_free_func(g_free),
                       .each = g_ptr_array_new_with_free_func(g_free),
                       .operands = g_ptr_array_new()};
    const VmbOption first[] = {
        {"flag", 'f', VMB_OPTION_FLAG, NULL, "a flag", &values->flag},
        {"count", 'c', VMB_OPTION_COUNT, NULL, "a count", &values->count},
        {"text", 't', VMB_OPTION_STRING, "TEXT", "a text", &values->text},
        {"list", 'l', VMB_OPTION_LIST, "A,B", "a list", values->list},
        {"each", 0, VMB_OPTION_EACH, "A", "each", values->each},
        {NULL},
    };
    const VmbOption second[] = {
        {"other", 'o', VMB_OPTION_FLAG, NULL, "another flag", &values->other},
        {"number", 'n', VMB_OPTION_NUMBER, "N", "a number", &values->number, 64},
        {"duration", 'd', VMB_OPTION_DURATION, "TIME", "a time", &values->duration,
         G_GUINT64_CONSTANT(60000000000)},
        {"choice", 0, VMB_OPTION_CHOICE, "red|green|blue", "a colour", &values->choice},
        {"hex", 0, VMB_OPTION_PARSED, "HEX", "parsed", &values->parsed, 0, parse_hex},
        {NULL},
    };
    const VmbOption *const tables[] = {first, second};
    *args = line[0] != '\0' ? g_strsplit(line, "|", -1) : g_new0(char *, 1);
    values->used = vmb_options_read(*args, tables, 2, stop ? NULL : values->operands, error);
    return values->used >= 0;
}

static void
test_good(void)
{
    Values v;
    g_auto(GStrv) args = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_true(read_line("a|-fcc|--text=x=y|-lp,q|b|--list|r|--number|64|-d1m|--choice=blue|"
                            "--each|x,y|--hex=ff|-|--|-o|--flag",
                            FALSE, &v, &args, &error));
    g_assert_no_error(error);
    g_assert_true(v.flag);
    g_assert_false(v.other);
    g_assert_cmpuint(v.count, ==, 2);
    g_assert_cmpstr(v.text, ==, "x=y");
    g_assert_cmpuint(v.list->len, ==, 3);
    g_assert_cmpstr(v.list->pdata[2], ==, "r");
    g_assert_cmpstr(v.each->pdata[0], ==, "x,y");
    g_assert_cmpuint(v.number, ==, 64);
    g_assert_cmpuint(v.choice, ==, 2);
    g_assert_cmpuint(v.parsed, ==, 255);
    g_assert_cmpuint(v.duration, ==, G_GUINT64_CONSTANT(60000000000));
    g_assert_cmpuint(v.operands->len, ==, 5);
    g_assert_cmpstr(v.operands->pdata[2], ==, "-");
    g_assert_cmpstr(v.operands->pdata[4], ==, "--flag");
    values_clear(&v);
}

static void
test_stops_at_operand(void)
{
    Values v;
    g_auto(GStrv) args = NULL;
    g_assert_true(read_line("-f|--text|x|verb|--nonsense", TRUE, &v, &args, NULL));
    g_assert_cmpint(v.used, ==, 3);
    values_clear(&v);
}

static void
test_bad(void)
{
    static const struct {
        const char *line, *part;
    } bad[] = {
        {"--nonsense", "unknown option '--nonsense'"},
        {"--fla", "unknown option '--fla'"},
        {"--flagg=1", "unknown option '--flagg'"},
        {"-fx", "unknown option '-x'"},
        {"-f\303\244", "unknown option '-\303\244'"},
        {"--flag=yes", "takes no value"},
        {"--text", "needs a value: TEXT"},
        {"-t", "needs a value"},
        {"--text=", "empty"},
        {"--list=", "empty"},
        {"--list=a,,b", "empty name"},
        {"--number=0", "not a number from 1 to 64"},
        {"--number=65", "not a number"},
        {"--number=1x", "not a number"},
        {"--number=-1", "not a number"},
        {"--duration=61s", "at most 1m 00s"},
        {"--duration=soon", "not a duration"},
        {"--choice=yellow", "none of red, green, blue"},
        {"--choice=", "none of"},
        {"--hex=xyz", "--hex: 'xyz' is not hexadecimal"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        Values v;
        g_auto(GStrv) args = NULL;
        g_autoptr(GError) error = NULL;
        g_assert_false(read_line(bad[i].line, FALSE, &v, &args, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_USAGE);
        if (strstr(error->message, bad[i].part) == NULL)
            g_error("'%s' is not in '%s'", bad[i].part, error->message);
        values_clear(&v);
    }
}

static void
test_help(void)
{
    const VmbOption table[] = {
        {"short", 's', VMB_OPTION_FLAG, NULL, "one line"},
        {"a-rather-long-name", 0, VMB_OPTION_STRING, "ARGUMENT",
         "a text that is so long that it has to go on in the next line, and even in the one after "
         "that one, because it does not come to an end"},
        {NULL},
    };
    g_autoptr(GString) out = g_string_new(NULL);
    vmb_options_help(table, out);
    g_auto(GStrv) lines = g_strsplit(out->str, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 6);
    g_assert_cmpstr(lines[0], ==, "  -s, --short             one line");
    for (guint i = 0; lines[i] != NULL; i++)
        g_assert_cmpuint(vmb_text_width(lines[i]), <=, 79);
    g_assert_true(g_str_has_prefix(lines[2], "                          a text"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli-options/good", test_good);
    g_test_add_func("/cli-options/stops-at-operand", test_stops_at_operand);
    g_test_add_func("/cli-options/bad", test_bad);
    g_test_add_func("/cli-options/help", test_help);
    return g_test_run();
}
