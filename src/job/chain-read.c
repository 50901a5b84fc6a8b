/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading everything that a chain holds, in parallel, with digests verified on the way. */
#include "job/chain-read.h"
#include "block/pipeline.h"
#include "image/qcow2-format.h"
#include "util/error.h"
#include "util/units.h"

#include <string.h>

typedef struct {
    VmbDecoder *decoder;
    GArray *damage; /* of one chunk; its blocks tell the same */
} Worker;

static gboolean
holds_data(const VmbBlock *block)
{
    return block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED;
}

/* Lost blocks pass through the pipeline like data, so that all losses come in one order. */
static gboolean
is_wanted(const VmbBlock *block)
{
    return holds_data(block) || block->loss != VMB_LOSS_NONE;
}

static gpointer
worker_new(gpointer user)
{
    const VmbChainRead *job = user;
    Worker *worker = g_new0(Worker, 1);
    worker->decoder = vmb_decoder_new(job->chain);
    worker->damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    return worker;
}

static void
worker_free(gpointer data)
{
    Worker *worker = data;
    vmb_decoder_free(worker->decoder);
    g_array_unref(worker->damage);
    g_free(worker);
}

static gboolean
decode(VmbChunk *chunk, gpointer data, gpointer user, GError **error)
{
    const VmbChainRead *job = user;
    Worker *worker = data;
    g_array_set_size(worker->damage, 0);
    return vmb_decoder_chunk(worker->decoder, chunk, job->losses != NULL ? worker->damage : NULL,
                             error);
}

static void
note_losses(const VmbChainRead *job, guint64 offset, const VmbBlock *blocks, guint n_blocks)
{
    guint64 size = vmb_chain_size(job->chain);
    for (guint i = 0; job->losses != NULL && i < n_blocks; i++) {
        guint64 at = offset + (guint64)i * VMB_BLOCK_SIZE;
        if (blocks[i].loss != VMB_LOSS_NONE)
            vmb_losses_add(job->losses, at, MIN(VMB_BLOCK_SIZE, size - at), blocks[i].layer,
                           blocks[i].loss);
    }
}

static gboolean
emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    const VmbChainRead *job = user;
    note_losses(job, chunk->offset, chunk->blocks, chunk->n_blocks);
    vmb_progress_advance(job->progress, (guint64)chunk->n_blocks * VMB_BLOCK_SIZE, chunk->length);
    return job->emit == NULL || job->emit(chunk, job->user, error);
}

/* Queues the data blocks of a window in chunks of neighbours. */
static gboolean
queue_window(const VmbChainRead *job, VmbPipeline *pipeline, const VmbChainWindow *window)
{
    guint64 size = vmb_round_up(vmb_chain_size(job->chain), 512);
    if (job->maps_only) {
        note_losses(job, window->offset, window->blocks, window->n_blocks);
        return TRUE;
    }
    for (guint first = 0; first < window->n_blocks;) {
        if (!is_wanted(&window->blocks[first])) {
            first++;
            continue;
        }
        guint n = 1;
        while (n < VMB_CHUNK_BLOCKS && first + n < window->n_blocks &&
               is_wanted(&window->blocks[first + n]))
            n++;
        guint64 offset = window->offset + (guint64)first * VMB_BLOCK_SIZE;
        guint64 length = MIN((guint64)n * VMB_BLOCK_SIZE, size - offset);
        VmbChunk *chunk = vmb_pipeline_take(pipeline, offset, length);
        if (chunk == NULL)
            return FALSE;
        chunk->n_blocks = n;
        memcpy(chunk->blocks, window->blocks + first, n * sizeof(VmbBlock));
        vmb_pipeline_push(pipeline, chunk);
        first += n;
    }
    return TRUE;
}

static guint64
n_windows(VmbChain *chain)
{
    return (vmb_chain_size(chain) + VMB_QCOW2_L2_SPAN - 1) / VMB_QCOW2_L2_SPAN;
}

gboolean
vmb_chain_read(const VmbChainRead *job, GError **error)
{
    VmbPipelineConfig config = {.worker_new = worker_new, .worker_free = worker_free,
                                .work = decode, .emit = emit, .user = (gpointer)job};
    g_autoptr(VmbPipeline) pipeline = vmb_pipeline_new(&config);
    for (guint64 index = 0; index < n_windows(job->chain); index++) {
        const VmbChainWindow *window = NULL;
        if (g_cancellable_is_cancelled(job->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "cancelled");
        if (!vmb_chain_window(job->chain, index, &window, error))
            return FALSE;
        if (!queue_window(job, pipeline, window))
            break; /* finish tells the reason */
    }
    return vmb_pipeline_finish(pipeline, error);
}

gboolean
vmb_chain_count(VmbChain *chain, guint64 *bytes, GError **error)
{
    *bytes = 0;
    for (guint64 index = 0; index < n_windows(chain); index++) {
        const VmbChainWindow *window = NULL;
        if (!vmb_chain_map(chain, index, &window, error))
            return FALSE;
        for (guint i = 0; i < window->n_blocks; i++)
            if (holds_data(&window->blocks[i]))
                *bytes += VMB_BLOCK_SIZE;
    }
    return TRUE;
}
