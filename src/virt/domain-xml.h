/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Parts of a live domain XML that only the inspection itself needs. */
#pragma once
#include "virt/domain.h"
#include "virt/xml.h"

/* One <disk> element. NULL if it has no target. */
VmbDiskInfo *vmb_domain_xml_disk(xmlNode *disk);
void vmb_disk_layer_free(VmbDiskLayer *layer);
