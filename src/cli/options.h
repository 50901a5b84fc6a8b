/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables of options: reading a command line by them, and printing them as help. */
#pragma once
#include <glib.h>

typedef enum {
    VMB_OPTION_FLAG,     /* gboolean *: becomes TRUE */
    VMB_OPTION_COUNT,    /* guint *: one more each time */
    VMB_OPTION_STRING,   /* const char **: borrowed from the command line */
    VMB_OPTION_EACH,     /* GPtrArray *: one char * more each time */
    VMB_OPTION_LIST,     /* GPtrArray *: the same, split at commas */
    VMB_OPTION_DURATION, /* guint64 *: nanoseconds, at most @max if that is not 0 */
    VMB_OPTION_NUMBER,   /* guint *: 1 to @max */
    VMB_OPTION_CHOICE,   /* guint *: index in the words of @argument, which '|' separates */
    VMB_OPTION_PARSED,   /* anything that @parse understands */
} VmbOptionKind;

/* A table ends with an entry without a name. The arrays of EACH and LIST own their texts. */
typedef struct {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    VmbOptionKind kind;
    const char *argument; /* its name in the help; NULL for FLAG and COUNT */
    const char *help;
    void *value;
    guint64 max;
    gboolean (*parse)(const char *text, void *value, GError **error);
} VmbOption;

/* Reads @args (NULL-terminated) by the @n_tables tables. Options may stand after operands; "--"
 * ends them. @operands gets the rest, borrowed; if it is NULL, reading ends before the first
 * operand. Returns the number of arguments that were read, -1 on error. Errors: VMB_ERROR_USAGE. */
int vmb_options_read(char **args, const VmbOption *const *tables, guint n_tables,
                     GPtrArray *operands, GError **error);

/* Appends the table to @out, lines of at most 79 cells. */
void vmb_options_help(const VmbOption *table, GString *out);
