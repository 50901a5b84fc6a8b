/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disks of a domain that can hold bitmaps, with the files in which these are stored. */
#pragma once
#include "virt/domain.h"

typedef struct {
    char *target;
    GPtrArray *files; /* char *: local qcow2 files of its chain, the active one first; empty if the
                       * active one is not there to be read */
} VmbBitmapDisk;

/* All writable qcow2 disks with a medium, as the domain has them now: a GPtrArray of VmbBitmapDisk.
 * Works for shut-off domains, too. */
GPtrArray *vmb_bitmap_disks(VmbDomain *domain, GError **error);
const VmbBitmapDisk *vmb_bitmap_disk_find(const GPtrArray *disks, const char *target);

typedef enum { VMB_BITMAP_ABSENT, VMB_BITMAP_PRESENT, VMB_BITMAP_UNKNOWN } VmbBitmapPresence;
/* Whether the active file of the disk stores a bitmap @name; UNKNOWN if it cannot be read. Without
 * one there, libvirt deletes none further down either. */
VmbBitmapPresence vmb_bitmap_disk_has(const VmbBitmapDisk *disk, const char *name);
