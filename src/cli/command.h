/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all verbs share: the general options, their help, and how a verb begins and ends. */
#pragma once
#include "cli/options.h"
#include "util/error.h"

typedef struct VmbCommand VmbCommand;

/* One verb. A table of them ends with an entry without a name. */
typedef struct {
    const char *name;
    const char *summary;             /* one line */
    const char *operands;            /* as in a synopsis, or "" */
    const char *examples;            /* lines, each indented by two and ending in a line feed */
    int (*run)(VmbCommand *command); /* returns the exit status */
} VmbVerb;

struct VmbCommand {
    const VmbVerb *verb;
    char **args;            /* what follows the verb */
    const char *repository; /* of -r; use vmb_command_repository() */
    const char *uri;        /* of -c; NULL: the environment, then qemu:///system */
    guint verbose;
    gboolean quiet, help, version;
    GPtrArray *operands; /* set by vmb_command_begin(), borrowed texts, NULL-terminated */
};

/* Reads the general options in front of the verb, looks the verb up and runs it. Returns the exit
 * status of the program. */
int vmb_command_main(const VmbVerb *verbs, int argc, char **argv);

/* Reads the verb's options (@options, ends with an entry without a name) and @min to @max operands,
 * and sets the log level. FALSE if there is nothing more to do: help was printed or the usage is
 * wrong; then *@status is the exit status. */
gboolean vmb_command_begin(VmbCommand *command, const VmbOption *options, guint min, guint max,
                           int *status);

/* The repository's path, from -r or VMBACKUP_REPOSITORY. Errors: VMB_ERROR_NO_REPOSITORY. */
const char *vmb_command_repository(const VmbCommand *command, GError **error);

/* The operands as a NULL-terminated vector, borrowed. */
const char *const *vmb_command_operands(const VmbCommand *command);

/* Ends a list that an option filled; NULL if it is empty. Borrowed from @list. */
const char *const *vmb_command_vector(GPtrArray *list);

/* Tells @error. Returns the exit status. */
int vmb_command_fail(const GError *error);
