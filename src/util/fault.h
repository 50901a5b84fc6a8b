/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Named points at which tests make the program fail, die or wait. */
#pragma once
#include <glib.h>

/* Every step that changes something outside calls this with its name. The environment variable
 * VMBACKUP_TEST_FAIL_AT holds comma-separated `NAME=ACTION`, ACTION being
 *   fail       return FALSE with VMB_ERROR_FAILED
 *   enospc     return FALSE with VMB_ERROR_NO_SPACE
 *   kill       die by SIGKILL
 *   term, int  send that signal to ourselves and go on
 *   delay:MS   wait so many milliseconds
 *   stop       SIGSTOP ourselves
 *   wait:FILE  wait until FILE exists (at most 60 s), having created FILE.reached
 * `NAME` alone means `NAME=kill`. Without the variable this is one pointer comparison. Every name
 * stands in the table of fault.c; an unknown one in the variable ends the program with status 2.
 * Returns TRUE to go on. */
gboolean vmb_fault_point(const char *name, GError **error);

/* The names of all fault points, NULL-terminated; for tests that walk through them. */
const char *const *vmb_fault_points(void);
