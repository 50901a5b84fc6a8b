/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ordered, parallel, bounded: chunks are worked on by several threads and come out in order. */
#include "block/pipeline.h"
#include "util/error.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORKERS_MAX 16
#define CHUNKS_DEFAULT 32
#define SLOT_BYTES (2 * (gsize)VMB_CHUNK_SIZE) /* data and output */
#define ZEROES_MAX 4096 /* runs of zeroes that queue before the producer waits */

typedef enum {
    SLOT_FREE,   /* on the stack of free slots */
    SLOT_TAKEN,  /* the producer fills it */
    SLOT_QUEUED, /* waits for a worker */
    SLOT_WORKING,
    SLOT_DONE, /* waits for its turn to be emitted */
} SlotState;

typedef struct Slot {
    VmbChunk chunk; /* first, so that a VmbChunk * is its Slot * */
    SlotState state;
    struct Slot *next; /* in the list of free, of queued or of returned slots */
} Slot;

/* A place in the order: a slot, or (slot NULL) a run of zeroes. */
typedef struct {
    Slot *slot;
    guint64 offset, length;
} Entry;

struct VmbPipeline {
    VmbPipelineConfig config;
    /* pthread's own primitives: they are what ThreadSanitizer understands. */
    pthread_mutex_t lock;
    pthread_cond_t for_workers;  /* something is queued, or stop */
    pthread_cond_t for_emitter;  /* the oldest entry may be ready, or stop */
    pthread_cond_t for_producer; /* a slot is free or returned, the order got shorter, failure */
    int event_fd;
    gboolean signalled; /* state of event_fd */

    Slot *slots;
    guint8 *memory;   /* data and output of all slots; pages appear when first touched */
    Slot *free_slots; /* a stack: the slot used last is still in the cache */
    Slot *queue_head, *queue_tail;
    Slot *returned; /* a stack: their places in the order are theirs anyway */
    Entry *order; /* a ring of order_capacity (a power of two) */
    guint64 order_head, order_tail, order_capacity;
    guint n_zeroes, n_taken;
    guint n_busy; /* slots that are queued or worked on */
    guint64 sequence;
    gboolean emitting, finishing;

    gboolean stop;
    GError *failure; /* the first one */
    GPtrArray *threads;
};

/* All functions named *_locked are called with the lock held. */

static gboolean
over_locked(VmbPipeline *p)
{
    return p->stop || p->failure != NULL;
}

/* Makes the descriptor readable just when taking would not have to wait. */
static void
update_event_locked(VmbPipeline *p)
{
    gboolean want = p->free_slots != NULL || p->returned != NULL || p->failure != NULL;
    if (want == p->signalled || p->event_fd < 0)
        return;
    guint64 value = 1;
    gssize n =
        want ? write(p->event_fd, &value, sizeof value) : read(p->event_fd, &value, sizeof value);
    g_assert(n == sizeof value);
    p->signalled = want;
}

static void
wake_all_locked(VmbPipeline *p)
{
    pthread_cond_broadcast(&p->for_workers);
    pthread_cond_broadcast(&p->for_emitter);
    pthread_cond_broadcast(&p->for_producer);
}

/* Takes @error; all but the first are dropped. */
static void
fail_locked(VmbPipeline *p, GError *error)
{
    if (p->failure == NULL)
        p->failure = error != NULL ? error
                                   : g_error_new(VMB_ERROR, VMB_ERROR_FAILED,
                                                 "a step failed without saying why");
    else
        g_clear_error(&error);
    update_event_locked(p);
    wake_all_locked(p);
}

static Entry *
order_at(VmbPipeline *p, guint64 index)
{
    return &p->order[index & (p->order_capacity - 1)];
}

static void
order_append_locked(VmbPipeline *p, Entry entry)
{
    if (p->order_tail - p->order_head == p->order_capacity) {
        guint64 capacity = 2 * p->order_capacity;
        Entry *order = g_new(Entry, capacity);
        for (guint64 i = p->order_head; i != p->order_tail; i++)
            order[i & (capacity - 1)] = *order_at(p, i);
        g_free(p->order);
        p->order = order;
        p->order_capacity = capacity;
    }
    *order_at(p, p->order_tail++) = entry;
}

/* TRUE if the oldest entry can be emitted now. */
static gboolean
head_ready_locked(VmbPipeline *p)
{
    if (p->order_head == p->order_tail)
        return FALSE;
    Slot *slot = order_at(p, p->order_head)->slot;
    return slot == NULL || slot->state == SLOT_DONE;
}

static void
release_slot_locked(VmbPipeline *p, Slot *slot)
{
    slot->state = SLOT_FREE;
    slot->next = p->free_slots;
    p->free_slots = slot;
}

static Slot *
wait_for_work_locked(VmbPipeline *p)
{
    while (!over_locked(p) && p->queue_head == NULL)
        pthread_cond_wait(&p->for_workers, &p->lock);
    if (over_locked(p))
        return NULL;
    Slot *slot = p->queue_head;
    p->queue_head = slot->next;
    slot->state = SLOT_WORKING;
    return slot;
}

static void
hand_back_locked(VmbPipeline *p, Slot *slot)
{
    slot->chunk.again = FALSE;
    slot->state = SLOT_TAKEN;
    slot->next = p->returned;
    p->returned = slot;
    p->n_taken++;
    if (p->finishing)
        fail_locked(p, g_error_new(VMB_ERROR, VMB_ERROR_FAILED,
                                   "a chunk was handed back, and nobody fills it"));
    update_event_locked(p);
    pthread_cond_broadcast(&p->for_producer);
}

static void
worked_locked(VmbPipeline *p, Slot *slot)
{
    if (slot->chunk.again) {
        hand_back_locked(p, slot);
        return;
    }
    slot->state = SLOT_DONE;
    if (order_at(p, p->order_head)->slot == slot)
        pthread_cond_signal(&p->for_emitter);
}

static gpointer
worker_thread(gpointer data)
{
    VmbPipeline *p = data;
    const VmbPipelineConfig *config = &p->config;
    gpointer worker = config->worker_new != NULL ? config->worker_new(config->user) : NULL;
    pthread_mutex_lock(&p->lock);
    for (Slot *slot; (slot = wait_for_work_locked(p)) != NULL;) {
        pthread_mutex_unlock(&p->lock);
        GError *error = NULL;
        gboolean ok =
            config->work == NULL || config->work(&slot->chunk, worker, config->user, &error);
        pthread_mutex_lock(&p->lock);
        if (ok)
            worked_locked(p, slot);
        else
            fail_locked(p, error);
        if (--p->n_busy == 0)
            pthread_cond_broadcast(&p->for_producer);
    }
    pthread_mutex_unlock(&p->lock);
    if (config->worker_new != NULL && config->worker_free != NULL)
        config->worker_free(worker);
    return NULL;
}

static gboolean
emit_entry(VmbPipeline *p, const Entry *entry, GError **error)
{
    if (p->config.emit == NULL)
        return TRUE;
    if (entry->slot != NULL)
        return p->config.emit(&entry->slot->chunk, p->config.user, error);
    VmbChunk zeroes = {.offset = entry->offset, .length = entry->length};
    return p->config.emit(&zeroes, p->config.user, error);
}

/* A thread of its own: a target that stands still must not stop the compression. */
static gpointer
emitter_thread(gpointer data)
{
    VmbPipeline *p = data;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!over_locked(p) && !head_ready_locked(p))
            pthread_cond_wait(&p->for_emitter, &p->lock);
        if (over_locked(p))
            break;
        Entry entry = *order_at(p, p->order_head++);
        p->n_zeroes -= entry.slot == NULL;
        p->emitting = TRUE;
        pthread_mutex_unlock(&p->lock);
        GError *error = NULL;
        gboolean ok = emit_entry(p, &entry, &error);
        pthread_mutex_lock(&p->lock);
        p->emitting = FALSE;
        if (entry.slot != NULL)
            release_slot_locked(p, entry.slot);
        if (!ok)
            fail_locked(p, error);
        update_event_locked(p);
        pthread_cond_broadcast(&p->for_producer);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static gboolean
allocate(VmbPipeline *p, GError **error)
{
    guint n = p->config.max_chunks;
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->event_fd < 0)
        return vmb_error_errno(error, errno, "cannot make an eventfd");
    void *memory = mmap(NULL, n * SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return vmb_error_errno(error, errno, "no memory for %u chunks", n);
    p->memory = memory;
    p->slots = g_new0(Slot, n);
    for (guint i = n; i-- > 0;) {
        p->slots[i].chunk.data = p->memory + i * SLOT_BYTES;
        p->slots[i].chunk.output = p->slots[i].chunk.data + VMB_CHUNK_SIZE;
        release_slot_locked(p, &p->slots[i]);
    }
    return TRUE;
}

static gboolean
start_threads(VmbPipeline *p, GError **error)
{
    GThread *thread = g_thread_try_new("emit", emitter_thread, p, error);
    if (thread == NULL)
        return FALSE;
    g_ptr_array_add(p->threads, thread);
    for (guint i = 0; i < p->config.n_workers; i++) {
        thread = g_thread_try_new("work", worker_thread, p, error);
        if (thread == NULL)
            return FALSE;
        g_ptr_array_add(p->threads, thread);
    }
    return TRUE;
}

VmbPipeline *
vmb_pipeline_new(const VmbPipelineConfig *config)
{
    VmbPipeline *p = g_new0(VmbPipeline, 1);
    p->config = *config;
    if (p->config.n_workers == 0)
        p->config.n_workers = g_get_num_processors();
    p->config.n_workers = MIN(p->config.n_workers, WORKERS_MAX);
    if (p->config.max_chunks == 0)
        p->config.max_chunks = CHUNKS_DEFAULT;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->for_workers, NULL);
    pthread_cond_init(&p->for_emitter, NULL);
    pthread_cond_init(&p->for_producer, NULL);
    p->order_capacity = 256;
    p->order = g_new(Entry, p->order_capacity);
    p->threads = g_ptr_array_new();
    /* There is no other way to report what fails here than that of a failed step. */
    GError *error = NULL;
    gboolean ok = allocate(p, &error) && start_threads(p, &error);
    pthread_mutex_lock(&p->lock);
    if (!ok)
        fail_locked(p, error);
    update_event_locked(p);
    pthread_mutex_unlock(&p->lock);
    return p;
}

static void
stop_and_join(VmbPipeline *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = TRUE;
    wake_all_locked(p);
    pthread_mutex_unlock(&p->lock);
    for (guint i = 0; i < p->threads->len; i++)
        g_thread_join(g_ptr_array_index(p->threads, i));
    g_ptr_array_set_size(p->threads, 0);
}

void
vmb_pipeline_free(VmbPipeline *p)
{
    if (p == NULL)
        return;
    stop_and_join(p);
    pthread_cond_destroy(&p->for_producer);
    pthread_cond_destroy(&p->for_emitter);
    pthread_cond_destroy(&p->for_workers);
    pthread_mutex_destroy(&p->lock);
    if (p->memory != NULL)
        munmap(p->memory, p->config.max_chunks * SLOT_BYTES);
    if (p->event_fd >= 0)
        close(p->event_fd);
    g_ptr_array_unref(p->threads);
    g_clear_error(&p->failure);
    g_free(p->slots);
    g_free(p->order);
    g_free(p);
}

static VmbChunk *
take_locked(VmbPipeline *p, guint64 offset, guint64 length)
{
    if (over_locked(p) || p->free_slots == NULL)
        return NULL;
    Slot *slot = p->free_slots;
    p->free_slots = slot->next;
    slot->state = SLOT_TAKEN;
    slot->chunk.offset = offset;
    slot->chunk.length = length;
    slot->chunk.n_blocks = 0;
    slot->chunk.compare = slot->chunk.probe = slot->chunk.stored = slot->chunk.again = FALSE;
    slot->chunk.sequence = p->sequence++;
    p->n_taken++;
    order_append_locked(p, (Entry){.slot = slot, .offset = offset, .length = length});
    update_event_locked(p);
    return &slot->chunk;
}

VmbChunk *
vmb_pipeline_try_take(VmbPipeline *p, guint64 offset, guint64 length)
{
    g_assert(length > 0 && length <= VMB_CHUNK_SIZE);
    pthread_mutex_lock(&p->lock);
    VmbChunk *chunk = take_locked(p, offset, length);
    pthread_mutex_unlock(&p->lock);
    return chunk;
}

VmbChunk *
vmb_pipeline_take(VmbPipeline *p, guint64 offset, guint64 length)
{
    g_assert(length > 0 && length <= VMB_CHUNK_SIZE);
    pthread_mutex_lock(&p->lock);
    while (!over_locked(p) && p->free_slots == NULL)
        pthread_cond_wait(&p->for_producer, &p->lock);
    VmbChunk *chunk = take_locked(p, offset, length);
    pthread_mutex_unlock(&p->lock);
    return chunk;
}

void
vmb_pipeline_push(VmbPipeline *p, VmbChunk *chunk)
{
    Slot *slot = (Slot *)chunk;
    pthread_mutex_lock(&p->lock);
    g_assert(slot->state == SLOT_TAKEN);
    slot->state = SLOT_QUEUED;
    slot->next = NULL;
    p->n_taken--;
    p->n_busy++;
    if (p->queue_head == NULL)
        p->queue_head = slot;
    else
        p->queue_tail->next = slot;
    p->queue_tail = slot;
    pthread_cond_signal(&p->for_workers);
    pthread_mutex_unlock(&p->lock);
}

VmbChunk *
vmb_pipeline_returned(VmbPipeline *p)
{
    pthread_mutex_lock(&p->lock);
    Slot *slot = over_locked(p) ? NULL : p->returned;
    if (slot != NULL) {
        p->returned = slot->next;
        update_event_locked(p);
    }
    pthread_mutex_unlock(&p->lock);
    return slot != NULL ? &slot->chunk : NULL;
}

gboolean
vmb_pipeline_settle(VmbPipeline *p)
{
    pthread_mutex_lock(&p->lock);
    while (!over_locked(p) && p->n_busy > 0 && p->returned == NULL)
        pthread_cond_wait(&p->for_producer, &p->lock);
    gboolean any = !over_locked(p) && p->returned != NULL;
    pthread_mutex_unlock(&p->lock);
    return any;
}

/* TRUE while the queue of zero runs is full and gets shorter without the producer's help: it would
 * wait for itself if the oldest chunk were one that it has not pushed yet. */
static gboolean
must_wait_locked(VmbPipeline *p)
{
    if (over_locked(p) || p->n_zeroes < ZEROES_MAX)
        return FALSE;
    Slot *head = order_at(p, p->order_head)->slot;
    return head == NULL || head->state != SLOT_TAKEN;
}

static gboolean
merge_zero_locked(VmbPipeline *p, guint64 offset, guint64 length)
{
    if (p->order_head == p->order_tail)
        return FALSE;
    Entry *last = order_at(p, p->order_tail - 1);
    if (last->slot != NULL || last->offset + last->length != offset)
        return FALSE;
    last->length += length;
    return TRUE;
}

gboolean
vmb_pipeline_zero(VmbPipeline *p, guint64 offset, guint64 length)
{
    pthread_mutex_lock(&p->lock);
    gboolean ok = !over_locked(p);
    if (ok && length > 0 && !merge_zero_locked(p, offset, length)) {
        while (must_wait_locked(p))
            pthread_cond_wait(&p->for_producer, &p->lock);
        ok = !over_locked(p);
        if (ok) {
            order_append_locked(p, (Entry){.offset = offset, .length = length});
            p->n_zeroes++;
            pthread_cond_signal(&p->for_emitter);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return ok;
}

int
vmb_pipeline_fd(VmbPipeline *p)
{
    return p->event_fd;
}

gboolean
vmb_pipeline_failed(VmbPipeline *p)
{
    pthread_mutex_lock(&p->lock);
    gboolean failed = p->failure != NULL;
    pthread_mutex_unlock(&p->lock);
    return failed;
}

gboolean
vmb_pipeline_finish(VmbPipeline *p, GError **error)
{
    pthread_mutex_lock(&p->lock);
    p->finishing = TRUE;
    if (p->n_taken > 0 && !over_locked(p))
        fail_locked(p, g_error_new(VMB_ERROR, VMB_ERROR_FAILED,
                                   "%u chunks were taken and never filled", p->n_taken));
    while (!over_locked(p) && (p->order_head != p->order_tail || p->emitting))
        pthread_cond_wait(&p->for_producer, &p->lock);
    pthread_mutex_unlock(&p->lock);
    /* Joined before the result is told, so that no callback runs any more. */
    stop_and_join(p);
    if (p->failure != NULL && error != NULL)
        *error = g_error_copy(p->failure);
    return p->failure == NULL;
}
