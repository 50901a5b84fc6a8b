/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finds the files behind a disk of a shut-off domain, as libvirt will when it starts it. */
#pragma once
#include "virt/domain.h"

/* Appends to @disk->layers what the headers name below the last one, unless the domain's XML itself says
 * where the chain goes on or ends. Sets @disk->offline_why when the disk cannot be read, with that certainty, without
 * a running QEMU: not a local file, a format other than raw and qcow2, encrypted, marked corrupt, a backing
 * file whose format the header does not tell, or that is named in another way than by a path. */
void vmb_image_chain_find(VmbDiskInfo *disk);
