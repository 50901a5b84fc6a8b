/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking another host's libvirt whether it runs a domain, too. */
#pragma once
#include "virt/connection.h"

/* Whether the libvirt at @uri (any that libvirt can reach, asked read-only) runs the domain @uuid.
 * If it is the same daemon as that of @own, *@runs is FALSE. It has 30 s to answer. *@host gets the
 * name of the host (free with g_free()). Errors: VMB_ERROR_LIBVIRT. */
gboolean vmb_peer_runs(VmbConnection *own, const char *uri, const char *uuid, gboolean *runs,
                       char **host, GError **error);
