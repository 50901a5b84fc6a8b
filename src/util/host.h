/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which host this is, and which of its boots. */
#pragma once
#include <glib.h>

/* 32 hexadecimal digits that are the same for all time on one installation of an operating system
 * and different on every other: made of /etc/machine-id, which they do not reveal. NULL where there
 * is none, as in some containers. Owned by the process. */
const char *vmb_host_id(void);
/* The same of another file than /etc/machine-id, for tests. Free with g_free(). */
char *vmb_host_id_of(const char *path);

/* 16 hexadecimal digits that change with every boot; NULL if the kernel does not tell. Owned by the
 * process. */
const char *vmb_host_boot(void);

/* TRUE if what was recorded as host @id (NULL: not known) with the name @name (NULL: not known) is
 * known to be another host than this one: by the ids, or where one of them is missing, by the
 * names. */
gboolean vmb_host_is_other(const char *id, const char *name);
