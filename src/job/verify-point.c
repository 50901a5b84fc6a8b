/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying one point that is pinned, and keeping the result. */
#include "job/verify-point.h"
#include "job/verify-affected.h"
#include "job/verify-disk.h"
#include "repo/layout.h"
#include "repo/state.h"
#include "util/error.h"
#include "util/log.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* ---- what is kept ---- */

typedef struct {
    const VmbVerifyPoint *job;
    const GPtrArray *findings;
} Outcome;

/* A range that is not known yet, from an earlier look. */
static void
add_damage(VmbPointState *state, const VmbManifestDisk *disk, guint64 offset, guint64 length)
{
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++) {
        const VmbDamage *known = state->damage->pdata[i];
        if (strcmp(known->disk, disk->id) == 0 && known->offset <= offset &&
            known->offset + known->length >= offset + length)
            return;
    }
    vmb_point_state_add_damage(state, disk->id, offset, length);
}

/* Findings with a range, or those without: they stand for the whole disk. */
static void
keep_damage(VmbPointState *state, const Outcome *outcome, gboolean ranges)
{
    const VmbManifest *manifest = outcome->job->point->manifest;
    for (guint i = 0; i < outcome->findings->len; i++) {
        const VmbFinding *finding = outcome->findings->pdata[i];
        const VmbManifestDisk *disk =
            manifest != NULL && finding->disk != NULL
                ? vmb_manifest_find_target(manifest, finding->disk)
                : NULL;
        if (finding->kind == VMB_FINDING_METADATA)
            state->metadata_damaged = TRUE;
        if (disk == NULL || (finding->offset >= 0) != ranges)
            continue;
        if (ranges)
            add_damage(state, disk, (guint64)finding->offset, finding->length);
        else if (finding->kind == VMB_FINDING_METADATA)
            add_damage(state, disk, 0, disk->size);
    }
}

/* A look at the metadata alone says nothing about data: what a full verification has found stays. */
static void
change_state(VmbPointState *state, gpointer user)
{
    const Outcome *outcome = user;
    gboolean whole = outcome->findings->len == 0, quick = outcome->job->options->quick;
    state->checked_ns = vmb_units_now();
    if (!quick) {
        state->verified_ns = state->checked_ns;
        state->metadata_damaged = FALSE;
        vmb_point_state_clear_damage(state);
    }
    if (whole && quick && g_strcmp0(state->verify_result, "damaged") == 0)
        return;
    g_free(state->verify_result);
    state->verify_result = g_strdup(whole ? "ok" : "damaged");
    keep_damage(state, outcome, FALSE);
    keep_damage(state, outcome, TRUE);
}

/* FALSE if nothing can be written there. */
static gboolean
keep_result(const VmbVerifyPoint *job, const GPtrArray *findings)
{
    Outcome outcome = {job, findings};
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) dir = vmb_point_open_dir(job->point, NULL);
    if (dir >= 0 && faccessat(dir, ".", W_OK, AT_EACCESS) < 0)
        return FALSE;
    if (!vmb_point_state_change(job->point, change_state, &outcome, &error))
        vmb_warning("the result of the verification is not kept: %s", error->message);
    return TRUE;
}

/* ---- what to do ---- */

static const VmbPoint *
newest_with(GPtrArray *points, const char *disk_id)
{
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        if (!point->retired && point->manifest != NULL &&
            vmb_manifest_find_disk(point->manifest, disk_id) != NULL)
            return point;
    }
    return NULL;
}

static gboolean
affects(const VmbFinding *finding, const char *id)
{
    for (guint i = 0; finding->affected != NULL && i < finding->affected->len; i++)
        if (strcmp(finding->affected->pdata[i], id) == 0)
            return TRUE;
    return finding->affected == NULL;
}

static void G_GNUC_PRINTF(2, 3)
advise(VmbVerifyResult *result, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = g_strdup_vprintf(format, args);
    va_end(args);
    if (g_ptr_array_find_with_equal_func(result->advice, text, g_str_equal, NULL))
        g_free(text);
    else
        g_ptr_array_add(result->advice, text);
}

/* What happens to a damaged disk by itself. */
static void
advise_disk(const VmbVerifyPoint *job, const VmbManifestDisk *disk, VmbVerifyResult *result)
{
    const VmbPoint *newest = newest_with(job->points, disk->id);
    gboolean damaged = FALSE, metadata = FALSE, shown = FALSE;
    for (guint i = 0; i < result->findings->len; i++) {
        const VmbFinding *finding = result->findings->pdata[i];
        if (!vmb_verify_is_damage(finding, disk->target))
            continue;
        gboolean hit = newest != NULL && affects(finding, newest->id);
        damaged = TRUE;
        shown |= hit;
        metadata |= hit && finding->kind == VMB_FINDING_METADATA;
    }
    if (!damaged)
        return;
    if (shown && metadata)
        advise(result, "the next backup of %s begins a new chain of the disk %s with a full",
               result->domain, disk->target);
    else if (shown)
        advise(result,
               "the next backup of %s takes what is damaged of the disk %s from the guest again, "
               "and is whole",
               result->domain, disk->target);
    else if (newest != NULL)
        advise(result, "the newest point with the disk %s, %s, is not affected", disk->target,
               newest->id);
    advise(result, "`vmbackup restore --ignore-damage` restores an affected point with zeroes in "
                   "place of what is lost");
}

static void
advise_all(const VmbVerifyPoint *job, const GPtrArray *disks, gboolean kept,
           VmbVerifyResult *result)
{
    gboolean files = FALSE;
    for (guint i = 0; i < result->findings->len; i++) {
        const VmbFinding *finding = result->findings->pdata[i];
        files |= finding->kind != VMB_FINDING_CHAIN && finding->file != NULL &&
                 strcmp(finding->file, VMB_LAYOUT_STATE) != 0;
    }
    for (guint i = 0; i < disks->len; i++)
        advise_disk(job, disks->pdata[i], result);
    if (files)
        advise(result, "files of points never change (except " VMB_LAYOUT_STATE
                       "): a file from a copy of the repository can take a damaged one's place");
    if (!kept && result->findings->len > 0)
        advise(result, "this could not be kept in the repository, so that the next backup does not "
                       "know of it: verify where it can be written");
}

/* ---- the look ---- */

static void
check_restorable(const VmbVerifyPoint *job, const VmbManifestDisk *disk, const char *name,
                 GPtrArray *findings)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) links = vmb_repo_chain(job->points, job->point, disk->id, &error);
    if (links != NULL || job->point->retired)
        return;
    VmbFinding *finding = vmb_finding_new(
        name, disk->target, NULL, "this point cannot be restored: %s", error->message);
    finding->kind = VMB_FINDING_CHAIN;
    g_ptr_array_add(findings, finding);
}

static gboolean
look(const VmbVerifyPoint *job, const GPtrArray *disks, VmbVerifyResult *result)
{
    g_autofree char *name = g_strdup_printf("%s/%s", result->domain, result->point);
    vmb_check_point(job->point, disks, name, result->findings);
    for (guint i = 0; i < disks->len; i++) {
        const VmbManifestDisk *disk = disks->pdata[i];
        VmbVerifyDisk one = {.point = job->point,
                             .disk = disk,
                             .domain = result->domain,
                             .quick = job->options->quick,
                             .cancel = job->options->cancel,
                             .bytes = &result->bytes,
                             .findings = result->findings};
        check_restorable(job, disk, name, result->findings);
        if (!vmb_verify_disk(&one, &result->error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
is_damaged(const GPtrArray *findings, const VmbManifestDisk *disk)
{
    for (guint i = 0; i < findings->len; i++)
        if (vmb_verify_is_damage(findings->pdata[i], disk->target))
            return TRUE;
    return FALSE;
}

static void
find_affected(const VmbVerifyPoint *job, const GPtrArray *disks, VmbVerifyResult *result)
{
    static GMutex one_at_a_time; /* each may have a whole chain open */
    g_mutex_lock(&one_at_a_time);
    for (guint i = 0; i < disks->len; i++)
        if (is_damaged(result->findings, disks->pdata[i]))
            vmb_verify_affected(job->domain, job->point->id, disks->pdata[i], result->findings,
                                job->options->cancel);
    g_mutex_unlock(&one_at_a_time);
}

void
vmb_verify_point(const VmbVerifyPoint *job, VmbVerifyResult *result, gboolean *kept)
{
    g_autoptr(GPtrArray) disks = vmb_verify_disks(job->point, job->needed);
    if (!look(job, disks, result))
        return;
    find_affected(job, disks, result);
    *kept = keep_result(job, result->findings);
    advise_all(job, disks, *kept, result);
}
