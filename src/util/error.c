/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The error quark and the two helpers that set an error and return FALSE. */
#include "util/error.h"

#include <errno.h>

G_DEFINE_QUARK(vmb-error-quark, vmb_error)

gboolean
vmb_error_errno(GError **error, int err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    VmbErrorCode code =
        err == ENOSPC || err == EDQUOT ? VMB_ERROR_NO_SPACE : VMB_ERROR_FAILED;
    g_set_error(error, VMB_ERROR, code, "%s: %s", message, g_strerror(err));
    return FALSE;
}

gboolean
vmb_error_set(GError **error, VmbErrorCode code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (error != NULL)
        g_propagate_error(error, g_error_new_valist(VMB_ERROR, code, format, args));
    va_end(args);
    return FALSE;
}
