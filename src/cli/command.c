/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all verbs share: the general options, their help, and how a verb begins and ends. */
#include "cli/command.h"
#include "cli/exit-status.h"
#include "cli/output.h"
#include "util/log.h"

#include <string.h>

#define N_GENERAL 7

static void
general_options(VmbCommand *command, VmbOption table[N_GENERAL])
{
    const VmbOption options[N_GENERAL] = {
        {"repo", 'r', VMB_OPTION_STRING, "DIR", "the repository (else VMBACKUP_REPOSITORY)",
         &command->repository},
        {"connect", 'c', VMB_OPTION_STRING, "URI",
         "libvirt connection (else LIBVIRT_DEFAULT_URI, else qemu:///system)", &command->uri},
        {"quiet", 'q', VMB_OPTION_FLAG, NULL, "only warnings and errors", &command->quiet},
        {"verbose", 'v', VMB_OPTION_COUNT, NULL, "tell more; twice: everything", &command->verbose},
        {"help", 'h', VMB_OPTION_FLAG, NULL, "help on vmbackup, or on a verb", &command->help},
        {"version", 0, VMB_OPTION_FLAG, NULL, "the program's version", &command->version},
    };
    memcpy(table, options, sizeof options);
}

static void
print_overview(const VmbVerb *verbs, const VmbOption *general)
{
    g_autoptr(GString) out = g_string_new(
        "Usage: vmbackup [OPTION]... VERB [ARGUMENT]...\n"
        "Back up running libvirt/QEMU virtual machines, incrementally, and restore them.\n\n"
        "Verbs:\n");
    for (const VmbVerb *verb = verbs; verb->name != NULL; verb++)
        g_string_append_printf(out, "  %-10s%s\n", verb->name, verb->summary);
    g_string_append(out, "\nGeneral options, before or after the verb:\n");
    vmb_options_help(general, out);
    g_string_append(out, "\n'vmbackup VERB --help' tells of a verb; the manual is vmbackup(1).\n");
    vmb_output_text(out->str);
}

static void
print_verb_help(const VmbVerb *verb, const VmbOption *options)
{
    g_autoptr(GString) out = g_string_new(NULL);
    g_string_append_printf(out, "Usage: vmbackup [GENERAL]... %s [OPTION]...%s%s\n%c%s.\n\n",
                           verb->name, verb->operands[0] != '\0' ? " " : "", verb->operands,
                           g_ascii_toupper(verb->summary[0]), verb->summary + 1);
    g_string_append_printf(out, "Examples:\n%s", verb->examples);
    if (options->name != NULL)
        g_string_append(out, "\nOptions:\n");
    vmb_options_help(options, out);
    g_string_append_printf(out,
                           "\nGeneral options (-r, -c, -q, -v and more): see 'vmbackup --help'."
                           "\nThe manual is vmbackup-%s(1).\n",
                           verb->name);
    vmb_output_text(out->str);
}

int
vmb_command_fail(const GError *error)
{
    vmb_log(VMB_LOG_ERROR, "%s", error->message);
    return vmb_exit_status(error);
}

/* A command line that cannot be read: where to read on, but not the whole help. */
static int
fail_usage(const VmbCommand *command, const GError *error)
{
    const char *verb = command->verb != NULL ? command->verb->name : NULL;
    vmb_log(VMB_LOG_ERROR, "%s; see 'vmbackup%s%s --help'", error->message, verb != NULL ? " " : "",
            verb != NULL ? verb : "");
    return VMB_EXIT_USAGE;
}

static gboolean
check_operands(const VmbCommand *command, guint min, guint max, GError **error)
{
    guint n = command->operands->len;
    if (n < min)
        return vmb_error_set(error, VMB_ERROR_USAGE, "missing argument: vmbackup %s %s",
                             command->verb->name, command->verb->operands);
    if (n > max)
        return vmb_error_set(error, VMB_ERROR_USAGE, "unexpected argument '%s'",
                             (const char *)g_ptr_array_index(command->operands, max));
    for (guint i = 0; i < n; i++)
        if (((const char *)g_ptr_array_index(command->operands, i))[0] == '\0')
            return vmb_error_set(error, VMB_ERROR_USAGE, "an argument is empty");
    return TRUE;
}

static gboolean
print_if_asked(const VmbCommand *command, const VmbOption *options)
{
    if (command->version)
        vmb_output_text("vmbackup " VMB_VERSION "\n");
    else if (command->help)
        print_verb_help(command->verb, options);
    return command->version || command->help;
}

gboolean
vmb_command_begin(VmbCommand *command, const VmbOption *options, guint min, guint max, int *status)
{
    VmbOption general[N_GENERAL] = {0};
    general_options(command, general);
    const VmbOption *const tables[] = {options, general};
    g_autoptr(GError) error = NULL;
    *status = VMB_EXIT_OK;
    gboolean good = vmb_options_read(command->args, tables, G_N_ELEMENTS(tables), command->operands,
                                     &error) >= 0;
    if (good && print_if_asked(command, options))
        return FALSE;
    if (!good || !check_operands(command, min, max, &error)) {
        *status = fail_usage(command, error);
        return FALSE;
    }
    g_ptr_array_add(command->operands, NULL);
    if (command->quiet)
        vmb_log_set_level(VMB_LOG_WARNING);
    else if (command->verbose > 0)
        vmb_log_set_level(command->verbose > 1 ? VMB_LOG_DEBUG : VMB_LOG_INFO);
    return TRUE;
}

const char *
vmb_command_repository(const VmbCommand *command, GError **error)
{
    const char *path = command->repository;
    if (path == NULL)
        path = g_getenv("VMBACKUP_REPOSITORY");
    if (path != NULL && path[0] != '\0')
        return path;
    vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                  "no repository was named: give -r DIR or set VMBACKUP_REPOSITORY");
    return NULL;
}

const char *const *
vmb_command_operands(const VmbCommand *command)
{
    return (const char *const *)command->operands->pdata;
}

const char *const *
vmb_command_vector(GPtrArray *list)
{
    if (list->len == 0)
        return NULL;
    g_ptr_array_add(list, NULL);
    return (const char *const *)list->pdata;
}

static const VmbVerb *
find_verb(const VmbVerb *verbs, const char *name, GError **error)
{
    for (const VmbVerb *verb = verbs; verb->name != NULL; verb++)
        if (strcmp(verb->name, name) == 0)
            return verb;
    vmb_error_set(error, VMB_ERROR_USAGE, "unknown verb '%s'", name);
    return NULL;
}

static int
run_verb(VmbCommand *command, const VmbVerb *verbs, const char *name)
{
    g_autoptr(GError) error = NULL;
    const VmbVerb *verb = find_verb(verbs, name, &error);
    if (verb == NULL)
        return fail_usage(command, error);
    g_autoptr(GPtrArray) operands = g_ptr_array_new();
    command->verb = verb;
    command->operands = operands;
    int status = verb->run(command);
    if (vmb_output_finish(&error))
        return status;
    vmb_log(VMB_LOG_ERROR, "%s", error->message);
    return status != VMB_EXIT_OK ? status : VMB_EXIT_FAILED;
}

int
vmb_command_main(const VmbVerb *verbs, int argc, char **argv)
{
    VmbCommand command = {0};
    VmbOption general[N_GENERAL] = {0};
    general_options(&command, general);
    const VmbOption *const tables[] = {general};
    g_autoptr(GError) error = NULL;
    int used = vmb_options_read(argv + 1, tables, 1, NULL, &error);
    if (used < 0)
        return fail_usage(&command, error);
    char **rest = argv + 1 + used;
    if (rest[0] == NULL && (command.version || command.help)) {
        if (command.version)
            vmb_output_text("vmbackup " VMB_VERSION "\n");
        else
            print_overview(verbs, general);
        return vmb_output_finish(&error) ? VMB_EXIT_OK : vmb_command_fail(error);
    }
    if (rest[0] == NULL) {
        vmb_error_set(&error, VMB_ERROR_USAGE, "no verb was given");
        return fail_usage(&command, error);
    }
    command.args = rest + 1;
    return run_verb(&command, verbs, rest[0]);
}
