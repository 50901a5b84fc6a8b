/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages for people, on standard error, cleaned of control characters. */
#pragma once
#include <glib.h>

typedef enum {
    VMB_LOG_ERROR,
    VMB_LOG_WARNING,
    VMB_LOG_NOTICE, /* what a user wants to know without asking; silent under -q */
    VMB_LOG_INFO,   /* -v */
    VMB_LOG_DEBUG,  /* -vv: never secrets, never XML with security information */
} VmbLogLevel;

/* Messages above @level are dropped. Default: VMB_LOG_NOTICE. */
void vmb_log_set_level(VmbLogLevel level);
VmbLogLevel vmb_log_level(void);

/* Called (under the log's lock) before and after a line is written, so that a progress bar can
 * step aside. Either may be NULL. */
void vmb_log_set_hooks(void (*before)(void), void (*after)(void));

/* Writes one line; the formatted text passes through vmb_text_clean(). Thread-safe. */
void vmb_log(VmbLogLevel level, const char *format, ...) G_GNUC_PRINTF(2, 3);

#define vmb_warning(...) vmb_log(VMB_LOG_WARNING, __VA_ARGS__)
#define vmb_notice(...) vmb_log(VMB_LOG_NOTICE, __VA_ARGS__)
#define vmb_info(...) vmb_log(VMB_LOG_INFO, __VA_ARGS__)
#define vmb_debug(...) vmb_log(VMB_LOG_DEBUG, __VA_ARGS__)
