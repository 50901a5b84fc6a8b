/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where libvirt keeps the state of an emulated TPM. */
#pragma once
#include "virt/xml.h"

/* Directory of the state by the <devices> element of a domain with @uuid on the connection @uri; NULL if
 * it has no emulated TPM. Source: libvirt's qemu_tpm.c. Free with g_free(). */
char *vmb_tpm_state_dir(const char *uri, const char *uuid, xmlNode *devices);
