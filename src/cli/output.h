/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The only way to standard output: results for people and for programs. */
#pragma once
#include "util/json.h"

/* Called before and after something is written, so that a progress bar can step aside. May be NULL.
 */
void vmb_output_set_hooks(void (*before)(void), void (*after)(void));

/* Writes one line; the formatted text is cleaned of control characters. Thread-safe. */
void vmb_output_line(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* Writes @text as it is. */
void vmb_output_text(const char *text);

/* Takes @object and writes it on one line of its own, flushed at once / as an indented document. */
void vmb_output_json_line(VmbJson *object);
void vmb_output_json_document(VmbJson *object);

/* The same for a document that ends in a list of any length: what @head (taken) has, then the list @key,
 * whose elements (taken) follow one by one, each on a line. */
void vmb_output_json_open(VmbJson *head, const char *key);
void vmb_output_json_element(VmbJson *object);
void vmb_output_json_close(void);

/* Flushes. Errors: VMB_ERROR_FAILED or VMB_ERROR_NO_SPACE if anything could not be written. */
gboolean vmb_output_finish(GError **error);
