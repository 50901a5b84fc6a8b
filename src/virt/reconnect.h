/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Steps that must succeed although libvirt's daemon may be restarted in between. */
#pragma once
#include "virt/domain.h"

typedef gboolean (*VmbVirtStep)(VmbDomain *domain, gpointer data, GError **error);

/* Runs @step; while it fails because the connection is lost (VMB_ERROR_LIBVIRT), opens the connection
 * anew, finds the domain again and repeats the step, as long as vmb_connection_patience() allows: 20 s for
 * all steps together, later ones try once. @step must be harmless to repeat. Errors: those of the step, or of
 * the connection. */
gboolean vmb_virt_reconnecting(VmbDomain *domain, VmbVirtStep step, gpointer data, GError **error);
