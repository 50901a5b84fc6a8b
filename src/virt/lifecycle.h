/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Notices when a domain that is shut off is started, or its definition changes. */
#pragma once
#include "virt/domain.h"

/* How a domain came to be shut off. */
typedef struct {
    gboolean saved;    /* with its memory: the next start goes on from there */
    gboolean migrated; /* it runs, or ran, somewhere else */
} VmbShutOff;
gboolean vmb_shut_off_read(VmbDomain *domain, VmbShutOff *how, GError **error);
/* Its XML as VmbDomainInfo.inactive_xml. Free with g_free(). */
char *vmb_shut_off_xml(VmbDomain *domain, GError **error);

typedef struct VmbLifecycle VmbLifecycle;

/* From now on. Errors: VMB_ERROR_LIBVIRT. */
VmbLifecycle *vmb_lifecycle_watch(VmbDomain *domain, GError **error);
void vmb_lifecycle_free(VmbLifecycle *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbLifecycle, vmb_lifecycle_free)

/* TRUE if libvirt has told of anything that happened to the domain, or if it could not have told because
 * the connection was lost. An event that is under way may be missed: ask for the state as well. */
gboolean vmb_lifecycle_stirred(VmbLifecycle *watch);
