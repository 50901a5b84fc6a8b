/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The closed list of reason codes: each fallback, skipped disk and weaker promise has one. */
#pragma once
#include <glib.h>

typedef enum {
    /* why a disk is stored in full, or compared */
    VMB_REASON_FIRST_BACKUP,
    VMB_REASON_FULL_REQUESTED,
    VMB_REASON_NEW_DISK,
    VMB_REASON_NO_BITMAP_SUPPORT,
    VMB_REASON_CHECKPOINT_MISSING,
    VMB_REASON_BITMAP_UNUSABLE,
    VMB_REASON_SOURCE_CHANGED,
    VMB_REASON_LAYER_CHANGED,
    VMB_REASON_PARENT_DAMAGED,
    VMB_REASON_CHAIN_LIMIT,
    VMB_REASON_SPOT_CHECK_FAILED,
    VMB_REASON_ADOPTED,
    /* why a disk is not in the point */
    VMB_REASON_CDROM,
    VMB_REASON_FLOPPY,
    VMB_REASON_READ_ONLY,
    VMB_REASON_NO_MEDIUM,
    VMB_REASON_DESELECTED,
    /* what the data taught */
    VMB_REASON_RESIZED,
    VMB_REASON_BITMAP_CONTRADICTED,
    VMB_REASON_DISK_RENAMED,
    VMB_REASON_DISK_REMOVED,
    VMB_REASON_DAMAGE_HEALED,
    /* why the consistency is lower */
    VMB_REASON_AGENT_ABSENT,
    VMB_REASON_AGENT_TIMEOUT,
    VMB_REASON_FREEZE_FAILED,
    VMB_REASON_FREEZE_EMPTY,
    VMB_REASON_THAWED_BY_ITSELF,
    VMB_REASON_FREEZE_BUDGET,
    VMB_REASON_QUIESCE_NONE,
    VMB_REASON_DOMAIN_PAUSED,
    /* what could not be done, although the point is whole */
    VMB_REASON_CONFIG_UNREADABLE,
    VMB_REASON_GUEST_FACTS_MISSING,
    VMB_REASON_THAW_DELAYED,
    VMB_REASON_CHECKPOINT_NOT_DELETED,
    VMB_REASON_LEFTOVERS_REMOVED,
    VMB_REASON_LEFTOVERS_KEPT,
    VMB_REASON_DISKS_CHANGED,
    VMB_REASON_SCRATCH_WORST_CASE,
    /* what became of the domain since its newest point */
    VMB_REASON_DOMAIN_RENAMED,
    VMB_REASON_DOMAIN_RECREATED,
    VMB_REASON_OTHER_HOST,
    VMB_REASON_CHECKPOINT_REDEFINED,
    VMB_REASON_STARTED_MEANWHILE,
    VMB_REASON_BITMAP_NOT_ADDED,
    VMB_N_REASONS,
} VmbReasonCode;

typedef struct {
    VmbReasonCode code;
    char *disk;    /* target, or NULL when it is about the domain */
    char *message; /* one sentence with the particulars */
} VmbReason;

/* "bitmap-unusable" and so on: the word in manifest, report and man page. */
const char *vmb_reason_name(VmbReasonCode code);

/* One sentence on what the code means. */
const char *vmb_reason_meaning(VmbReasonCode code);

/* The code of @name; VMB_N_REASONS if there is none. */
VmbReasonCode vmb_reason_from_name(const char *name);

/* TRUE for what --strict turns into a partial success: a weaker promise, not a plain fact. */
gboolean vmb_reason_is_warning(VmbReasonCode code);

void vmb_reason_free(VmbReason *reason);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbReason, vmb_reason_free)

/* Appends to a GPtrArray made with vmb_reason_free as its free function, and logs it. */
void vmb_reason_add(GPtrArray *reasons, VmbReasonCode code, const char *disk, const char *format,
                    ...) G_GNUC_PRINTF(4, 5);
