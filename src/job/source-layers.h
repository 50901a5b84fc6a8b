/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files behind a running disk are: recorded in the manifest, compared the next time. */
#pragma once
#include "repo/manifest.h"
#include "virt/domain.h"

/* A GPtrArray of VmbSourceLayer for all layers of @disk, the active one first, each followed by its
 * external data file. A layer that cannot be looked at, or is behind the network, has zeroes. */
GPtrArray *vmb_source_layers(const VmbDiskInfo *disk);

/* TRUE if all layers are known to be the same and unchanged, the active one too. That can only be so when
 * QEMU has had it open at neither time. */
gboolean vmb_source_layers_unchanged(const GPtrArray *before, const GPtrArray *now);

/* TRUE if the active layer is the same file in both. */
gboolean vmb_source_layers_same_active(const GPtrArray *before, const GPtrArray *now);
/* TRUE if all layers below the active one are known to be the same and unchanged, which can be known
 * of regular files only. */
gboolean vmb_source_layers_same_below(const GPtrArray *before, const GPtrArray *now);
