/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The closed list of reason codes: each fallback, skipped disk and weaker promise has one. */
#include "util/reason.h"
#include "util/log.h"

#include <string.h>

static const struct {
    const char *name;
    gboolean warning;
    const char *meaning;
} table[VMB_N_REASONS] = {
    [VMB_REASON_FIRST_BACKUP] = {"first-backup", FALSE,
        "The repository holds no point of this domain yet."},
    [VMB_REASON_FULL_REQUESTED] = {"full-requested", FALSE, "The command asked for a full."},
    [VMB_REASON_NEW_DISK] = {"new-disk", FALSE,
        "The disk is in no earlier point, or another disk had its place."},
    [VMB_REASON_NO_BITMAP_SUPPORT] = {"no-bitmap-support", FALSE,
        "The disk's format cannot hold dirty bitmaps (raw, block device, qcow2 version 2)."},
    [VMB_REASON_CHECKPOINT_MISSING] = {"checkpoint-missing", TRUE,
        "libvirt no longer knows the checkpoint that the newest point was made with."},
    [VMB_REASON_BITMAP_UNUSABLE] = {"bitmap-unusable", TRUE,
        "The checkpoint is there, but its bitmap is lost or inconsistent, as after a killed QEMU."},
    [VMB_REASON_SOURCE_CHANGED] = {"source-changed", TRUE,
        "The disk's image is not the one that the newest point was read from."},
    [VMB_REASON_LAYER_CHANGED] = {"layer-changed", TRUE,
        "A layer below the active image changed, or nobody can tell; the bitmap sees only the "
        "active layer."},
    [VMB_REASON_PARENT_DAMAGED] = {"parent-damaged", TRUE,
        "The newest point's image or digests cannot be read, so nothing can build on them."},
    [VMB_REASON_CHAIN_LIMIT] = {"chain-limit", FALSE,
        "The disk's chain has reached its greatest length (--max-chain), so a full begins a new one: what has "
        "not changed is copied from the chain, or, without a usable bitmap, all is read instead of being "
        "compared."},
    [VMB_REASON_SPOT_CHECK_FAILED] = {"spot-check-failed", TRUE,
        "Blocks that the bitmap calls unchanged differ from the newest point, so the bitmap is not "
        "this disk's."},
    [VMB_REASON_ADOPTED] = {"adopted", FALSE,
        "The repository is an adopted copy; checkpoints that its points name belong to the "
        "original."},
    [VMB_REASON_CDROM] = {"cdrom", FALSE, "A cdrom is not backed up."},
    [VMB_REASON_FLOPPY] = {"floppy", FALSE, "A floppy is not backed up."},
    [VMB_REASON_READ_ONLY] = {"read-only", FALSE, "A read-only disk is not backed up."},
    [VMB_REASON_NO_MEDIUM] = {"no-medium", FALSE, "The drive is empty."},
    [VMB_REASON_DESELECTED] = {"deselected", FALSE,
        "The command left this disk out; its chain goes on the next time."},
    [VMB_REASON_RESIZED] = {"resized", FALSE,
        "The disk has another size than in its newest point; all from the smaller size on was "
        "taken."},
    [VMB_REASON_BITMAP_CONTRADICTED] = {"bitmap-contradicted", TRUE,
        "Ranges that the bitmap calls unchanged read as zero where the newest point holds data (a "
        "disk that shrank and grew again does that); they were stored as zero."},
    [VMB_REASON_DISK_RENAMED] = {"disk-renamed", FALSE,
        "The disk has another target than in its newest point; its chain goes on."},
    [VMB_REASON_DISK_REMOVED] = {"disk-removed", TRUE,
        "A disk of the newest point is no longer part of the domain; its last state stays in the "
        "older points."},
    [VMB_REASON_DAMAGE_HEALED] = {"damage-healed", TRUE,
        "Blocks that a verification, or this backup, found damaged in the disk's chain were taken from the "
        "guest again; older points that need them stay damaged."},
    [VMB_REASON_AGENT_ABSENT] = {"agent-absent", TRUE,
        "The guest agent is not connected, so the guest was not frozen."},
    [VMB_REASON_AGENT_TIMEOUT] = {"agent-timeout", TRUE,
        "The guest agent did not answer in time."},
    [VMB_REASON_FREEZE_FAILED] = {"freeze-failed", TRUE,
        "The guest agent refused to freeze the filesystems."},
    [VMB_REASON_FREEZE_EMPTY] = {"freeze-empty", TRUE,
        "The guest agent froze no filesystem at all."},
    [VMB_REASON_THAWED_BY_ITSELF] = {"thawed-by-itself", TRUE,
        "The guest was no longer frozen when the backup asked it to thaw."},
    [VMB_REASON_FREEZE_BUDGET] = {"freeze-budget", TRUE,
        "The job did not begin within the freeze budget; the guest was thawed before."},
    [VMB_REASON_QUIESCE_NONE] = {"quiesce-none", FALSE, "The command asked not to quiesce."},
    [VMB_REASON_DOMAIN_PAUSED] = {"domain-paused", FALSE,
        "The domain was paused already, so there was nothing to freeze."},
    [VMB_REASON_CONFIG_UNREADABLE] = {"config-unreadable", TRUE,
        "A file of the domain's configuration could not be read and is not in the point."},
    [VMB_REASON_GUEST_FACTS_MISSING] = {"guest-facts-missing", FALSE,
        "The guest agent gave no facts on its system and filesystems."},
    [VMB_REASON_THAW_DELAYED] = {"thaw-delayed", TRUE,
        "The thaw was not confirmed at once; the guard keeps asking until the agent answers."},
    [VMB_REASON_CHECKPOINT_NOT_DELETED] = {"checkpoint-not-deleted", TRUE,
        "A checkpoint that is no longer needed could not be deleted; the next run tries again."},
    [VMB_REASON_LEFTOVERS_REMOVED] = {"leftovers-removed", FALSE,
        "What a run that died had left behind was undone."},
    [VMB_REASON_LEFTOVERS_KEPT] = {"leftovers-kept", TRUE,
        "Something that a run that died had left behind could not be undone yet."},
    [VMB_REASON_DISKS_CHANGED] = {"disks-changed", TRUE,
        "The domain's disks changed while the backup was running."},
    [VMB_REASON_SCRATCH_WORST_CASE] = {"scratch-worst-case", FALSE,
        "The scratch directory cannot hold the worst case; the backup aborts before it is full."},
    [VMB_REASON_DOMAIN_RENAMED] = {"domain-renamed", FALSE,
        "The domain has another name than in its newest point; its chain goes on."},
    [VMB_REASON_DOMAIN_RECREATED] = {"domain-recreated", TRUE,
        "The repository holds points of another domain that had this name; this one begins anew."},
    [VMB_REASON_OTHER_HOST] = {"other-host", FALSE,
        "The newest point was made on another host."},
    [VMB_REASON_CHECKPOINT_REDEFINED] = {"checkpoint-redefined", FALSE,
        "libvirt had lost the record of a checkpoint (the domain was undefined or has migrated); "
        "it was defined again from the repository, and its bitmaps are good."},
    [VMB_REASON_STARTED_MEANWHILE] = {"started-meanwhile", FALSE,
        "The domain was started while it was backed up shut off; what had been read was dropped, "
        "and it was backed up running."},
    [VMB_REASON_BITMAP_NOT_ADDED] = {"bitmap-not-added", FALSE,
        "The image of a shut-off domain got no new bitmap, because another process has it open or its "
        "file system knows no leases; the old bitmap goes on, or the next backup compares."},
};

const char *
vmb_reason_name(VmbReasonCode code)
{
    g_return_val_if_fail(code < VMB_N_REASONS, "?");
    return table[code].name;
}

const char *
vmb_reason_meaning(VmbReasonCode code)
{
    g_return_val_if_fail(code < VMB_N_REASONS, "?");
    return table[code].meaning;
}

gboolean
vmb_reason_is_warning(VmbReasonCode code)
{
    g_return_val_if_fail(code < VMB_N_REASONS, FALSE);
    return table[code].warning;
}

VmbReasonCode
vmb_reason_from_name(const char *name)
{
    int code = 0;
    while (code < VMB_N_REASONS && strcmp(table[code].name, name) != 0)
        code++;
    return (VmbReasonCode)code;
}

void
vmb_reason_free(VmbReason *reason)
{
    if (reason == NULL)
        return;
    g_free(reason->disk);
    g_free(reason->message);
    g_free(reason);
}

void
vmb_reason_add(GPtrArray *reasons, VmbReasonCode code, const char *disk, const char *format, ...)
{
    VmbReason *reason = g_new0(VmbReason, 1);
    va_list args;
    va_start(args, format);
    reason->code = code;
    reason->disk = g_strdup(disk);
    reason->message = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(reasons, reason);
    vmb_log(table[code].warning ? VMB_LOG_WARNING : VMB_LOG_NOTICE, "%s [%s]", reason->message,
            table[code].name);
}
