/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the program's exit status says, and the word for each kind of error. */
#include "cli/exit-status.h"
#include "cli/signals.h"

static const struct {
    const char *name;
    int status;
} table[] = {
    [VMB_ERROR_FAILED] = {"failed", VMB_EXIT_FAILED},
    [VMB_ERROR_USAGE] = {"usage", VMB_EXIT_USAGE},
    [VMB_ERROR_DAMAGE] = {"damage", VMB_EXIT_DAMAGE},
    [VMB_ERROR_NO_REPOSITORY] = {"no-repository", VMB_EXIT_NO_REPOSITORY},
    [VMB_ERROR_LOCKED] = {"locked", VMB_EXIT_LOCKED},
    [VMB_ERROR_LIBVIRT] = {"libvirt", VMB_EXIT_LIBVIRT},
    [VMB_ERROR_DOMAIN] = {"domain", VMB_EXIT_DOMAIN},
    [VMB_ERROR_QUIESCE] = {"quiesce", VMB_EXIT_QUIESCE},
    [VMB_ERROR_NO_INCREMENTAL] = {"no-incremental", VMB_EXIT_NO_INCREMENTAL},
    [VMB_ERROR_NO_SPACE] = {"no-space", VMB_EXIT_FAILED},
    [VMB_ERROR_NO_PROGRESS] = {"no-progress", VMB_EXIT_FAILED},
    [VMB_ERROR_CANCELLED] = {"cancelled", VMB_EXIT_FAILED},
};

static int
code_of(const GError *error)
{
    if (error->domain != VMB_ERROR || error->code < 0 || error->code >= (int)G_N_ELEMENTS(table))
        return VMB_ERROR_FAILED;
    return error->code;
}

int
vmb_exit_status(const GError *error)
{
    if (error == NULL)
        return VMB_EXIT_OK;
    int code = code_of(error);
    int number = vmb_signals_caught();
    if (code == VMB_ERROR_CANCELLED && number != 0)
        return VMB_EXIT_SIGNAL + number;
    return table[code].status;
}

const char *
vmb_error_name(const GError *error)
{
    return table[code_of(error)].name;
}

void
vmb_exit_tally_add(VmbExitTally *tally, const GError *error)
{
    if (error == NULL) {
        tally->n_ok++;
        return;
    }
    int status = vmb_exit_status(error);
    tally->n_failed++;
    if (code_of(error) == VMB_ERROR_CANCELLED)
        tally->cancelled = TRUE;
    if (tally->status == VMB_EXIT_OK)
        tally->status = status;
    else if (tally->status != status)
        tally->status = VMB_EXIT_FAILED;
}

int
vmb_exit_tally_status(const VmbExitTally *tally)
{
    int number = vmb_signals_caught();
    if (tally->cancelled && number != 0)
        return VMB_EXIT_SIGNAL + number;
    if (tally->n_failed == 0)
        return VMB_EXIT_OK;
    return tally->n_ok > 0 ? VMB_EXIT_PARTIAL : tally->status;
}
