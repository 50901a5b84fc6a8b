/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying one image of a point with its digests, byte by byte. */
#include "job/verify-disk.h"
#include "job/chain-files.h"
#include "job/chain-read.h"
#include "util/error.h"
#include "util/units.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const VmbManifestDisk *disk;
    char *name; /* "web01/20261121T020000Z" */
    GPtrArray *findings;
} Report;

static void
add(const Report *report, const char *file, const char *message)
{
    g_ptr_array_add(report->findings, vmb_finding_new(report->name, report->disk->target, file,
                                                      "%s", message));
}

static void
check_image(const Report *report, int fd)
{
    const VmbManifestDisk *disk = report->disk;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open(fd, vmb_round_up(disk->size, 512), report->name, &error);
    if (reader == NULL || !vmb_qcow2_reader_check(reader, head, tables, &error)) {
        add(report, disk->image, error->message);
        return;
    }
    if (memcmp(head, disk->head_digest, VMB_DIGEST_SIZE) != 0)
        add(report, disk->image, "header, L1 or refcount table differ from the manifest's digest");
    if (memcmp(tables, disk->tables_digest, VMB_DIGEST_SIZE) != 0)
        add(report, disk->image, "L2 tables or refcount blocks differ from the manifest's digest");
}

static int
compare_offsets(gconstpointer a, gconstpointer b)
{
    guint64 x = *(const guint64 *)a, y = *(const guint64 *)b;
    return x < y ? -1 : x > y;
}

/* One finding per run of damaged blocks. */
static void
report_damage(const Report *report, GArray *damage)
{
    g_array_sort(damage, compare_offsets);
    for (guint first = 0, end; first < damage->len; first = end) {
        guint64 offset = g_array_index(damage, guint64, first);
        for (end = first + 1; end < damage->len; end++)
            if (g_array_index(damage, guint64, end) !=
                offset + (guint64)(end - first) * VMB_BLOCK_SIZE)
                break;
        VmbFinding *finding =
            vmb_finding_new(report->name, report->disk->target, report->disk->image,
                            "stored data differs from its digest");
        finding->offset = (gint64)offset;
        finding->length = MIN((guint64)(end - first) * VMB_BLOCK_SIZE, report->disk->size - offset);
        g_ptr_array_add(report->findings, finding);
    }
}

static void
check_digest_file(const Report *report, VmbChain *chain)
{
    guint8 digest[VMB_DIGEST_SIZE];
    g_autoptr(GError) error = NULL;
    if (!vmb_chain_digests_end(chain, 0, digest, &error))
        add(report, report->disk->digests, error->message);
    else if (memcmp(digest, report->disk->digests_digest, VMB_DIGEST_SIZE) != 0)
        add(report, report->disk->digests, "the file differs from the manifest's digest");
}

static gboolean
read_all(const Report *report, VmbChain *chain, GCancellable *cancel, GError **error)
{
    g_autoptr(GArray) damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    g_autoptr(GError) problem = NULL;
    g_autoptr(VmbProgress) progress = vmb_progress_new(report->name);
    VmbChainRead job = {.chain = chain, .damage = damage, .cancel = cancel, .progress = progress};
    vmb_progress_phase(progress, "verifying");
    vmb_progress_add_total(progress, report->disk->data_blocks * VMB_BLOCK_SIZE);
    gboolean ok = vmb_chain_read(&job, &problem);
    if (!ok && g_error_matches(problem, VMB_ERROR, VMB_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    report_damage(report, damage);
    if (!ok)
        add(report, NULL, problem->message);
    else
        check_digest_file(report, chain);
    return TRUE;
}

gboolean
vmb_verify_disk(VmbPoint *point, const VmbManifestDisk *disk, const char *domain,
                GCancellable *cancel, guint64 *bytes, GPtrArray *findings, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s/%s", domain, point->id);
    Report report = {disk, name, findings};
    g_autoptr(GError) problem = NULL;
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(VmbChainLink));
    VmbChainLink link = {point, disk};
    g_array_append_val(links, link);
    g_autoptr(VmbChainFiles) files =
        vmb_chain_files_open(links, domain, TRUE, TRUE, &problem);
    if (files == NULL) {
        add(&report, NULL, problem->message);
        return TRUE;
    }
    *bytes += disk->image_size + disk->digests_size;
    check_image(&report, vmb_chain_files_image_fd(files));
    return read_all(&report, vmb_chain_files_chain(files), cancel, error);
}
