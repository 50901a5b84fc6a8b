/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading the XML of the backup job that a domain is running. */
#pragma once
#include "virt/domain.h"

/* *@active: the domain runs a backup job, whoever began it (a shut-off or vanished domain runs
 * none);
 * *@socket is then the path of its NBD server's socket, or NULL if it has none. Free with g_free().
 */
gboolean vmb_backup_xml_active(VmbDomain *domain, gboolean *active, char **socket, GError **error);

/* Path of the scratch image of the job's first disk; NULL if there is no job or it has none. Free
 * with g_free(). */
char *vmb_backup_xml_scratch(VmbDomain *domain);
