/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Takes out of a live domain XML what only holds while that domain runs. */
#pragma once
#include "virt/xml-node.h"

/* Ids, generated aliases, labels, device names, ports and sockets that libvirt made up for the run.
 * A definition (inactive XML) is left as it is. */
void vmb_restore_xml_strip_live(xmlNode *root);
