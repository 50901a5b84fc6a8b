/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading everything that a chain holds, in parallel, with digests verified on the way. */
#include "job/chain-read.h"
#include "block/pipeline.h"
#include "image/qcow2-format.h"
#include "util/error.h"
#include "util/units.h"

#include <string.h>

static gboolean
holds_data(const VmbBlock *block)
{
    return block->kind == VMB_BLOCK_PLAIN || block->kind == VMB_BLOCK_COMPRESSED;
}

static gpointer
worker_new(gpointer user)
{
    const VmbChainRead *job = user;
    return vmb_decoder_new(job->chain);
}

static void
worker_free(gpointer worker)
{
    vmb_decoder_free(worker);
}

static gboolean
decode(VmbChunk *chunk, gpointer worker, gpointer user, GError **error)
{
    const VmbChainRead *job = user;
    return vmb_decoder_chunk(worker, chunk, job->damage, error);
}

static gboolean
emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    const VmbChainRead *job = user;
    vmb_progress_advance(job->progress, (guint64)chunk->n_blocks * VMB_BLOCK_SIZE, chunk->length);
    return job->emit == NULL || job->emit(chunk, job->user, error);
}

/* Queues the data blocks of a window in chunks of neighbours. */
static gboolean
queue_window(const VmbChainRead *job, VmbPipeline *pipeline, const VmbChainWindow *window)
{
    guint64 size = vmb_round_up(vmb_chain_size(job->chain), 512);
    for (guint first = 0; first < window->n_blocks;) {
        if (!holds_data(&window->blocks[first])) {
            first++;
            continue;
        }
        guint n = 1;
        while (n < VMB_CHUNK_BLOCKS && first + n < window->n_blocks &&
               holds_data(&window->blocks[first + n]))
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
