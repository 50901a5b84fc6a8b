/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest agent's response timeout, and the thaw with all its possible outcomes. */
#pragma once
#include "virt/domain.h"

/* How long libvirt waits for an answer of the agent, in seconds; by default it waits for ever. It is a
 * property of the running domain that every client shares, and no API reads it back: reset gives it
 * libvirt's default again. Failures are of no consequence and logged for debugging only. */
void vmb_agent_set_timeout(VmbDomain *domain, int seconds);
void vmb_agent_reset_timeout(VmbDomain *domain);

/* By the domain's XML: whether there is a channel for an agent, and one at its other end. */
gboolean vmb_agent_find(VmbDomain *domain, gboolean *configured, gboolean *connected, GError **error);

/* Asks the agent for something harmless, so that a freeze is not asked of one that hangs: it would carry that
 * out whenever it goes on. TRUE if it answered at all. Errors: VMB_ERROR_LIBVIRT if the connection is lost,
 * else VMB_ERROR_QUIESCE. */
gboolean vmb_agent_answers(VmbDomain *domain, GError **error);

/* TRUE after a call of the agent failed in a way that leaves open whether the guest will still carry it
 * out: no answer in time, or the connection to libvirt was lost. Looks at libvirt's last error. */
gboolean vmb_agent_is_uncertain(void);

typedef enum {
    VMB_THAW_ANSWERED, /* the agent is thawed, so an earlier freeze is over as well */
    VMB_THAW_GONE,     /* the domain is off or has no agent: nothing is frozen */
    VMB_THAW_FAILED,   /* to be tried again */
    /* The same, but libvirt has no connection to the agent, which has ended or was restarted. While a backup job
     * is active it makes none; what it has not dealt with in 30 s (the end of the agent, its return) it
     * forgets, until the agent restarts once more or the daemon does. */
    VMB_THAW_UNCONNECTED,
} VmbThaw;

/* Asks once. *@count: filesystems thawed (0: none was frozen). An agent that answers with an error, but is no
 * longer frozen, has thawed with count 0: Windows says so when it thawed by itself, and others when a hook of
 * theirs failed after the thaw. Errors only with VMB_THAW_FAILED and VMB_THAW_UNCONNECTED. */
VmbThaw vmb_agent_thaw(VmbDomain *domain, guint64 *count, GError **error);
