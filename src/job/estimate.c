/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backup would need, before it is made: by what libvirt says, and by earlier points if there
 * are any. */
#include "job/estimate.h"
#include "image/digest-format.h"
#include "image/qcow2-format.h"
#include "job/bind.h"
#include "job/scratch-space.h"
#include "job/scratch.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/log.h"

#include <string.h>

static void
disk_free(gpointer data)
{
    VmbEstimateDisk *disk = data;
    g_free(disk->target);
    g_free(disk);
}

static void
estimate_free(gpointer data)
{
    VmbEstimate *estimate = data;
    g_free(estimate->domain);
    g_free(estimate->uuid);
    g_ptr_array_unref(estimate->disks);
    g_clear_error(&estimate->error);
    g_free(estimate);
}

void
vmb_estimates_free(VmbEstimates *estimates)
{
    if (estimates == NULL)
        return;
    g_ptr_array_unref(estimates->domains);
    g_free(estimates->repository);
    g_free(estimates->scratch);
    g_free(estimates);
}

/* ---- one disk ---- */

static guint64
blocks_of(guint64 bytes)
{
    return bytes / VMB_BLOCK_SIZE + (bytes % VMB_BLOCK_SIZE != 0);
}

guint64
vmb_estimate_full(guint64 size, guint64 data)
{
    guint64 blocks = blocks_of(MIN(data, size)), all = blocks_of(size);
    /* Data may lie so that each block needs a table of its own. */
    guint64 tables = MIN(all / VMB_QCOW2_L2_ENTRIES + 1, blocks) + 1;
    guint64 refcounts = (blocks + tables) / (VMB_BLOCK_SIZE / 2) + 2;
    guint64 l1 = blocks_of((all / VMB_QCOW2_L2_ENTRIES + 1) * 8);
    return (1 + blocks + tables + refcounts + l1) * VMB_BLOCK_SIZE + VMB_DIGEST_FILE_HEADER +
           (blocks + tables) * VMB_DIGEST_FILE_RECORD;
}

/* FALSE if nobody can tell. */
static gboolean
add_file(const char *path, guint64 *sum)
{
    struct stat st;
    if (path == NULL || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return FALSE;
    *sum += (guint64)st.st_blocks * 512;
    return TRUE;
}

/* What lower layers hold is in a full as well. */
static guint64
allocated(const VmbDiskInfo *disk)
{
    guint64 sum = disk->allocation > 0 ? disk->allocation : disk->size;
    for (guint i = 0; i < disk->layers->len; i++) {
        const VmbDiskLayer *layer = disk->layers->pdata[i];
        if ((i > 0 && !add_file(layer->path, &sum)) ||
            (layer->data_file != NULL && !add_file(layer->data_file, &sum)))
            return disk->size;
    }
    return MIN(sum, disk->size);
}

static guint64
need_of(const VmbEstimateDisk *disk, const VmbMeasure *past)
{
    if (disk->level == VMB_LEVEL_FULL || past->n_added == 0)
        return disk->full_most;
    /* Twice what it was on average: some days are not like others. */
    return MIN(2 * (past->added / past->n_added), disk->full_most);
}

static void
add_disk(VmbEstimate *estimate, const VmbPlanDisk *planned, const GPtrArray *summaries)
{
    VmbMeasure past = vmb_measure(summaries, planned->info->id, vmb_units_now());
    VmbEstimateDisk *disk = g_new0(VmbEstimateDisk, 1);
    disk->target = g_strdup(planned->info->target);
    disk->size = planned->info->size;
    disk->allocated = allocated(planned->info);
    disk->full_most = vmb_estimate_full(disk->size, disk->allocated);
    disk->level = planned->level;
    disk->method = planned->method;
    disk->reason = planned->reason;
    disk->ratio = vmb_measure_ratio(&past);
    disk->full_likely = disk->ratio > 0 ? (guint64)MIN((double)disk->allocated / disk->ratio,
                                                       (double)disk->full_most)
                                        : VMB_BYTES_UNKNOWN;
    disk->daily = vmb_measure_growth(&past);
    disk->need = need_of(disk, &past);
    g_ptr_array_add(estimate->disks, disk);
}

/* ---- one domain ---- */

typedef struct {
    const VmbEstimateOptions *options;
    VmbConnection *connection;
    VmbRepository *repository; /* NULL: there is none yet */
} Work;

/* The same decisions as a backup's, made quietly and without changing anything. */
static VmbPlan *
plan(VmbDomain *domain, VmbDomainInfo *info, GPtrArray *points, GError **error)
{
    VmbBackupOptions options = {.level = VMB_WANT_AUTO};
    VmbLogLevel level = vmb_log_level();
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    vmb_bind_disks(info, points);
    vmb_log_set_level(MIN(level, VMB_LOG_ERROR)); /* the estimate says it, not the log */
    VmbPlan *made = vmb_plan_new(&options, domain, info, points, reasons, error);
    vmb_log_set_level(level);
    return made;
}

static gboolean
read_points(const Work *work, const char *uuid, GPtrArray **points, GPtrArray **summaries,
            GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbRepoDomain) domain =
        work->repository != NULL ? vmb_repo_domain_open(work->repository, uuid, FALSE, &local)
                                 : NULL;
    if (domain == NULL && local != NULL && !g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    *points = domain != NULL ? vmb_repo_domain_points(domain, error) : g_ptr_array_new();
    *summaries = NULL;
    if (*points != NULL)
        *summaries = domain != NULL
                         ? vmb_repo_domain_summaries(domain, VMB_SUMMARIES_CHECKED, error)
                         : g_ptr_array_new();
    return *summaries != NULL;
}

static gboolean
estimate_disks(VmbEstimate *estimate, const Work *work, VmbDomain *domain, GError **error)
{
    g_autoptr(GPtrArray) points = NULL, summaries = NULL;
    g_autoptr(VmbDomainInfo) info = vmb_domain_inspect(domain, error);
    if (info == NULL || !read_points(work, estimate->uuid, &points, &summaries, error))
        return FALSE;
    g_autoptr(VmbPlan) planned = plan(domain, info, points, error);
    if (planned == NULL)
        return FALSE;
    for (guint i = 0; i < summaries->len; i++)
        estimate->n_points += !((VmbSummary *)summaries->pdata[i])->retired;
    for (guint i = 0; i < planned->disks->len; i++)
        add_disk(estimate, planned->disks->pdata[i], summaries);
    estimate->offline = info->offline;
    if (!info->offline)
        estimate->scratch_need = vmb_scratch_estimate(planned, &estimate->scratch_worst);
    return TRUE;
}

static VmbEstimate *
estimate_domain(const Work *work, const char *name)
{
    VmbEstimate *estimate = g_new0(VmbEstimate, 1);
    estimate->disks = g_ptr_array_new_with_free_func(disk_free);
    g_autoptr(VmbDomain) domain = vmb_domain_lookup(work->connection, name, &estimate->error);
    estimate->domain = g_strdup(domain != NULL ? vmb_domain_name(domain) : name);
    if (domain == NULL)
        return estimate;
    estimate->uuid = g_strdup(vmb_domain_uuid(domain));
    estimate_disks(estimate, work, domain, &estimate->error);
    return estimate;
}

/* ---- all together ---- */

static gboolean
look_at_places(VmbEstimates *estimates, const VmbEstimateOptions *options, GError **error)
{
    g_autofree char *scratch = options->scratch_dir != NULL
                                   ? g_canonicalize_filename(options->scratch_dir, NULL)
                                   : vmb_scratch_default_dir();
    estimates->scratch = vmb_fs_existing_parent(scratch);
    if (!vmb_fs_free_space(estimates->scratch, &estimates->scratch_free, error))
        return FALSE;
    estimates->scratch_reserve = vmb_scratch_reserve(estimates->scratch_free);
    if (options->repository == NULL)
        return TRUE;
    g_autofree char *path = g_canonicalize_filename(options->repository, NULL);
    estimates->repository = vmb_fs_existing_parent(path);
    return vmb_fs_free_space(estimates->repository, &estimates->free_bytes, error);
}

static void
add_up(VmbEstimates *estimates)
{
    for (guint i = 0; i < estimates->domains->len; i++) {
        const VmbEstimate *estimate = estimates->domains->pdata[i];
        for (guint d = 0; d < estimate->disks->len; d++) {
            const VmbEstimateDisk *disk = estimate->disks->pdata[d];
            estimates->need += disk->need;
            estimates->full_most += disk->full_most;
        }
        estimates->scratch_need = MAX(estimates->scratch_need, estimate->scratch_need);
    }
    estimates->fits = estimates->repository == NULL || estimates->need <= estimates->free_bytes;
    estimates->scratch_fits =
        estimates->scratch_need == 0 ||
        estimates->scratch_need + estimates->scratch_reserve <= estimates->scratch_free;
}

/* *@repository stays NULL if nothing is there yet. */
static gboolean
open_if_there(const char *path, VmbRepository **repository, GError **error)
{
    g_autofree char *file =
        path != NULL ? g_build_filename(path, VMB_LAYOUT_REPOSITORY, NULL) : NULL;
    *repository = NULL;
    if (path == NULL)
        return TRUE;
    if (!g_file_test(file, G_FILE_TEST_EXISTS)) {
        vmb_notice("%s is no repository yet", path);
        return TRUE;
    }
    *repository = vmb_repository_open(path, error);
    return *repository != NULL;
}

VmbEstimates *
vmb_estimate(const VmbEstimateOptions *options, GError **error)
{
    g_autoptr(VmbRepository) repository = NULL;
    g_autoptr(VmbEstimates) estimates = g_new0(VmbEstimates, 1);
    g_autoptr(GPtrArray) names = NULL;
    estimates->domains = g_ptr_array_new_with_free_func(estimate_free);
    if (!open_if_there(options->repository, &repository, error))
        return NULL;
    g_autoptr(VmbConnection) connection = vmb_connection_open(options->uri, error);
    if (connection == NULL || !look_at_places(estimates, options, error))
        return NULL;
    Work work = {options, connection, repository};
    if (options->domains != NULL && options->domains[0] != NULL)
        names = vmb_backup_distinct_domains(options->uri, options->domains);
    else
        names = vmb_domain_list(connection, FALSE, error);
    for (guint i = 0; names != NULL && i < names->len; i++) {
        if (g_cancellable_set_error_if_cancelled(options->cancel, NULL)) {
            vmb_error_set(error, VMB_ERROR_CANCELLED, "the estimate was cancelled");
            return NULL;
        }
        g_ptr_array_add(estimates->domains, estimate_domain(&work, names->pdata[i]));
    }
    add_up(estimates);
    return names != NULL ? g_steal_pointer(&estimates) : NULL;
}
