/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files behind a running disk are: recorded in the manifest, compared the next time. */
#pragma once
#include "repo/manifest.h"
#include "virt/domain.h"

/* A GPtrArray of VmbSourceLayer for all layers of @disk that are local files or block devices, the
 * active one first. A layer that cannot be looked at keeps its path and zeroes, with a debug line. */
GPtrArray *vmb_source_layers(const VmbDiskInfo *disk);

/* TRUE if the active layer is the same file in both. */
gboolean vmb_source_layers_same_active(const GPtrArray *before, const GPtrArray *now);
/* TRUE if all layers below the active one are the same and unchanged. */
gboolean vmb_source_layers_same_below(const GPtrArray *before, const GPtrArray *now);
