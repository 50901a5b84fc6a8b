/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The error codes of vmbackup; each leads to one documented exit status. */
#pragma once
#include <glib.h>

#define VMB_ERROR (vmb_error_quark())
GQuark vmb_error_quark(void);

typedef enum {
    VMB_ERROR_FAILED,        /* anything without a code of its own: exit 1 */
    VMB_ERROR_USAGE,         /* wrong option or configuration: exit 2 */
    VMB_ERROR_DAMAGE,        /* stored data or metadata is damaged: exit 4 */
    VMB_ERROR_NO_REPOSITORY, /* no repository, or one that we must not use: exit 10 */
    VMB_ERROR_LOCKED,        /* another run or a foreign job is in the way: exit 11 */
    VMB_ERROR_LIBVIRT,       /* libvirt cannot be reached: exit 20 */
    VMB_ERROR_DOMAIN,        /* domain or point missing, or not eligible: exit 21 */
    VMB_ERROR_QUIESCE,       /* quiesce was required and failed: exit 22 */
    VMB_ERROR_NO_INCREMENTAL,/* an incremental was demanded and is impossible: exit 23 */
    VMB_ERROR_NO_SPACE,      /* target, staging or scratch is full: exit 1 */
    VMB_ERROR_NO_PROGRESS,   /* a server or a target stood still past its deadline: exit 1 */
    VMB_ERROR_CANCELLED,     /* a signal: exit 128 + its number */
} VmbErrorCode;

/* Sets @error from errno @err ("MESSAGE: STRERROR"); ENOSPC and EDQUOT become VMB_ERROR_NO_SPACE,
 * everything else VMB_ERROR_FAILED. Always returns FALSE, for `return vmb_error_errno(...)`. */
gboolean vmb_error_errno(GError **error, int err, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* g_set_error() that returns FALSE. */
gboolean vmb_error_set(GError **error, VmbErrorCode code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
