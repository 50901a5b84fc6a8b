/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages for people, on standard error, cleaned of control characters. */
#include "util/log.h"
#include "util/text.h"

#include <stdio.h>

static GMutex lock;
static VmbLogLevel threshold = VMB_LOG_NOTICE;
static void (*hook_before)(void);
static void (*hook_after)(void);

void
vmb_log_set_level(VmbLogLevel level)
{
    g_atomic_int_set((gint *)&threshold, (gint)level);
}

VmbLogLevel
vmb_log_level(void)
{
    return (VmbLogLevel)g_atomic_int_get((gint *)&threshold);
}

void
vmb_log_set_hooks(void (*before)(void), void (*after)(void))
{
    g_mutex_lock(&lock);
    hook_before = before;
    hook_after = after;
    g_mutex_unlock(&lock);
}

void
vmb_log(VmbLogLevel level, const char *format, ...)
{
    static const char *const prefix[] = {"vmbackup: error: ", "vmbackup: warning: ", "vmbackup: ",
                                         "vmbackup: ", "vmbackup: debug: "};
    if (level > vmb_log_level())
        return;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *clean = vmb_text_clean(text);
    g_mutex_lock(&lock);
    if (hook_before != NULL)
        hook_before();
    fprintf(stderr, "%s%s\n", prefix[level], clean);
    if (hook_after != NULL)
        hook_after();
    g_mutex_unlock(&lock);
}
