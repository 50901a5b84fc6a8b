/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Defining and starting a restored domain, and taking that back. */
#pragma once
#include "virt/connection.h"

/* Whether a domain with this name or UUID exists already; *@what gets a sentence that says which. */
gboolean vmb_define_conflict(VmbConnection *connection, const char *name, const char *uuid,
                             char **what, GError **error);

/* Name and UUID that the XML of a domain carries; either may come back NULL. Free with g_free(). */
gboolean vmb_define_identity(const char *xml, char **name, char **uuid, GError **error);

/* A domain that is undefined again when it is freed, unless it was kept. */
typedef struct VmbDefined VmbDefined;
VmbDefined *vmb_defined_new(VmbConnection *connection, const char *xml, GError **error);
const char *vmb_defined_name(VmbDefined *defined);
/* Where libvirt expects the state of the domain's emulated TPM; NULL if it has none. @xml: what it was
 * defined with. Free with g_free(). */
char *vmb_defined_tpm_dir(VmbDefined *defined, const char *uri, const char *xml);
gboolean vmb_defined_start(VmbDefined *defined, GError **error);
void vmb_defined_keep(VmbDefined *defined);
void vmb_defined_free(VmbDefined *defined);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDefined, vmb_defined_free)
