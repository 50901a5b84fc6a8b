/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits that the manifest's writer and readers share; nobody else needs them. */
#pragma once
#include "repo/manifest.h"

/* Format 1: fulls were always read whole from the guest, and nothing was ever folded. */
#define VMB_MANIFEST_FORMAT 2
#define VMB_MANIFEST_MAX_ELEMENTS 4096u /* of disks, skipped, files, layers */
#define VMB_MANIFEST_MAX_REASONS 65536u
#define VMB_SEQUENCE_MAX (G_GUINT64_CONSTANT(1) << 53) /* what any JSON reader holds exactly */

/* An element of disks. Reading: errors as for vmb_manifest_parse(). The caller frees what they return. */
VmbJson *vmb_manifest_disk_write(const VmbManifestDisk *disk);
VmbManifestDisk *vmb_manifest_disk_read(VmbJson *object, GError **error);

/* A list of VmbSourceLayer as the member layers. Reading appends to @layers. */
void vmb_manifest_layers_write(VmbJson *object, const GPtrArray *layers);
gboolean vmb_manifest_layers_read(VmbJson *object, GPtrArray *layers, GError **error);

/* What the lists of a manifest must fulfil among themselves. Errors: VMB_ERROR_DAMAGE. */
gboolean vmb_manifest_check(const VmbManifest *manifest, GError **error);
