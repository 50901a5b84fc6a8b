/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The only way to standard output: results for people and for programs. */
#include "cli/output.h"
#include "util/error.h"
#include "util/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static GMutex lock;
static int first_errno;      /* of a write that failed */
static gboolean any_element; /* of the list that is being written */
static void (*hook_before)(void);
static void (*hook_after)(void);

void
vmb_output_set_hooks(void (*before)(void), void (*after)(void))
{
    g_mutex_lock(&lock);
    hook_before = before;
    hook_after = after;
    g_mutex_unlock(&lock);
}

static void
put(const char *text, const char *end, gboolean flush)
{
    g_mutex_lock(&lock);
    if (hook_before != NULL)
        hook_before();
    errno = 0;
    if ((fputs(text, stdout) == EOF || fputs(end, stdout) == EOF ||
         (flush && fflush(stdout) == EOF)) &&
        first_errno == 0)
        first_errno = errno != 0 ? errno : EIO;
    if (hook_after != NULL)
        hook_after();
    g_mutex_unlock(&lock);
}

void
vmb_output_line(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *clean = vmb_text_clean(text);
    put(clean, "\n", TRUE);
}

void
vmb_output_text(const char *text)
{
    put(text, "", FALSE);
}

/* Takes @object. */
static char *
json_text(VmbJson *object, int flags)
{
    char *text = vmb_text_json_ascii_controls(
        json_object_to_json_string_ext(object, flags | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(object);
    return text;
}

static void
put_json(VmbJson *object, int flags)
{
    g_autofree char *text = json_text(object, flags);
    put(text, "\n", TRUE);
}

void
vmb_output_json_line(VmbJson *object)
{
    put_json(object, JSON_C_TO_STRING_PLAIN);
}

void
vmb_output_json_document(VmbJson *object)
{
    put_json(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
}

void
vmb_output_json_open(VmbJson *head, const char *key)
{
    g_autofree char *text = json_text(head, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
    g_autofree char *end = g_strdup_printf(",\n  \"%s\": [", key);
    text[strlen(text) - strlen("\n}")] = '\0';
    any_element = FALSE;
    put(text, end, FALSE);
}

void
vmb_output_json_element(VmbJson *object)
{
    g_autofree char *text = json_text(object, JSON_C_TO_STRING_SPACED);
    put(any_element ? ",\n    " : "\n    ", text, FALSE);
    any_element = TRUE;
}

void
vmb_output_json_close(void)
{
    put(any_element ? "\n  ]\n}" : "]\n}", "\n", TRUE);
}

gboolean
vmb_output_finish(GError **error)
{
    if (fflush(stdout) == EOF && first_errno == 0)
        first_errno = errno;
    return first_errno == 0 || vmb_error_errno(error, first_errno, "cannot write the result");
}
