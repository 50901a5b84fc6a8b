/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Order, bounds, errors and endings of the pipeline, under random timing. */
#include "block/pipeline.h"
#include "util/error.h"

#include <poll.h>
#include <string.h>

/* What the callbacks see and check. Counters that several threads change are atomic. */
typedef struct {
    guint64 next_offset; /* emit's own */
    guint64 zero_bytes, data_bytes;
    guint n_emitted;
    gint n_working, n_workers, n_emitting;
    guint64 fail_work_at, fail_emit_at; /* offsets; G_MAXUINT64: never */
    guint max_delay;                    /* microseconds */
    gboolean hand_back;                 /* work hands chunks back whose second byte is set */
    GMutex *gate;                       /* emit waits for it */
} State;

#define STATE ((State){.fail_work_at = G_MAXUINT64, .fail_emit_at = G_MAXUINT64, .max_delay = 300})

static gpointer
worker_new(gpointer user)
{
    State *state = user;
    g_atomic_int_inc(&state->n_workers);
    return g_rand_new();
}

static void
worker_free(gpointer worker)
{
    g_rand_free(worker);
}

static gboolean
work(VmbChunk *chunk, gpointer worker, gpointer user, GError **error)
{
    State *state = user;
    g_atomic_int_inc(&state->n_working);
    if (state->max_delay > 0)
        g_usleep((gulong)g_rand_int_range(worker, 0, (gint32)state->max_delay));
    chunk->n_blocks = chunk->data[0] + 1u;
    g_atomic_int_add(&state->n_working, -1);
    chunk->again = state->hand_back && chunk->data[1] != 0;
    if (chunk->offset >= state->fail_work_at)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "work fails");
    return TRUE;
}

static gboolean
emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    State *state = user;
    g_assert_cmpint(g_atomic_int_add(&state->n_emitting, 1), ==, 0);
    if (state->gate != NULL) {
        g_mutex_lock(state->gate);
        g_mutex_unlock(state->gate);
    }
    g_assert_cmpuint(chunk->offset, ==, state->next_offset);
    state->next_offset += chunk->length;
    state->n_emitted++;
    if (chunk->data != NULL) {
        g_assert_cmpuint(chunk->n_blocks, ==, (chunk->offset / VMB_BLOCK_SIZE) % 200 + 1);
        state->data_bytes += chunk->length;
    } else {
        state->zero_bytes += chunk->length;
    }
    g_atomic_int_add(&state->n_emitting, -1);
    if (chunk->offset + chunk->length > state->fail_emit_at)
        return vmb_error_set(error, VMB_ERROR_NO_SPACE, "emit fails");
    return TRUE;
}

static VmbPipeline *
start(State *state, guint n_workers, guint max_chunks)
{
    VmbPipelineConfig config = {.n_workers = n_workers,
                                .max_chunks = max_chunks,
                                .worker_new = worker_new,
                                .worker_free = worker_free,
                                .work = work,
                                .emit = emit,
                                .user = state};
    return vmb_pipeline_new(&config);
}

static void
fill(VmbChunk *chunk)
{
    chunk->data[0] = (guint8)((chunk->offset / VMB_BLOCK_SIZE) % 200);
}

/* Pushes out of order, as answers of a server come: some chunks are held back in @held. */
static void
push_some(VmbPipeline *pipeline, GPtrArray *held, guint limit)
{
    while (held->len > limit) {
        guint pick = (guint)g_test_rand_int_range(0, (gint32)held->len);
        vmb_pipeline_push(pipeline, g_ptr_array_remove_index_fast(held, pick));
    }
}

/* What is held back may be what all others wait for, so it is pushed before waiting. */
static VmbChunk *
take(VmbPipeline *pipeline, GPtrArray *held, guint64 offset, guint64 length)
{
    for (;;) {
        VmbChunk *chunk = vmb_pipeline_try_take(pipeline, offset, length);
        if (chunk != NULL)
            return chunk;
        if (held->len == 0)
            return vmb_pipeline_take(pipeline, offset, length);
        push_some(pipeline, held, held->len - 1);
    }
}

/* Feeds random data and zero runs; returns the bytes fed, and stops early after a failure. */
static guint64
feed(VmbPipeline *pipeline, guint n, guint hold, guint64 *zeroes)
{
    g_autoptr(GPtrArray) held = g_ptr_array_new();
    guint64 offset = 0;
    *zeroes = 0;
    for (guint i = 0; i < n; i++) {
        guint64 length = VMB_BLOCK_SIZE * (guint64)g_test_rand_int_range(1, VMB_CHUNK_BLOCKS + 1);
        if (g_test_rand_int_range(0, 3) == 0) {
            if (!vmb_pipeline_zero(pipeline, offset, length))
                break;
            *zeroes += length;
        } else {
            VmbChunk *chunk = take(pipeline, held, offset, length);
            if (chunk == NULL)
                break;
            fill(chunk);
            g_ptr_array_add(held, chunk);
            push_some(pipeline, held, (guint)g_test_rand_int_range(0, (gint32)hold + 1));
        }
        offset += length;
    }
    push_some(pipeline, held, 0);
    return offset;
}

static void
test_order(void)
{
    for (int round = 0; round < 40; round++) {
        State state = STATE;
        state.max_delay = round % 2 == 0 ? 0 : 300;
        guint max_chunks = (guint)g_test_rand_int_range(1, 12);
        g_autoptr(VmbPipeline) pipeline =
            start(&state, (guint)g_test_rand_int_range(0, 6), max_chunks);
        guint64 zeroes, fed = feed(pipeline, 200, max_chunks - 1, &zeroes);
        g_autoptr(GError) error = NULL;
        g_assert_true(vmb_pipeline_finish(pipeline, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(state.next_offset, ==, fed);
        g_assert_cmpuint(state.zero_bytes, ==, zeroes);
        g_assert_cmpuint(state.data_bytes, ==, fed - zeroes);
        g_assert_cmpint(g_atomic_int_get(&state.n_working), ==, 0);
    }
}

/* Fills what has come back; some of it comes back once more. Returns how many. */
static guint
serve_returned(VmbPipeline *pipeline)
{
    guint n = 0;
    for (VmbChunk *chunk; (chunk = vmb_pipeline_returned(pipeline)) != NULL; n++) {
        g_assert_false(chunk->again);
        fill(chunk);
        chunk->data[1] = g_test_rand_int_range(0, 4) == 0;
        vmb_pipeline_push(pipeline, chunk);
    }
    return n;
}

static guint
feed_returning(VmbPipeline *pipeline, guint n, guint64 *fed)
{
    guint returned = 0;
    for (guint i = 0; i < n; i++) {
        guint64 length = VMB_BLOCK_SIZE * (guint64)g_test_rand_int_range(1, VMB_CHUNK_BLOCKS + 1);
        VmbChunk *chunk = NULL;
        if (g_test_rand_int_range(0, 3) == 0) {
            g_assert_true(vmb_pipeline_zero(pipeline, *fed, length));
        } else {
            while ((chunk = vmb_pipeline_try_take(pipeline, *fed, length)) == NULL) {
                struct pollfd event = {vmb_pipeline_fd(pipeline), POLLIN, 0};
                g_assert_cmpint(poll(&event, 1, 20000), ==, 1);
                returned += serve_returned(pipeline);
            }
            fill(chunk);
            chunk->data[1] = g_test_rand_bit();
            vmb_pipeline_push(pipeline, chunk);
        }
        *fed += length;
    }
    while (vmb_pipeline_settle(pipeline))
        returned += serve_returned(pipeline);
    return returned;
}

/* What is handed back keeps its place, and nobody waits for ever for it. */
static void
test_returned(void)
{
    guint returned = 0;
    for (int round = 0; round < 40; round++) {
        State state = STATE;
        guint64 fed = 0;
        g_autoptr(GError) error = NULL;
        state.hand_back = TRUE;
        state.max_delay = round % 2 == 0 ? 0 : 300;
        g_autoptr(VmbPipeline) pipeline =
            start(&state, (guint)g_test_rand_int_range(0, 6), (guint)g_test_rand_int_range(1, 12));
        returned += feed_returning(pipeline, 200, &fed);
        g_assert_true(vmb_pipeline_finish(pipeline, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(state.next_offset, ==, fed);
    }
    g_assert_cmpuint(returned, >, 40);
}

/* Nobody is left who would fill it. */
static void
test_returned_too_late(void)
{
    State state = STATE;
    g_autoptr(GError) error = NULL;
    state.hand_back = TRUE;
    state.max_delay = 20000;
    g_autoptr(VmbPipeline) pipeline = start(&state, 1, 2);
    VmbChunk *chunk = vmb_pipeline_take(pipeline, 0, VMB_BLOCK_SIZE);
    fill(chunk);
    chunk->data[1] = 1;
    vmb_pipeline_push(pipeline, chunk);
    g_assert_false(vmb_pipeline_finish(pipeline, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_null(vmb_pipeline_returned(pipeline));
    g_assert_false(vmb_pipeline_settle(pipeline));
}

static void
test_nothing(void)
{
    State state = STATE;
    g_autoptr(VmbPipeline) pipeline = start(&state, 3, 2);
    g_assert_true(vmb_pipeline_finish(pipeline, NULL));
    g_assert_cmpuint(state.n_emitted, ==, 0);
    VmbPipelineConfig config = {.n_workers = 1};
    g_autoptr(VmbPipeline) bare = vmb_pipeline_new(&config); /* no callbacks at all */
    VmbChunk *chunk = vmb_pipeline_take(bare, 0, VMB_CHUNK_SIZE);
    vmb_pipeline_push(bare, chunk);
    g_assert_true(vmb_pipeline_zero(bare, VMB_CHUNK_SIZE, 1));
    g_assert_true(vmb_pipeline_finish(bare, NULL));
}

static void
check_failure(State *state, VmbErrorCode code)
{
    g_autoptr(VmbPipeline) pipeline = start(state, 3, 6);
    guint64 zeroes;
    feed(pipeline, 300, 5, &zeroes);
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_pipeline_finish(pipeline, &error));
    g_assert_error(error, VMB_ERROR, (int)code);
    g_assert_true(vmb_pipeline_failed(pipeline));
    g_assert_null(vmb_pipeline_take(pipeline, 0, VMB_BLOCK_SIZE));
    g_assert_null(vmb_pipeline_try_take(pipeline, 0, VMB_BLOCK_SIZE));
    g_assert_false(vmb_pipeline_zero(pipeline, 0, VMB_BLOCK_SIZE));
    g_autoptr(GError) again = NULL;
    g_assert_false(vmb_pipeline_finish(pipeline, &again));
    g_assert_cmpstr(again->message, ==, error->message);
}

static void
test_errors(void)
{
    for (int round = 0; round < 40; round++) {
        State state = STATE;
        state.max_delay = round % 3 == 0 ? 0 : 200;
        guint64 at = (guint64)g_test_rand_int_range(0, 100) * VMB_CHUNK_SIZE;
        if (round % 2 == 0) {
            state.fail_work_at = at;
            check_failure(&state, VMB_ERROR_DAMAGE);
        } else {
            state.fail_emit_at = at;
            check_failure(&state, VMB_ERROR_NO_SPACE);
        }
        g_assert_cmpint(g_atomic_int_get(&state.n_working), ==, 0);
    }
}

/* Freed at any moment: nothing taken, taken, pushed, failed. */
static void
test_free_early(void)
{
    for (int round = 0; round < 60; round++) {
        State state = STATE;
        if (round % 4 == 0)
            state.fail_emit_at = 3 * VMB_CHUNK_SIZE;
        g_autoptr(VmbPipeline) pipeline = start(&state, 2, 8);
        guint n = (guint)g_test_rand_int_range(0, 12);
        for (guint i = 0; i < n; i++) {
            guint64 offset = (guint64)i * VMB_CHUNK_SIZE;
            VmbChunk *chunk = vmb_pipeline_take(pipeline, offset, VMB_CHUNK_SIZE);
            if (chunk == NULL)
                break;
            fill(chunk);
            if (i + 1 < n)
                vmb_pipeline_push(pipeline, chunk);
        }
    }
}

static gboolean
readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void
wait_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    g_assert_cmpint(poll(&p, 1, 30000), ==, 1);
}

/* No more than max_chunks are alive, and the descriptor says when one is free. */
static void
test_bound(void)
{
    GMutex gate;
    g_mutex_init(&gate);
    State state = STATE;
    state.gate = &gate;
    g_mutex_lock(&gate);
    VmbPipeline *pipeline = start(&state, 2, 4);
    int fd = vmb_pipeline_fd(pipeline);
    for (guint64 i = 0; i < 4; i++) {
        g_assert_true(readable(fd));
        VmbChunk *chunk = vmb_pipeline_try_take(pipeline, i * VMB_CHUNK_SIZE, VMB_CHUNK_SIZE);
        g_assert_nonnull(chunk);
        memset(chunk->data, 0, VMB_CHUNK_SIZE);
        memset(chunk->output, 0, VMB_CHUNK_SIZE);
        fill(chunk);
        vmb_pipeline_push(pipeline, chunk);
    }
    g_assert_false(readable(fd));
    g_assert_null(vmb_pipeline_try_take(pipeline, 4 * VMB_CHUNK_SIZE, VMB_CHUNK_SIZE));
    g_mutex_unlock(&gate);
    wait_readable(fd);
    VmbChunk *chunk = vmb_pipeline_try_take(pipeline, 4 * VMB_CHUNK_SIZE, VMB_CHUNK_SIZE);
    g_assert_nonnull(chunk);
    fill(chunk);
    vmb_pipeline_push(pipeline, chunk);
    g_assert_true(vmb_pipeline_finish(pipeline, NULL));
    g_assert_cmpuint(state.n_emitted, ==, 5);
    vmb_pipeline_free(pipeline);
    g_mutex_clear(&gate);
}

/* A failure makes the descriptor readable even if no chunk is free. */
static void
test_fd_after_failure(void)
{
    State state = STATE;
    state.fail_emit_at = 0;
    g_autoptr(VmbPipeline) pipeline = start(&state, 1, 2);
    VmbChunk *first = vmb_pipeline_take(pipeline, 0, VMB_CHUNK_SIZE);
    VmbChunk *second = vmb_pipeline_take(pipeline, VMB_CHUNK_SIZE, VMB_CHUNK_SIZE);
    g_assert_false(readable(vmb_pipeline_fd(pipeline)));
    fill(first);
    vmb_pipeline_push(pipeline, first);
    while (!vmb_pipeline_failed(pipeline))
        wait_readable(vmb_pipeline_fd(pipeline));
    g_assert_true(readable(vmb_pipeline_fd(pipeline)));
    memset(second->data, 1, VMB_CHUNK_SIZE); /* still ours until the pipeline is freed */
    vmb_pipeline_push(pipeline, second);
    g_assert_false(vmb_pipeline_finish(pipeline, NULL));
}

/* Runs that touch come out as one while the one in front of them is held up. */
static void
test_zero_merge(void)
{
    State state = STATE;
    g_autoptr(VmbPipeline) pipeline = start(&state, 1, 2);
    VmbChunk *chunk = vmb_pipeline_take(pipeline, 0, VMB_CHUNK_SIZE);
    guint64 offset = VMB_CHUNK_SIZE;
    for (int i = 0; i < 100000; i++, offset += VMB_BLOCK_SIZE)
        g_assert_true(vmb_pipeline_zero(pipeline, offset, VMB_BLOCK_SIZE));
    fill(chunk);
    vmb_pipeline_push(pipeline, chunk);
    g_assert_true(vmb_pipeline_finish(pipeline, NULL));
    g_assert_cmpuint(state.n_emitted, ==, 2);
    g_assert_cmpuint(state.next_offset, ==, offset);
}

static gboolean
count_emit(const VmbChunk *chunk, gpointer user, GError **error)
{
    State *state = user;
    g_assert_cmpuint(chunk->offset, >=, state->next_offset);
    state->next_offset = chunk->offset + chunk->length;
    state->n_emitted++;
    return TRUE;
}

/* Many runs that do not touch queue behind a chunk that the producer still holds: it must not wait
 * for itself. */
static void
test_zero_no_deadlock(void)
{
    enum { N = 20000 };
    State state = STATE;
    VmbPipelineConfig config = {
        .n_workers = 1, .max_chunks = 2, .emit = count_emit, .user = &state};
    g_autoptr(VmbPipeline) pipeline = vmb_pipeline_new(&config);
    VmbChunk *chunk = vmb_pipeline_take(pipeline, 0, VMB_BLOCK_SIZE);
    for (guint64 i = 1; i <= N; i++)
        g_assert_true(vmb_pipeline_zero(pipeline, 2 * i * VMB_BLOCK_SIZE, VMB_BLOCK_SIZE));
    vmb_pipeline_push(pipeline, chunk);
    for (guint64 i = N + 1; i <= 2 * N; i++)
        g_assert_true(vmb_pipeline_zero(pipeline, 2 * i * VMB_BLOCK_SIZE, VMB_BLOCK_SIZE));
    g_assert_true(vmb_pipeline_finish(pipeline, NULL));
    g_assert_cmpuint(state.n_emitted, ==, 2 * N + 1);
}

/* A chunk that was taken and never pushed is an error, not an endless wait. */
static void
test_unpushed(void)
{
    State state = STATE;
    g_autoptr(VmbPipeline) pipeline = start(&state, 1, 2);
    g_assert_nonnull(vmb_pipeline_take(pipeline, 0, VMB_CHUNK_SIZE));
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_pipeline_finish(pipeline, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pipeline/order", test_order);
    g_test_add_func("/pipeline/returned", test_returned);
    g_test_add_func("/pipeline/returned-too-late", test_returned_too_late);
    g_test_add_func("/pipeline/nothing", test_nothing);
    g_test_add_func("/pipeline/errors", test_errors);
    g_test_add_func("/pipeline/free-early", test_free_early);
    g_test_add_func("/pipeline/bound", test_bound);
    g_test_add_func("/pipeline/fd-after-failure", test_fd_after_failure);
    g_test_add_func("/pipeline/zero-merge", test_zero_merge);
    g_test_add_func("/pipeline/zero-no-deadlock", test_zero_no_deadlock);
    g_test_add_func("/pipeline/unpushed", test_unpushed);
    return g_test_run();
}
