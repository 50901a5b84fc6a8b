/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ordered, parallel, bounded: chunks are worked on by several threads and come out in order. */
#pragma once
#include "block/chunk.h"

typedef struct VmbPipeline VmbPipeline;

typedef struct {
    guint n_workers;  /* 0: one per processor, at most 16 */
    guint max_chunks; /* DATA chunks alive at once, which bounds memory; 0: a default (32) */
    /* Per worker thread: made and freed in it; either may be NULL. */
    gpointer (*worker_new)(gpointer user);
    void (*worker_free)(gpointer worker);
    /* Works on one DATA chunk, in any order, in several threads at once. One of which it
     * can make nothing it marks with chunk->again: the producer gets it back, see
     * vmb_pipeline_returned(). */
    gboolean (*work)(VmbChunk *chunk, gpointer worker, gpointer user, GError **error);
    /* Takes each chunk (DATA and zero runs), in the order of vmb_pipeline_take()/_zero(), in one
     * thread at a time. May be NULL. */
    gboolean (*emit)(const VmbChunk *chunk, gpointer user, GError **error);
    gpointer user;
} VmbPipelineConfig;

/* Starts the threads. Freeing before finish stops them, drops what is queued and joins them. */
VmbPipeline *vmb_pipeline_new(const VmbPipelineConfig *config);
void vmb_pipeline_free(VmbPipeline *pipeline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbPipeline, vmb_pipeline_free)

/* Takes an empty DATA chunk whose place in the order is here. The producer fills it and calls
 * vmb_pipeline_push(), at any time and in any order. NULL if none is free now (or after a failure):
 * wait for vmb_pipeline_fd() to become readable, or use the waiting form. One producer thread. */
VmbChunk *vmb_pipeline_try_take(VmbPipeline *pipeline, guint64 offset, guint64 length);
/* The same, but waits; NULL only after a failure, which vmb_pipeline_finish() tells. Only for a
 * producer that holds no chunk: what it holds may be what all others wait for. */
VmbChunk *vmb_pipeline_take(VmbPipeline *pipeline, guint64 offset, guint64 length);
void vmb_pipeline_push(VmbPipeline *pipeline, VmbChunk *chunk);

/* A chunk that work has handed back, or NULL: it keeps its place in the order, and nothing behind it is emitted
 * until it has been filled and pushed anew. A producer that may get some looks for them whenever it
 * waits, and does not use the waiting form above. */
VmbChunk *vmb_pipeline_returned(VmbPipeline *pipeline);
/* Waits until work has seen all chunks that were pushed, or has handed one back: TRUE. To be asked, until it
 * is FALSE, before vmb_pipeline_finish(). */
gboolean vmb_pipeline_settle(VmbPipeline *pipeline);

/* A run of zeroes takes its place in the order; it needs no chunk and seldom waits: runs that touch
 * are merged while they queue, but some thousands that do not touch must queue before it waits, and
 * never for a chunk that the producer itself has not pushed yet. FALSE after a failure. */
gboolean vmb_pipeline_zero(VmbPipeline *pipeline, guint64 offset, guint64 length);

/* Readable while a chunk can be taken, one was handed back, or after a failure (an eventfd,
 * level-triggered). */
int vmb_pipeline_fd(VmbPipeline *pipeline);
/* TRUE after a worker or emit failed: stop producing. */
gboolean vmb_pipeline_failed(VmbPipeline *pipeline);

/* Waits until all pushed chunks are emitted. Every taken chunk must have been pushed, unless the
 * pipeline failed. Returns the first error of work or emit. */
gboolean vmb_pipeline_finish(VmbPipeline *pipeline, GError **error);
