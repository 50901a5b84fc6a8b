/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The domain's configuration goes into the point: XML, NVRAM, kernel, TPM state. */
#pragma once
#include <gio/gio.h>
#include "repo/transaction.h"
#include "virt/domain.h"

/* Before the job: both XMLs (an error if they cannot be written; a shut-off domain has no live one), NVRAM, kernel, initrd and device tree
 * (absent ones are nothing, unreadable ones a reason). */
gboolean vmb_save_config(VmbTransaction *transaction, VmbManifest *manifest,
                         const VmbDomainInfo *info, const char *domain, GPtrArray *reasons,
                         GError **error);

/* After the job has begun: the state of an emulated TPM, read twice until it is equal. */
gboolean vmb_save_tpm(VmbTransaction *transaction, VmbManifest *manifest, const VmbDomainInfo *info,
                      const char *domain, GPtrArray *reasons, GCancellable *cancel,
                      GError **error);
