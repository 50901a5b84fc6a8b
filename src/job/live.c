/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of an export of a running domain: one moment of its disks, served by its own QEMU. */
#include "job/live.h"
#include "image/qcow2-format.h"
#include "job/backup-run.h"
#include "job/chain-files.h"
#include "job/disk-backup.h"
#include "job/source-layers.h"
#include "nbd/proxy.h"
#include "nbd/reader.h"
#include "repo/consumer.h"
#include "repo/journal.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "virt/checkpoint.h"

#include <string.h>

/* What libvirt calls the bitmap of a disk for clients (formatbackup.html, exportbitmap). */
#define CONTEXT_PREFIX "qemu:dirty-bitmap:backup-"

typedef struct {
    const VmbLiveOptions *options;
    VmbBackupRun *run;
    VmbConsumer *consumer; /* as it was; NULL: new, or none */
    VmbServed *served;
    VmbServePlace *place;
    char *since;     /* id of the point, or name of the consumer; NULL: neither */
    VmbShell **shell; /* a command that still runs at the end */
    GPtrArray *left; /* char *: directories of the run that could not be removed */
} Live;

static void
live_clear(Live *live)
{
    vmb_serve_place_free(live->place);
    g_clear_pointer(&live->left, g_ptr_array_unref);
    g_free(live->since);
    vmb_consumer_free(live->consumer);
    vmb_served_free(live->served);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Live, live_clear)

/* ---- what has changed since when ---- */

static gboolean
fail_since(const Live *live, const VmbPlanDisk *disk, GError **error)
{
    const char *newest = disk->parent != NULL ? disk->parent->id : NULL;
    return vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                         "%s disk %s: no bitmap tells what has changed since the point %s%s%s; `vmbackup "
                         "changes %s/%s..live` finds it by reading", live->run->result->domain,
                         disk->info->target, live->options->since,
                         newest != NULL && disk->method == VMB_METHOD_BITMAP ? ", only since " : "",
                         newest != NULL && disk->method == VMB_METHOD_BITMAP ? newest : "",
                         live->run->result->domain, live->options->since);
}

/* Can the disk's bitmap say what has changed since the point, and leave out nothing? */
static gboolean
tells_all(const VmbPlanDisk *disk, const VmbPoint *since)
{
    return vmb_plan_survey_unit(disk->info) == 0 && disk->method == VMB_METHOD_BITMAP &&
           disk->parent != NULL && strcmp(disk->parent->id, since->id) == 0 &&
           disk->info->size == disk->parent_disk->size;
}

static gboolean
choose_since(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    g_autoptr(GPtrArray) points = NULL;
    g_autofree char *text = g_strdup_printf("%s/%s", run->result->uuid, live->options->since);
    const VmbPoint *since = vmb_repository_find_point(run->repository, text, &points, error);
    if (since == NULL)
        return FALSE;
    g_free(live->since);
    live->since = g_strdup(since->id);
    for (guint i = 0; i < run->plan->disks->len; i++) {
        const VmbPlanDisk *disk = run->plan->disks->pdata[i];
        if (tells_all(disk, since))
            run->bases[i] = disk->parent_disk->checkpoint;
        else if (live->options->visit == NULL)
            return fail_since(live, disk, error);
    }
    return TRUE;
}

/* A disk that is new to it, was resized, or whose bitmap is not usable, is served without context: all of it counts. */
static gboolean
choose_for_consumer(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    int fd = vmb_repo_domain_fd(run->repo_domain);
    if (!vmb_consumer_read(fd, live->options->consumer, &live->consumer, error))
        return FALSE;
    guint n = run->plan->disks->len;
    g_autofree const char **targets = g_new0(const char *, n + 1);
    g_autofree gboolean *usable = g_new0(gboolean, n + 1);
    g_autoptr(GError) unknown = NULL;
    for (guint i = 0; i < n; i++)
        targets[i] = ((VmbPlanDisk *)run->plan->disks->pdata[i])->info->target;
    /* Of a repository of which this is an adopted copy: its checkpoint is that one's. */
    if (live->consumer != NULL && !vmb_checkpoint_is_ours(live->consumer->checkpoint,
                                                          vmb_repository_id(run->repository)))
        g_clear_pointer(&live->consumer, vmb_consumer_free);
    if (live->consumer == NULL)
        return TRUE;
    if (!vmb_checkpoint_validate(run->domain, live->consumer->checkpoint, targets, usable, &unknown))
        memset(usable, 0, n * sizeof(gboolean));
    for (guint i = 0; i < n; i++) {
        const VmbPlanDisk *disk = run->plan->disks->pdata[i];
        const VmbConsumerDisk *known = vmb_consumer_find_disk(live->consumer, disk->info->id);
        /* What is told by a bitmap is of this very image, and of nothing below it that has changed. */
        g_autoptr(GPtrArray) layers = vmb_source_layers(disk->info);
        gboolean same = known != NULL && vmb_source_layers_same_active(known->layers, layers) &&
                        vmb_source_layers_same_below(known->layers, layers);
        if (same && usable[i] && known->size == disk->info->size)
            run->bases[i] = live->consumer->checkpoint;
        else
            vmb_notice("%s disk %s: served whole, without a bitmap: %s", run->result->domain,
                       disk->info->target,
                       known == NULL                      ? "the consumer did not have it"
                       : known->size != disk->info->size ? "it was resized"
                       : !same ? "its image, or one below that, is not what it was"
                       : unknown != NULL                  ? unknown->message
                                                          : "its bitmap cannot be used any more");
    }
    return TRUE;
}

/* To QEMU itself, past the clients' way. */
static VmbNbdReader *
connect_disk(const Live *live, guint index, GError **error)
{
    VmbBackupRun *run = live->run;
    const char *target = ((VmbPlanDisk *)run->plan->disks->pdata[index])->info->target;
    g_autofree char *context =
        run->bases[index] != NULL ? g_strconcat(CONTEXT_PREFIX, target, NULL) : NULL;
    VmbNbdOptions options = {.socket = run->scratch->socket,
                             .export_name = target,
                             .dirty_context = context,
                             .label = target,
                             .cancel = run->stop};
    g_autoptr(VmbNbdReader) reader = vmb_nbd_reader_open(&options, error);
    guint64 size = vmb_round_up(((VmbPlanDisk *)run->plan->disks->pdata[index])->info->size,
                                VMB_QCOW2_SECTOR);
    if (reader != NULL && vmb_nbd_reader_size(reader) != size) {
        vmb_error_set(error, VMB_ERROR_FAILED,
                      "%s disk %s: it was resized while the job began; try again", run->result->domain, target);
        return NULL;
    }
    return g_steal_pointer(&reader);
}

/* A disk that shrank and grew again between two looks has lost dirty bits: then it reads as zero where the point holds
 * data, and the bitmap says nothing of it. Counts what the bitmap says on the way. */
static gboolean
survey(Live *live, guint index, VmbServedDisk *served, GError **error)
{
    VmbBackupRun *run = live->run;
    const VmbPlanDisk *disk = run->plan->disks->pdata[index];
    g_autoptr(GArray) links =
        live->options->since != NULL ? vmb_repo_chain(run->points, disk->parent, disk->info->id, error) : NULL;
    g_autoptr(VmbChainFiles) files =
        links != NULL ? vmb_chain_files_open(links, run->result->domain, FALSE, FALSE, error) : NULL;
    if (live->options->since != NULL && files == NULL)
        return FALSE;
    g_autoptr(VmbNbdReader) reader = connect_disk(live, index, error);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autofree guint8 *actions = g_malloc(VMB_QCOW2_L2_ENTRIES);
    guint64 contradicted = 0;
    for (guint64 at = 0; reader != NULL && at < served->size; at += VMB_QCOW2_L2_SPAN) {
        guint64 length = MIN(served->size - at, VMB_QCOW2_L2_SPAN);
        const VmbChainWindow *window = NULL;
        if (!vmb_nbd_reader_extents(reader, at, length, extents, error) ||
            (files != NULL && !vmb_chain_map(vmb_chain_files_chain(files), at / VMB_QCOW2_L2_SPAN,
                                             &window, error)))
            return FALSE;
        for (guint i = 0; i < extents->len; i++) {
            const VmbNbdExtent *extent = &g_array_index(extents, VmbNbdExtent, i);
            if (extent->dirty)
                *(extent->zero ? &served->zeroed : &served->changed) += extent->length;
        }
        if (window != NULL)
            vmb_disk_backup_plan(at, window->n_blocks, served->size, extents, G_MAXUINT64,
                                 G_MAXUINT64, window, actions, &contradicted);
    }
    if (reader == NULL)
        return FALSE;
    return contradicted == 0 ||
           vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                         "%s disk %s: its bitmap does not tell all that has changed since the point %s, as "
                         "when a disk is shrunk and grown again; `vmbackup changes %s/%s..live` finds it by "
                         "reading", run->result->domain, disk->info->target, live->options->since,
                         run->result->domain, live->options->since);
}

/* ---- serving ---- */

static gboolean
prepare(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    VmbDomainState state;
    if (!vmb_domain_state(run->domain, &state, error))
        return FALSE;
    if (!state.active)
        return vmb_error_set(error, VMB_ERROR_DOMAIN,
                             "domain %s is shut off: only a running one can be exported live. `vmbackup backup` "
                             "and `vmbackup export %s/latest` serve it as it is now", run->result->domain,
                             run->result->domain);
    /* It decides as for a backup, but of levels, which there are none here, nothing is to be said. */
    VmbLogLevel level = vmb_log_level();
    vmb_log_set_level(MIN(level, VMB_LOG_ERROR));
    gboolean planned = vmb_backup_inspect(run, error) && vmb_backup_plan(run, error);
    vmb_log_set_level(level);
    if (!planned)
        return FALSE;
    run->live = TRUE;
    run->no_checkpoint = live->options->consumer == NULL;
    run->bases = g_new0(const char *, run->plan->disks->len);
    vmb_backup_name(run);
    if (live->options->since != NULL)
        return choose_since(live, error);
    return live->options->consumer == NULL || choose_for_consumer(live, error);
}

static gboolean
add_disk(Live *live, guint index, GError **error)
{
    VmbBackupRun *run = live->run;
    const VmbPlanDisk *disk = run->plan->disks->pdata[index];
    VmbServedDisk *served = g_new0(VmbServedDisk, 1);
    g_ptr_array_add(live->served->disks, served);
    served->target = g_strdup(disk->info->target);
    served->uri = vmb_listener_uri(vmb_serve_place_listener(live->place), served->target, FALSE);
    served->size = vmb_round_up(disk->info->size, VMB_QCOW2_SECTOR);
    if (run->bases[index] == NULL) {
        g_autoptr(VmbNbdReader) reader = connect_disk(live, index, error);
        return reader != NULL;
    }
    served->context = g_strconcat(CONTEXT_PREFIX, disk->info->target, NULL);
    return survey(live, index, served, error);
}

static gboolean
describe(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    VmbServed *served = live->served = g_new0(VmbServed, 1);
    served->domain = g_strdup(run->result->domain);
    served->uuid = g_strdup(run->result->uuid);
    served->since = g_strdup(live->since != NULL ? live->since : live->options->consumer);
    served->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_served_disk_free);
    for (guint i = 0; i < run->plan->disks->len; i++)
        if (!add_disk(live, i, error))
            return FALSE;
    return TRUE;
}

/* ---- the end ---- */

static VmbConsumer *
advanced(const Live *live)
{
    VmbBackupRun *run = live->run;
    VmbConsumer *consumer =
        vmb_consumer_new(live->options->consumer, run->checkpoint, run->manifest->time_ns);
    for (guint i = 0; i < run->plan->disks->len; i++) {
        const VmbPlanDisk *disk = run->plan->disks->pdata[i];
        if (disk->info->bitmaps)
            vmb_consumer_add_disk(consumer, disk->info->id, disk->info->target, disk->info->size,
                                  disk->layers);
    }
    return consumer;
}

/* Which of the two checkpoints is needed is what the record says: the journal names both, so that whenever this dies
 * the next run deletes the other one. */
static gboolean
advance(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    int fd = vmb_repo_domain_fd(run->repo_domain);
    g_autoptr(VmbConsumer) consumer = advanced(live);
    g_autoptr(GPtrArray) left = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) local = NULL;
    for (guint i = 0; run->stale != NULL && run->stale[i] != NULL; i++)
        g_ptr_array_add(left, g_strdup(run->stale[i]));
    for (guint i = 0; i < live->left->len; i++)
        g_ptr_array_add(left, g_strdup(live->left->pdata[i]));
    guint kept = left->len; /* whatever becomes of the old checkpoint */
    if (live->consumer != NULL)
        g_ptr_array_add(left, g_strdup(live->consumer->checkpoint));
    gboolean any = left->len > 0;
    g_ptr_array_add(left, NULL);
    VmbJournal journal = {.nonce = run->nonce, .checkpoint = run->checkpoint,
                          .stale = any ? (char **)left->pdata : NULL, .time_ns = run->manifest->time_ns,
                          .pid = getpid()};
    if (!vmb_journal_write(fd, &journal, error) || !vmb_fault_point("consumer-noted", error) ||
        !vmb_consumer_write(fd, consumer, error))
        return FALSE;
    vmb_backup_job_keep_checkpoint(run->job);
    if (!vmb_fault_point("consumer-advanced", error))
        return FALSE;
    gboolean gone = live->consumer == NULL ||
                    vmb_checkpoint_delete(run->domain, live->consumer->checkpoint, &local);
    if (!gone)
        vmb_warning("%s; the next run tries again", local->message);
    g_clear_error(&local);
    if (gone)
        g_clear_pointer(&left->pdata[kept], g_free);
    VmbJournal rest = {.stale = left->pdata[0] != NULL ? (char **)left->pdata : NULL};
    run->journal_written = FALSE;
    /* The consumer has advanced: what the journal still names, the next run looks at. */
    if (!(rest.stale != NULL ? vmb_journal_write(fd, &rest, &local) : vmb_journal_clear(fd, &local)))
        vmb_warning("%s; the next run tidies up", local->message);
    return TRUE;
}

static gboolean
end_job(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    if (!vmb_backup_job_end(run->job, error))
        return FALSE;
    g_clear_pointer(&run->watch, vmb_scratch_watch_free);
    g_clear_pointer(&run->target_watch, vmb_target_watch_free);
    live->left = g_ptr_array_new_with_free_func(g_free);
    run->scratch_left = !vmb_scratch_remove(run->scratch);
    if (run->scratch_left) {
        g_ptr_array_add(live->left, g_strdup(run->scratch->dir));
        g_ptr_array_add(live->left, g_strdup(run->scratch->run_dir));
    }
    g_clear_pointer(&run->scratch, vmb_scratch_free);
    /* Before a consumer advances: a run that fails must bring the same again. */
    return vmb_backup_check_thawed(run, "what was served is whole", error) &&
           (live->options->consumer == NULL || advance(live, error));
}

/* A command that has got all has succeeded only if the disks were there until its end. */
static gboolean
serve(Live *live, int *status, GError **error)
{
    const VmbLiveOptions *options = live->options;
    VmbBackupRun *run = live->run;
    g_autoptr(GError) cause = NULL, space = NULL, target = NULL;
    /* A client of our own, that sees when the server goes. */
    g_autoptr(VmbNbdReader) watch = connect_disk(live, 0, error);
    int listen_fd = vmb_listener_fd(vmb_serve_place_listener(live->place));
    g_autoptr(VmbNbdProxy) proxy =
        watch != NULL ? vmb_nbd_proxy_start(listen_fd, run->scratch->socket, error) : NULL;
    if (proxy == NULL)
        return FALSE;
    gboolean served =
        vmb_serve(live->served, options->command, vmb_nbd_reader_fd(watch), options->ready,
                  options->user, run->stop, status, live->shell, &cause);
    if (vmb_scratch_watch_fired(run->watch, &space) ||
        vmb_target_watch_fired(run->target_watch, &target) ||
        (served && !vmb_backup_job_is_active(run->job)))
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: the backup job ended while it was served",
                             run->result->domain);
    if (!served)
        g_propagate_error(error, g_steal_pointer(&cause));
    return served;
}

static gboolean
visit(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    guint n = run->plan->disks->len;
    g_autoptr(GPtrArray) contexts = g_ptr_array_new_with_free_func(g_free);
    g_autofree VmbLiveDisk *disks = g_new0(VmbLiveDisk, n);
    VmbLiveView view = {run->result->domain, run->result->uuid, run->scratch->socket, disks, n, run->stop};
    for (guint i = 0; i < n; i++) {
        const VmbDiskInfo *info = ((VmbPlanDisk *)run->plan->disks->pdata[i])->info;
        char *context =
            run->bases[i] != NULL ? g_strconcat(CONTEXT_PREFIX, info->target, NULL) : NULL;
        g_ptr_array_add(contexts, context);
        disks[i] = (VmbLiveDisk){info->target, info->id, vmb_round_up(info->size, VMB_QCOW2_SECTOR), context};
    }
    return live->options->visit(&view, live->options->user, error);
}

/* A bitmap that was valid when it was asked for may be refused all the same: then there is none. */
static gboolean
forget_bitmaps(Live *live, GError **error)
{
    VmbBackupRun *run = live->run;
    if (!run->bitmaps_refused)
        return TRUE;
    if (live->options->since != NULL && live->options->visit == NULL)
        return vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL,
                             "%s: QEMU cannot use the bitmap since the point %s; `vmbackup changes %s/%s..live` finds "
                             "by reading what has changed", run->result->domain, live->since,
                             run->result->domain, live->since);
    vmb_notice("%s: served whole, without bitmaps: QEMU cannot use them", run->result->domain);
    memset(run->bases, 0, run->plan->disks->len * sizeof *run->bases);
    return TRUE;
}

static gboolean
use(Live *live, int *status, GError **error)
{
    if (!forget_bitmaps(live, error))
        return FALSE;
    if (live->options->visit != NULL)
        return visit(live, error);
    return describe(live, error) && serve(live, status, error);
}

/* A visitor asked for no quiescing, and needs no notice of that. */
static gboolean
start_job(Live *live, GError **error)
{
    VmbLogLevel level = vmb_log_level();
    if (live->options->visit != NULL)
        vmb_log_set_level(MIN(level, VMB_LOG_WARNING));
    gboolean started = vmb_backup_start_job(live->run, error);
    vmb_log_set_level(level);
    return started;
}

static gboolean
run_steps(Live *live, int *status, GError **error)
{
    VmbBackupRun *run = live->run;
    return vmb_backup_enter(run, live->options->domain, error) && prepare(live, error) &&
           vmb_backup_check_cancelled(run, error) && start_job(live, error) && use(live, status, error) &&
           end_job(live, error);
}

static void
forward_cancel(GCancellable *cancel, gpointer data)
{
    g_cancellable_cancel(data);
}

gboolean
vmb_export_live(const VmbLiveOptions *options, int *status, GError **error)
{
    VmbBackupOptions backup = {.repository = options->repository,
                               .uri = options->uri,
                               .level = options->since != NULL ? VMB_WANT_AUTO : VMB_WANT_FULL,
                               .quiesce = options->quiesce,
                               .freeze_timeout_ns = options->freeze_timeout_ns,
                               .disks = options->disks,
                               .scratch_dir = options->scratch_dir,
                               .lock_wait_ns = options->lock_wait_ns,
                               .cancel = options->cancel};
    g_autoptr(VmbBackupResult) result = vmb_backup_result_new(options->domain);
    /* Waited for last of all: a command that does not end must not hold the guest. */
    g_autoptr(VmbShell) shell = NULL;
    g_auto(VmbBackupRun) run = {.options = &backup, .result = result, .reasons = result->reasons};
    g_auto(Live) live = {.options = options, .run = &run, .shell = &shell};
    *status = 0;
    run.stop = g_cancellable_new();
    run.progress = vmb_progress_new(options->domain);
    if (options->cancel != NULL)
        run.stop_handler =
            g_cancellable_connect(options->cancel, G_CALLBACK(forward_cancel), run.stop, NULL);
    if (options->visit == NULL) {
        live.place = vmb_serve_place_new(&options->address, options->command != NULL, error);
        if (live.place == NULL)
            return FALSE;
    }
    if (run_steps(&live, status, error))
        return TRUE;
    vmb_backup_explain(&run, error);
    return FALSE;
}
