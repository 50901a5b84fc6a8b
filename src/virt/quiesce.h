/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Freezing, pausing and releasing the guest around the start of the job, with the guard behind it. */
#pragma once
#include "virt/domain.h"
#include "virt/guard.h"
#include "util/reason.h"

typedef enum { VMB_QUIESCE_AUTO, VMB_QUIESCE_REQUIRE, VMB_QUIESCE_PAUSE, VMB_QUIESCE_NONE } VmbQuiesceMode;
const char *vmb_quiesce_mode_name(VmbQuiesceMode mode);
gboolean vmb_quiesce_mode_parse(const char *text, VmbQuiesceMode *mode, GError **error);

typedef struct VmbQuiesce VmbQuiesce;

/* @guard: armed, borrowed for the life of the object. @budget_ns: from asking for the freeze until the
 * guest must be thawed. */
VmbQuiesce *vmb_quiesce_new(VmbDomain *domain, VmbQuiesceMode mode, guint64 budget_ns,
                            VmbGuard *guard);
/* The job whose begin is to fall into the freeze: it is ended if nothing else lets the guest be thawed. */
void vmb_quiesce_set_job(VmbQuiesce *quiesce, const char *socket);
/* Freezes or pauses as the mode asks. Sets the agent's response timeout before; leave gives it libvirt's
 * default again, as no API tells what it was. With
 * AUTO a failure adds a reason and succeeds; with REQUIRE it is VMB_ERROR_QUIESCE and the guest is
 * thawed again. An agent that does not answer a harmless question is not asked to freeze. Fault points freeze-asked and frozen. */
gboolean vmb_quiesce_enter(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error);
/* Thaws or resumes at once; the thaw's count, which must be that of the freeze, decides what was reached. Retries within what is left of
 * the budget; after that the guard goes on and a reason tells. VMB_ERROR_QUIESCE under REQUIRE when the
 * freeze had not held. If the agent was lost in the freeze, the job is ended, for the thaw's sake, and that is
 * VMB_ERROR_FAILED (VMB_ERROR_QUIESCE). Fault point thawed. */
gboolean vmb_quiesce_leave(VmbQuiesce *quiesce, GPtrArray *reasons, GError **error);
/* Leaves on the way out if that has not happened yet. */
void vmb_quiesce_free(VmbQuiesce *quiesce);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbQuiesce, vmb_quiesce_free)

/* What was reached; only after leave. @filesystems: the freeze's count. @ns: from asking for the freeze
 * until the thaw's answer. */
typedef enum { VMB_QUIESCED_NOT, VMB_QUIESCED_PAUSED, VMB_QUIESCED_FILESYSTEMS } VmbQuiesced;
VmbQuiesced vmb_quiesce_result(VmbQuiesce *quiesce, guint64 *filesystems, guint64 *ns);

/* For reconciliation: thaws a guest that a dead run may have left frozen; *@was_frozen tells. */
gboolean vmb_quiesce_thaw_leftover(VmbDomain *domain, int timeout_s, gboolean *was_frozen,
                                   GError **error);
