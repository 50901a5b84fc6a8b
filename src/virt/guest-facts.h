/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the guest agent says of the system and filesystems inside. */
#pragma once
#include "virt/domain.h"
#include "util/json.h"

/* {"os": {...}, "hostname": ..., "filesystems": [{"mountpoint","type","disks":[...]}], ...}; strings as
 * the agent gave them (valid UTF-8, limited in number and length). NULL with *@error if the agent does
 * not answer within @timeout_s. Never called while frozen. */
VmbJson *vmb_guest_facts(VmbDomain *domain, int timeout_s, GError **error);
