/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of images share: a model of layered disks, writing it, and qemu-img. */
#pragma once
#include "block/compress.h"
#include "block/digest.h"
#include "image/chain.h"
#include "image/digest-file.h"
#include "image/qcow2-format.h"
#include "image/qcow2-writer.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>

#define IMAGE_LAYERS_MAX 40

/* What a layer says of one block; the content of data follows from its seed. */
typedef enum {
    STATE_HOLE,
    STATE_ZERO,
    STATE_TEXT,   /* compresses well, frames of different lengths */
    STATE_RANDOM, /* does not compress */
    STATE_MIXED,  /* half of each */
    STATE_FILLED, /* one byte repeated: the shortest frames */
    N_STATES,
} BlockState;

typedef struct {
    guint64 size; /* bytes */
    guint64 n_blocks;
    guint8 *states; /* BlockState */
    guint32 *seeds;
    gboolean compressed;
    char *name, *path, *digests_path;
    VmbQcow2Summary summary;
    guint64 digests_length;
    guint8 digests_digest[VMB_DIGEST_SIZE];
} ImageLayer;

/* A directory of its own, layers from the oldest ([0]) to the newest. */
typedef struct {
    char *dir;
    guint n_layers;
    ImageLayer layers[IMAGE_LAYERS_MAX];
} ImageFixture;

G_GNUC_UNUSED static void
image_set_up(ImageFixture *fixture, gconstpointer data)
{
    fixture->dir = g_dir_make_tmp("vmbackup-test-XXXXXX", NULL);
    g_assert_nonnull(fixture->dir);
}

G_GNUC_UNUSED static void
image_clear_layers(ImageFixture *fixture)
{
    for (guint i = 0; i < fixture->n_layers; i++) {
        ImageLayer *layer = &fixture->layers[i];
        (void)g_unlink(layer->path);
        (void)g_unlink(layer->digests_path);
        g_free(layer->states);
        g_free(layer->seeds);
        g_free(layer->name);
        g_free(layer->path);
        g_free(layer->digests_path);
    }
    fixture->n_layers = 0;
}

G_GNUC_UNUSED static void
image_tear_down(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    image_clear_layers(fixture);
    vmb_fs_remove_tree(AT_FDCWD, fixture->dir, &error);
    g_assert_no_error(error);
    g_free(fixture->dir);
}

#define image_add(path, function)                                                                  \
    g_test_add(path, ImageFixture, NULL, image_set_up, function, image_tear_down)

G_GNUC_UNUSED static ImageLayer *
image_add_layer(ImageFixture *fixture, guint64 size, gboolean compressed)
{
    g_assert_cmpuint(fixture->n_layers, <, IMAGE_LAYERS_MAX);
    ImageLayer *layer = &fixture->layers[fixture->n_layers];
    *layer = (ImageLayer){.size = size, .compressed = compressed};
    layer->n_blocks = (size + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE;
    layer->states = g_new0(guint8, layer->n_blocks);
    layer->seeds = g_new0(guint32, layer->n_blocks);
    layer->name = g_strdup_printf("layer%u.qcow2", fixture->n_layers);
    layer->path = g_build_filename(fixture->dir, layer->name, NULL);
    layer->digests_path = g_strconcat(layer->path, ".digests", NULL);
    fixture->n_layers++;
    return layer;
}

/* Runs of random states, so that neighbours of all kinds occur. */
G_GNUC_UNUSED static void
image_randomise(ImageLayer *layer, GRand *rand)
{
    for (guint64 block = 0; block < layer->n_blocks;) {
        guint8 state = (guint8)g_rand_int_range(rand, 0, N_STATES);
        guint run = (guint)g_rand_int_range(rand, 1, g_rand_boolean(rand) ? 3 : 40);
        for (; run > 0 && block < layer->n_blocks; run--, block++) {
            layer->states[block] = state;
            layer->seeds[block] = g_rand_int(rand);
        }
    }
}

static inline guint64
image_mix(guint64 *state)
{
    guint64 z = *state += G_GUINT64_CONSTANT(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * G_GUINT64_CONSTANT(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * G_GUINT64_CONSTANT(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline void
image_fill_random(guint8 *out, gsize length, guint32 seed)
{
    guint64 state = seed, value;
    gsize i = 0;
    for (; i + sizeof value <= length; i += sizeof value) {
        value = image_mix(&state);
        memcpy(out + i, &value, sizeof value);
    }
    value = image_mix(&state);
    memcpy(out + i, &value, length - i);
}

static inline void
image_fill_text(guint8 *out, gsize length, guint32 seed)
{
    guint64 state = seed;
    guint words = 3 + seed % 200;
    for (gsize i = 0; i < length; i++)
        out[i] = i % 8 == 0 ? (guint8)(' ' + image_mix(&state) % words % 90)
                            : (guint8)('a' + (out[i - i % 8] * 7 + i) % 26);
}

/* The content of @block by @layer alone; zero if it holds no data there, and beyond its end. */
G_GNUC_UNUSED static void
image_content(const ImageLayer *layer, guint64 block, guint8 *out)
{
    guint32 seed = layer->seeds[block];
    guint64 end = vmb_round_up(layer->size, VMB_QCOW2_SECTOR) - block * VMB_BLOCK_SIZE;
    memset(out, 0, VMB_BLOCK_SIZE);
    switch (layer->states[block]) {
    case STATE_TEXT:
        image_fill_text(out, VMB_BLOCK_SIZE, seed);
        break;
    case STATE_RANDOM:
        image_fill_random(out, VMB_BLOCK_SIZE, seed);
        break;
    case STATE_MIXED:
        image_fill_text(out, VMB_BLOCK_SIZE / 2, seed);
        image_fill_random(out + VMB_BLOCK_SIZE / 2, VMB_BLOCK_SIZE / 2, seed);
        break;
    case STATE_FILLED:
        memset(out, (int)(1 + seed % 255), VMB_BLOCK_SIZE);
        break;
    }
    end = MIN(end, layer->size - block * VMB_BLOCK_SIZE);
    if (end < VMB_BLOCK_SIZE)
        memset(out + end, 0, VMB_BLOCK_SIZE - (gsize)end);
}

/* What a reader of the chain below and including layer @top sees of @block. */
G_GNUC_UNUSED static void
image_expected(const ImageFixture *fixture, guint top, guint64 block, guint8 *out)
{
    guint64 visible = fixture->layers[top].size;
    for (guint i = top + 1; i-- > 0;) {
        const ImageLayer *layer = &fixture->layers[i];
        guint64 offset = block * VMB_BLOCK_SIZE;
        if (block >= layer->n_blocks)
            break;
        visible = MIN(visible, i == top ? layer->size : vmb_round_up(layer->size, 512));
        if (layer->states[block] == STATE_HOLE)
            continue;
        image_content(layer, block, out);
        if (visible < offset + VMB_BLOCK_SIZE)
            memset(out + (visible - offset), 0, (gsize)(offset + VMB_BLOCK_SIZE - visible));
        return;
    }
    memset(out, 0, VMB_BLOCK_SIZE);
}

/* Feeds one block to both files. */
G_GNUC_UNUSED static void
image_write_data(const ImageLayer *layer, guint64 block, VmbCompressor *compressor, VmbDigest *hash,
                 VmbQcow2Writer *writer, VmbDigestWriter *digests)
{
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *data = g_malloc(VMB_BLOCK_SIZE), *frame = g_malloc(VMB_BLOCK_SIZE);
    guint8 digest[VMB_DIGEST_SIZE];
    guint64 offset = block * VMB_BLOCK_SIZE;
    image_content(layer, block, data);
    vmb_digest_block(hash, data, VMB_BLOCK_SIZE, digest);
    gsize length = layer->compressed ? vmb_compressor_block(compressor, data, frame) : 0;
    guint32 check = length > 0 ? vmb_digest_check(frame, length) : 0;
    if (length > 0)
        vmb_qcow2_writer_block(writer, offset, VMB_BLOCK_COMPRESSED, frame, (guint32)length,
                               &error);
    else
        vmb_qcow2_writer_block(writer, offset, VMB_BLOCK_PLAIN, data, VMB_BLOCK_SIZE, &error);
    g_assert_no_error(error);
    vmb_digest_writer_data(digests, offset, digest, check, &error);
    g_assert_no_error(error);
}

/* Writes layer @index with its digests; its backing file is the layer below it. */
G_GNUC_UNUSED static void
image_write(ImageFixture *fixture, guint index)
{
    g_autoptr(GError) error = NULL;
    ImageLayer *layer = &fixture->layers[index];
    g_auto(VmbFd) fd = open(layer->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_auto(VmbFd) digests_fd =
        open(layer->digests_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert_true(fd >= 0 && digests_fd >= 0);
    VmbQcow2WriterOptions options = {
        .size = layer->size,
        .compressed = layer->compressed,
        .backing_file = index > 0 ? fixture->layers[index - 1].name : NULL,
        .label = layer->name,
    };
    g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(fd, &options, &error);
    g_assert_no_error(error);
    g_autoptr(VmbDigestWriter) digests =
        vmb_digest_writer_new(digests_fd, layer->size, layer->name, &error);
    g_assert_no_error(error);
    g_autoptr(VmbCompressor) compressor = vmb_compressor_new(VMB_COMPRESS_DEFAULT);
    g_autoptr(VmbDigest) hash = vmb_digest_new();
    for (guint64 block = 0; block < layer->n_blocks; block++) {
        guint64 offset = block * VMB_BLOCK_SIZE;
        if (layer->states[block] == STATE_ZERO) {
            guint64 length = MIN(VMB_BLOCK_SIZE, layer->size - offset);
            vmb_qcow2_writer_zero(writer, offset, length, &error);
            g_assert_no_error(error);
            vmb_digest_writer_zero(digests, offset, length, &error);
            g_assert_no_error(error);
        } else if (layer->states[block] != STATE_HOLE) {
            image_write_data(layer, block, compressor, hash, writer, digests);
        }
    }
    vmb_qcow2_writer_finish(writer, &layer->summary, &error);
    g_assert_no_error(error);
    vmb_digest_writer_finish(digests, &layer->digests_length, layer->digests_digest, &error);
    g_assert_no_error(error);
}

/* qemu-img may be absent on a user's machine, but not where everything must run. */
G_GNUC_UNUSED static gboolean
image_have_qemu(void)
{
    g_autofree char *path = g_find_program_in_path("qemu-img");
    if (path != NULL)
        return TRUE;
    if (g_strcmp0(g_getenv("VMBACKUP_TEST_MUST_RUN"), "1") == 0)
        g_error("qemu-img is not installed");
    g_test_skip("qemu-img is not installed");
    return FALSE;
}

/* Runs qemu-img with the arguments up to NULL in the fixture's directory; its output is shown if it
 * fails. Gives its standard output. */
G_GNUC_UNUSED static char *
image_qemu(const ImageFixture *fixture, const char *first, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    g_autofree char *err = NULL;
    char *out = NULL;
    int status = 0;
    va_list args;
    g_ptr_array_add(argv, (gpointer) "qemu-img");
    va_start(args, first);
    for (const char *arg = first; arg != NULL; arg = va_arg(args, const char *))
        g_ptr_array_add(argv, (gpointer)arg);
    va_end(args);
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(fixture->dir, (char **)argv->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                 &err, &status, &error);
    g_assert_no_error(error);
    if (!g_spawn_check_wait_status(status, &error))
        g_error("qemu-img %s: %s\n%s%s", first, error->message, out, err);
    return out;
}

/* qemu-img finds neither errors nor leaks. */
G_GNUC_UNUSED static void
image_qemu_check(const ImageFixture *fixture, guint index)
{
    g_autofree char *out =
        image_qemu(fixture, "check", "-f", "qcow2", fixture->layers[index].name, NULL);
    if (strstr(out, "No errors were found on the image.") == NULL)
        g_error("qemu-img check %s: %s", fixture->layers[index].name, out);
}

/* The chain below and including layer @top, read by qemu-img, equals the model. */
G_GNUC_UNUSED static void
image_qemu_compare(const ImageFixture *fixture, guint top)
{
    g_autoptr(GError) error = NULL;
    const ImageLayer *layer = &fixture->layers[top];
    g_autofree char *raw = g_build_filename(fixture->dir, "converted.raw", NULL);
    g_free(image_qemu(fixture, "convert", "-f", "qcow2", "-O", "raw", layer->name, "converted.raw",
                      NULL));
    g_auto(VmbFd) fd = open(raw, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_autofree guint8 *got = g_malloc(VMB_BLOCK_SIZE), *expected = g_malloc(VMB_BLOCK_SIZE);
    guint64 size = vmb_round_up(layer->size, VMB_QCOW2_SECTOR);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, (gint64)size);
    for (guint64 block = 0; block < layer->n_blocks; block++) {
        guint64 offset = block * VMB_BLOCK_SIZE;
        /* Beyond the exact size qemu-img shows what an older, longer layer has there. */
        gsize length = (gsize)MIN(VMB_BLOCK_SIZE, layer->size - offset);
        vmb_fs_pread(fd, got, length, offset, raw, &error);
        g_assert_no_error(error);
        image_expected(fixture, top, block, expected);
        if (memcmp(got, expected, length) != 0)
            g_error("qemu-img reads block %" G_GUINT64_FORMAT " otherwise", block);
    }
    g_assert_cmpint(g_unlink(raw), ==, 0);
}

/* An open chain with its descriptors. */
typedef struct {
    VmbChain *chain;
    guint n_layers;
    int fds[2 * IMAGE_LAYERS_MAX];
} ImageChain;

G_GNUC_UNUSED static void
image_chain_clear(ImageChain *open_chain)
{
    g_clear_pointer(&open_chain->chain, vmb_chain_free);
    for (guint i = 0; i < 2 * open_chain->n_layers; i++)
        if (open_chain->fds[i] >= 0)
            close(open_chain->fds[i]);
    open_chain->n_layers = 0;
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImageChain, image_chain_clear)

/* Opens @n layers from @top downward. */
G_GNUC_UNUSED static gboolean
image_chain_open(ImageChain *open_chain, const ImageFixture *fixture, guint top, guint n,
                 gboolean digests, GError **error)
{
    VmbChainLayer layers[IMAGE_LAYERS_MAX] = {0};
    open_chain->n_layers = n;
    for (guint i = 0; i < n; i++) {
        const ImageLayer *layer = &fixture->layers[top - i];
        int *fds = &open_chain->fds[2 * i];
        fds[0] = open(layer->path, O_RDONLY | O_CLOEXEC);
        fds[1] = digests ? open(layer->digests_path, O_RDONLY | O_CLOEXEC) : -1;
        g_assert_true(fds[0] >= 0 && (fds[1] >= 0 || !digests));
        layers[i] = (VmbChainLayer){layer->name, fds[0], fds[1], layer->size};
    }
    open_chain->chain = vmb_chain_open(layers, n, error);
    return open_chain->chain != NULL;
}

/* A chunk with its buffers, as the pipeline would make it. */
G_GNUC_UNUSED static VmbChunk *
image_chunk_new(void)
{
    VmbChunk *chunk = g_new0(VmbChunk, 1);
    chunk->data = g_malloc(VMB_CHUNK_SIZE);
    chunk->output = g_malloc(VMB_CHUNK_SIZE);
    return chunk;
}

G_GNUC_UNUSED static void
image_chunk_free(VmbChunk *chunk)
{
    g_free(chunk->data);
    g_free(chunk->output);
    g_free(chunk);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbChunk, image_chunk_free)

/* Puts blocks from @at on of a window into @chunk; gives their number. */
G_GNUC_UNUSED static guint
image_chunk_fill(VmbChunk *chunk, const VmbChainWindow *window, guint at, guint64 size)
{
    guint n = MIN(VMB_CHUNK_BLOCKS, window->n_blocks - at);
    chunk->offset = window->offset + at * (guint64)VMB_BLOCK_SIZE;
    chunk->length = MIN(n * (guint64)VMB_BLOCK_SIZE, size - chunk->offset);
    chunk->n_blocks = n;
    memcpy(chunk->blocks, window->blocks + at, n * sizeof(VmbBlock));
    return n;
}

typedef void (*ImageChunkFunc)(const VmbChunk *chunk, gpointer user);

/* Reads a whole chain: all windows, all blocks, the ends of the digests. @each may be NULL. */
G_GNUC_UNUSED static gboolean
image_chain_read(ImageChain *open_chain, GArray *damage, ImageChunkFunc each, gpointer user,
                 gboolean digests, GError **error)
{
    VmbChain *chain = open_chain->chain;
    guint64 size = vmb_chain_size(chain);
    g_autoptr(VmbDecoder) decoder = vmb_decoder_new(chain);
    g_autoptr(VmbChunk) chunk = image_chunk_new();
    guint8 digest[VMB_DIGEST_SIZE];
    for (guint64 index = 0; index < vmb_qcow2_l1_entries(size); index++) {
        const VmbChainWindow *window;
        if (!vmb_chain_window(chain, index, &window, error))
            return FALSE;
        for (guint at = 0; at < window->n_blocks;) {
            at += image_chunk_fill(chunk, window, at, size);
            memset(chunk->data, 0xdb, VMB_CHUNK_SIZE);
            if (!vmb_decoder_chunk(decoder, chunk, damage, error))
                return FALSE;
            if (each != NULL)
                each(chunk, user);
        }
    }
    for (guint i = 0; digests && i < open_chain->n_layers; i++)
        if (!vmb_chain_digests_end(chain, i, digest, error))
            return FALSE;
    return TRUE;
}

typedef struct {
    const ImageFixture *fixture;
    guint top;
} ImageExpectation;

static inline void
image_compare_chunk(const VmbChunk *chunk, gpointer user)
{
    const ImageExpectation *expectation = user;
    g_autofree guint8 *expected = g_malloc(VMB_BLOCK_SIZE);
    for (guint i = 0; i < chunk->n_blocks; i++) {
        guint64 block = chunk->offset / VMB_BLOCK_SIZE + i;
        image_expected(expectation->fixture, expectation->top, block, expected);
        if (memcmp(chunk->data + (gsize)i * VMB_BLOCK_SIZE, expected, VMB_BLOCK_SIZE) != 0)
            g_error("the chain reads block %" G_GUINT64_FORMAT " otherwise", block);
    }
}

/* The chain below and including layer @top, read by our own code, equals the model. */
G_GNUC_UNUSED static void
image_own_compare(const ImageFixture *fixture, guint top)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) open_chain = {0};
    ImageExpectation expectation = {fixture, top};
    image_chain_open(&open_chain, fixture, top, top + 1, TRUE, &error);
    g_assert_no_error(error);
    image_chain_read(&open_chain, NULL, image_compare_chunk, &expectation, TRUE, &error);
    g_assert_no_error(error);
}

/* Our own check finds nothing, and the digests that the writer gave. */
G_GNUC_UNUSED static void
image_own_check(const ImageFixture *fixture, guint index)
{
    g_autoptr(GError) error = NULL;
    const ImageLayer *layer = &fixture->layers[index];
    g_auto(VmbFd) fd = open(layer->path, O_RDONLY | O_CLOEXEC);
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(fd, layer->size, layer->name, &error);
    g_assert_no_error(error);
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    vmb_qcow2_reader_check(reader, head, tables, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(head, sizeof head, layer->summary.head_digest, sizeof head);
    g_assert_cmpmem(tables, sizeof tables, layer->summary.tables_digest, sizeof tables);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, (gint64)layer->summary.file_size);
}
