/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest agent's response timeout, and the thaw with all its possible outcomes. */
#pragma once
#include "virt/domain.h"

/* How long libvirt waits for an answer of the agent, in seconds; by default it waits for ever. It is a
 * property of the running domain that every client shares, and no API reads it back: reset gives it
 * libvirt's default again. Failures are of no consequence and logged for debugging only. */
void vmb_agent_set_timeout(VmbDomain *domain, int seconds);
void vmb_agent_reset_timeout(VmbDomain *domain);

/* TRUE after a call of the agent failed in a way that leaves open whether the guest will still carry it
 * out: no answer in time, or the connection to libvirt was lost. Looks at libvirt's last error. */
gboolean vmb_agent_is_uncertain(void);

typedef enum {
    VMB_THAW_ANSWERED, /* the agent answered, so an earlier freeze is over as well */
    VMB_THAW_GONE,     /* the domain is off or has no agent: nothing is frozen */
    VMB_THAW_FAILED,   /* to be tried again */
} VmbThaw;

/* Asks once. *@count: filesystems thawed (0: none was frozen). Errors only with VMB_THAW_FAILED. */
VmbThaw vmb_agent_thaw(VmbDomain *domain, guint64 *count, GError **error);
