/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying one image of a point with its digests, byte by byte or only its metadata. */
#include "job/verify-disk.h"
#include "job/chain-files.h"
#include "job/chain-read.h"
#include "repo/state.h"
#include "util/error.h"
#include "util/units.h"

#include <string.h>

/* No more ranges than state.json can keep. */
#define MAX_RANGES VMB_STATE_MAX_DAMAGE

typedef struct {
    const VmbVerifyDisk *job;
    char *name; /* "web01/20261121T020000Z" */
} Report;

static VmbFinding *
add(const Report *report, const char *file, const char *message)
{
    VmbFinding *finding =
        vmb_finding_new(report->name, report->job->disk->target, file, "%s", message);
    g_ptr_array_add(report->job->findings, finding);
    return finding;
}

/* The look at names and sizes may have told it already. */
static gboolean
is_reported(const Report *report, const char *file)
{
    for (guint i = 0; i < report->job->findings->len; i++) {
        const VmbFinding *finding = report->job->findings->pdata[i];
        if (g_strcmp0(finding->disk, report->job->disk->target) == 0 &&
            g_strcmp0(finding->file, file) == 0)
            return TRUE;
    }
    return FALSE;
}

/* TRUE if header and tables are what was written. */
static gboolean
check_tables(const Report *report, int fd)
{
    const VmbManifestDisk *disk = report->job->disk;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open(fd, vmb_round_up(disk->size, 512), report->name, &error);
    if (reader == NULL || !vmb_qcow2_reader_metadata(reader, head, tables, NULL, &error)) {
        add(report, disk->image, error->message);
        return FALSE;
    }
    gboolean same_head = memcmp(head, disk->head_digest, VMB_DIGEST_SIZE) == 0;
    gboolean same_tables = memcmp(tables, disk->tables_digest, VMB_DIGEST_SIZE) == 0;
    if (!same_head)
        add(report, disk->image, "header, L1 or refcount table differ from the manifest's digest");
    if (!same_tables)
        add(report, disk->image, "L2 tables or refcount blocks differ from the manifest's digest");
    return same_head && same_tables;
}

/* Every byte of the file, also those that no block needs. If the tables are good, then what is found here and
 * not in any block does no harm, but the file is not what was written. */
static void
check_rest(const Report *report, int fd)
{
    const VmbManifestDisk *disk = report->job->disk;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open(fd, vmb_round_up(disk->size, 512), report->name, &error);
    if (reader == NULL || !vmb_qcow2_reader_check(reader, head, tables, &error))
        add(report, disk->image, error->message)->kind = VMB_FINDING_FILE;
}

static void
add_range(const Report *report, guint64 offset, guint64 length, VmbLoss loss)
{
    VmbFinding *finding =
        add(report, report->job->disk->image,
            loss == VMB_LOSS_TABLES ? "the image's tables do not say where this is stored"
                                    : "stored data differs from its digest or cannot be read");
    finding->kind = loss == VMB_LOSS_TABLES ? VMB_FINDING_METADATA : VMB_FINDING_DATA;
    finding->offset = (gint64)offset;
    finding->length = length;
}

/* One finding for each run of damaged blocks, and one for all that are too many. */
static void
report_losses(const Report *report, const VmbLosses *losses)
{
    const GArray *ranges = losses->ranges;
    for (guint i = 0; i < MIN(ranges->len, MAX_RANGES); i++) {
        const VmbLostRange *range = &g_array_index(ranges, VmbLostRange, i);
        add_range(report, range->offset, range->length, range->loss);
    }
    if (losses->count <= MAX_RANGES)
        return;
    const VmbLostRange *first = &g_array_index(ranges, VmbLostRange, MAX_RANGES);
    const VmbLostRange *last = &g_array_index(ranges, VmbLostRange, ranges->len - 1);
    guint64 end = MAX(losses->rest_end, last->offset + last->length);
    g_autofree char *message = g_strdup_printf(
        "%" G_GUINT64_FORMAT " more damaged ranges lie in this one", losses->count - MAX_RANGES);
    VmbFinding *finding = add(report, report->job->disk->image, message);
    finding->kind = VMB_FINDING_DATA;
    finding->offset = (gint64)first->offset;
    finding->length = end - first->offset;
}

/* Data, or only the maps, by the digests. */
static gboolean
read_all(const Report *report, VmbChain *chain, GError **error)
{
    const VmbVerifyDisk *job = report->job;
    guint before = job->findings->len;
    g_autoptr(VmbLosses) losses = vmb_losses_new();
    g_autoptr(GError) problem = NULL;
    g_autoptr(VmbProgress) progress = vmb_progress_new(report->name);
    VmbChainRead read = {.chain = chain,
                         .losses = losses,
                         .maps_only = job->quick,
                         .cancel = job->cancel,
                         .progress = progress};
    vmb_progress_phase(progress, "verifying");
    vmb_progress_add_total(progress, job->quick ? 0 : job->disk->data_blocks * VMB_BLOCK_SIZE);
    if (!vmb_chain_read(&read, &problem)) {
        if (g_error_matches(problem, VMB_ERROR, VMB_ERROR_CANCELLED)) {
            g_propagate_error(error, g_steal_pointer(&problem));
            return FALSE;
        }
        add(report, NULL, problem->message);
    }
    report_losses(report, losses);
    /* What is not lost, because it is zero in any case, is damage all the same. */
    if (vmb_chain_disagreement(chain) != NULL && job->findings->len == before)
        add(report, job->disk->image, vmb_chain_disagreement(chain)->message);
    return TRUE;
}

static guint64
bytes_of_tables(const VmbManifestDisk *disk)
{
    guint64 tables = vmb_round_up(disk->stored_bytes, VMB_BLOCK_SIZE);
    return disk->image_size > tables ? disk->image_size - tables : 0;
}

static gboolean
verify_image(const Report *report, GError **error)
{
    const VmbVerifyDisk *job = report->job;
    const VmbManifestDisk *disk = job->disk;
    gboolean unverified = FALSE;
    g_autoptr(GError) problem = NULL;
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(VmbChainLink));
    VmbChainLink link = {job->point, disk};
    g_array_append_val(links, link);
    g_autoptr(VmbChainFiles) files =
        vmb_chain_files_open_tolerant(links, job->domain, TRUE, &unverified, &problem);
    if (files == NULL) {
        if (!is_reported(report, disk->image))
            add(report, disk->image, problem->message);
        return TRUE;
    }
    *job->bytes += disk->digests_size + (job->quick ? bytes_of_tables(disk) : disk->image_size);
    guint before = job->findings->len;
    gboolean good = check_tables(report, vmb_chain_files_image_fd(files));
    if (unverified && !is_reported(report, disk->digests))
        add(report, disk->digests, "the file differs from the manifest's digest: without it the "
                                   "stored data cannot be verified");
    if (!unverified && !read_all(report, vmb_chain_files_chain(files), error))
        return FALSE;
    gboolean changing = g_strcmp0(job->point->growing, job->disk->image) == 0;
    if (good && !job->quick && !changing && job->findings->len == before)
        check_rest(report, vmb_chain_files_image_fd(files));
    return TRUE;
}

gboolean
vmb_verify_disk(const VmbVerifyDisk *job, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s/%s", job->domain, job->point->id);
    Report report = {job, name};
    return verify_image(&report, error);
}
