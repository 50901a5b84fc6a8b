/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The qcow2 writer against qemu-img and against our own reader, over generated disks. */
#include "image-fixture.h"

#include <signal.h>
#include <sys/resource.h>

#define BLOCK G_GUINT64_CONSTANT(65536)

/* Writes all layers and compares each chain with the model, by qemu-img and by our own code. */
static void
verify_all(ImageFixture *fixture)
{
    for (guint i = 0; i < fixture->n_layers; i++)
        image_write(fixture, i);
    for (guint i = 0; i < fixture->n_layers; i++) {
        image_own_check(fixture, i);
        image_own_compare(fixture, i);
        image_qemu_check(fixture, i);
        image_qemu_compare(fixture, i);
    }
}

static guint64
random_size(GRand *rand)
{
    guint64 size = (guint64)g_rand_int_range(rand, 1, 24 * 1024 * 1024);
    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        return vmb_round_up(size, BLOCK);
    case 1:
        return vmb_round_up(size, VMB_QCOW2_SECTOR);
    default:
        return size;
    }
}

static void
test_random(ImageFixture *fixture, gconstpointer data)
{
    if (!image_have_qemu())
        return;
    for (guint round = 0; round < 12; round++) {
        guint32 seed = (guint32)g_test_rand_int();
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        guint n_layers = (guint)g_rand_int_range(rand, 1, 5);
        g_test_message("round %u: seed %u, %u layers", round, seed, n_layers);
        for (guint i = 0; i < n_layers; i++) {
            ImageLayer *layer =
                image_add_layer(fixture, random_size(rand), g_rand_int_range(rand, 0, 4) > 0);
            image_randomise(layer, rand);
        }
        verify_all(fixture);
        image_clear_layers(fixture);
    }
}

static void
test_small_sizes(ImageFixture *fixture, gconstpointer data)
{
    static const guint64 sizes[] = {1,         511,
                                    512,       513,
                                    BLOCK - 1, BLOCK,
                                    BLOCK + 1, 2 * BLOCK - 512,
                                    3 * BLOCK, 17 * BLOCK + 7,
                                    16 * BLOCK};
    if (!image_have_qemu())
        return;
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (guint state = 0; state < N_STATES; state++) {
            ImageLayer *layer = image_add_layer(fixture, sizes[i], TRUE);
            memset(layer->states, (int)state, layer->n_blocks);
            for (guint64 block = 0; block < layer->n_blocks; block++)
                layer->seeds[block] = (guint32)(block * 31 + state);
            verify_all(fixture);
            image_clear_layers(fixture);
        }
    }
}

/* One L2 table full to its last entry, then one entry more, then all but the last. */
static void
test_full_tables(ImageFixture *fixture, gconstpointer data)
{
    if (!image_have_qemu())
        return;
    for (guint64 extra = 0; extra < 3; extra++) {
        ImageLayer *layer =
            image_add_layer(fixture, VMB_QCOW2_L2_SPAN + extra * BLOCK - BLOCK, TRUE);
        memset(layer->states, STATE_FILLED, layer->n_blocks);
        for (guint64 block = 0; block < layer->n_blocks; block++)
            layer->seeds[block] = (guint32)block;
        image_write(fixture, 0);
        image_own_check(fixture, 0);
        image_own_compare(fixture, 0);
        image_qemu_check(fixture, 0);
        if (extra == 2)
            image_qemu_compare(fixture, 0);
        g_assert_cmpuint(layer->summary.data_blocks, ==, layer->n_blocks);
        image_clear_layers(fixture);
    }
}

/* Zero tables in an incremental: whole ones are shared, a partial last one is not. */
static void
test_zero_tables(ImageFixture *fixture, gconstpointer data)
{
    if (!image_have_qemu())
        return;
    for (guint n_tables = 1; n_tables <= 3; n_tables++) {
        guint64 size = n_tables * VMB_QCOW2_L2_SPAN + 5 * BLOCK + 512;
        ImageLayer *base = image_add_layer(fixture, size, TRUE);
        for (guint64 block = 0; block < base->n_blocks; block += 1000) {
            base->states[block] = STATE_FILLED;
            base->seeds[block] = (guint32)block;
        }
        ImageLayer *top = image_add_layer(fixture, size, TRUE);
        memset(top->states, STATE_ZERO, top->n_blocks);
        verify_all(fixture);
        g_assert_cmpuint(top->summary.zero_blocks, ==, top->n_blocks);
        g_assert_cmpuint(top->summary.data_blocks, ==, 0);
        /* Header, L1, refcount table; shared table, last table, refcount block. */
        g_assert_cmpuint(top->summary.file_size, ==, 6 * BLOCK);
        image_clear_layers(fixture);
    }
}

static guint8 *
read_block(VmbChain *chain, guint64 block)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbChunk) chunk = image_chunk_new();
    g_autoptr(VmbDecoder) decoder = vmb_decoder_new(chain);
    const VmbChainWindow *window;
    vmb_chain_map(chain, block / VMB_QCOW2_L2_ENTRIES, &window, &error);
    g_assert_no_error(error);
    chunk->offset = block * BLOCK;
    chunk->length = BLOCK;
    chunk->n_blocks = 1;
    chunk->blocks[0] = window->blocks[block % VMB_QCOW2_L2_ENTRIES];
    vmb_decoder_chunk(decoder, chunk, NULL, &error);
    g_assert_no_error(error);
    return g_memdup2(chunk->data, VMB_BLOCK_SIZE);
}

/* Runs one command of `qemu-io` on the image. */
static void
qemu_io(const ImageFixture *fixture, const char *name, gboolean writable, const char *command)
{
    const char *const argv[] = {
        "qemu-io", "-f", "qcow2", "-c", command, name, writable ? NULL : "-r", NULL};
    g_autofree char *out = NULL;
    g_autoptr(GError) error = NULL;
    int status = 0;
    g_spawn_sync(fixture->dir, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, NULL,
                 &status, &error);
    g_assert_no_error(error);
    if (status != 0 || strstr(out, "Pattern verification failed") != NULL)
        g_error("%s: %s", command, out);
}

/* QEMU sees that a range holds one byte. */
static void
qemu_io_read(const ImageFixture *fixture, const char *name, guint pattern, guint64 offset,
             guint64 length)
{
    g_autofree char *command = g_strdup_printf(
        "read -P %u %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, pattern, offset, length);
    qemu_io(fixture, name, FALSE, command);
}

/* A restored image is written by a guest: QEMU changes tables in place, copies packed clusters and
 * frees what it replaces, exactly as flags and refcounts say. */
static void
test_written_by_qemu(ImageFixture *fixture, gconstpointer data)
{
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    if (!image_have_qemu())
        return;
    guint64 size = VMB_QCOW2_L2_SPAN + 300 * BLOCK;
    for (guint i = 0; i < 2; i++) {
        ImageLayer *layer = image_add_layer(fixture, size, TRUE);
        /* A table of zeroes in the newer one, and something of everything. */
        memset(layer->states, i == 0 ? STATE_FILLED : STATE_ZERO, layer->n_blocks);
        for (guint64 block = VMB_QCOW2_L2_ENTRIES; block < layer->n_blocks; block++) {
            layer->states[block] = (guint8)g_rand_int_range(rand, 0, N_STATES);
            layer->seeds[block] = g_rand_int(rand);
        }
        image_write(fixture, i);
    }
    for (guint i = 0; i < 60; i++) {
        const char *name = fixture->layers[i % 2].name;
        guint64 block = (guint64)g_rand_int_range(rand, 0, (gint32)(size / BLOCK));
        if (i % 4 != 0)
            block = VMB_QCOW2_L2_ENTRIES + block % 300;
        g_autofree char *command =
            g_strdup_printf("%s %" G_GUINT64_FORMAT " 20k", i % 3 == 0 ? "write -z" : "write -P 9",
                            block * BLOCK + 4096);
        qemu_io(fixture, name, TRUE, command);
        qemu_io_read(fixture, name, i % 3 == 0 ? 0 : 9, block * BLOCK + 4096, 20480);
        image_qemu_check(fixture, i % 2);
    }
}

static VmbQcow2Writer *
open_writer(ImageFixture *fixture, ImageLayer *layer, const char *backing, int *fd)
{
    g_autoptr(GError) error = NULL;
    VmbQcow2WriterOptions options = {layer->size, layer->compressed, backing, layer->name};
    *fd = open(layer->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    VmbQcow2Writer *writer = vmb_qcow2_writer_new(*fd, &options, &error);
    g_assert_no_error(error);
    return writer;
}

/* A layer whose model is not kept: the disk is too large for it. */
static ImageLayer *
add_huge_layer(ImageFixture *fixture, guint64 size)
{
    ImageLayer *layer = image_add_layer(fixture, BLOCK, FALSE);
    layer->size = size;
    return layer;
}

/* 64 TiB with a block at each end, and one on each side of every boundary that the tables have. */
static void
test_sparse_64t(ImageFixture *fixture, gconstpointer data)
{
    static const guint64 blocks[] = {0,
                                     1,
                                     VMB_QCOW2_L2_ENTRIES - 1,
                                     VMB_QCOW2_L2_ENTRIES,
                                     VMB_SIZE_MAX / 2 / BLOCK - 1,
                                     VMB_SIZE_MAX / 2 / BLOCK,
                                     VMB_SIZE_MAX / BLOCK - VMB_QCOW2_L2_ENTRIES,
                                     VMB_SIZE_MAX / BLOCK - 1};
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) fd = -1;
    g_auto(ImageChain) open_chain = {0};
    g_autofree guint8 *block = g_malloc(VMB_BLOCK_SIZE);
    if (!image_have_qemu())
        return;
    ImageLayer *layer = add_huge_layer(fixture, VMB_SIZE_MAX);
    g_autoptr(VmbQcow2Writer) writer = open_writer(fixture, layer, NULL, &fd);
    for (gsize i = 0; i < G_N_ELEMENTS(blocks); i++) {
        memset(block, (int)(i + 1), VMB_BLOCK_SIZE);
        vmb_qcow2_writer_block(writer, blocks[i] * BLOCK, VMB_BLOCK_PLAIN, block, VMB_BLOCK_SIZE,
                               &error);
        g_assert_no_error(error);
    }
    vmb_qcow2_writer_finish(writer, &layer->summary, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(layer->summary.file_size, <, 3 * VMB_MIB);
    image_own_check(fixture, 0);
    image_qemu_check(fixture, 0);
    image_chain_open(&open_chain, fixture, 0, 1, FALSE, &error);
    g_assert_no_error(error);
    for (gsize i = 0; i < G_N_ELEMENTS(blocks); i++) {
        g_autofree guint8 *got = read_block(open_chain.chain, blocks[i]);
        memset(block, (int)(i + 1), VMB_BLOCK_SIZE);
        g_assert_cmpmem(got, VMB_BLOCK_SIZE, block, VMB_BLOCK_SIZE);
        qemu_io_read(fixture, layer->name, (guint)(i + 1), blocks[i] * BLOCK, BLOCK);
    }
}

/* 131072 zero tables: more than one 16-bit refcount can count. */
static void
test_many_zero_tables(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) base_fd = -1, fd = -1;
    if (!image_have_qemu())
        return;
    ImageLayer *base = add_huge_layer(fixture, VMB_SIZE_MAX);
    g_autoptr(VmbQcow2Writer) base_writer = open_writer(fixture, base, NULL, &base_fd);
    vmb_qcow2_writer_finish(base_writer, NULL, &error);
    g_assert_no_error(error);
    ImageLayer *layer = add_huge_layer(fixture, VMB_SIZE_MAX);
    g_autoptr(VmbQcow2Writer) writer = open_writer(fixture, layer, base->name, &fd);
    /* In pieces that begin and end in the middle of a table. */
    vmb_qcow2_writer_zero(writer, 0, 3 * BLOCK, &error);
    g_assert_no_error(error);
    vmb_qcow2_writer_zero(writer, 3 * BLOCK, VMB_SIZE_MAX / 2, &error);
    g_assert_no_error(error);
    vmb_qcow2_writer_zero(writer, VMB_SIZE_MAX / 2 + 3 * BLOCK, VMB_SIZE_MAX / 2 - 3 * BLOCK,
                          &error);
    g_assert_no_error(error);
    vmb_qcow2_writer_finish(writer, &layer->summary, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(layer->summary.zero_blocks, ==, VMB_SIZE_MAX / BLOCK);
    /* Header 1, L1 16, refcount table 9, three shared tables (131072 = 65535 + 65535 + 2), 1. */
    g_assert_cmpuint(layer->summary.file_size, ==, 30 * BLOCK);
    image_own_check(fixture, 1);
    image_qemu_check(fixture, 1);
    qemu_io_read(fixture, layer->name, 0, VMB_SIZE_MAX - BLOCK, BLOCK);
}

/* A file of more than 2 GiB: refcount blocks in between, a frame right before the boundary. */
static void
test_refcount_blocks(ImageFixture *fixture, gconstpointer data)
{
    if (!image_have_qemu())
        return;
    guint64 n_blocks = VMB_QCOW2_REFBLOCK_ENTRIES + 200;
    ImageLayer *layer = image_add_layer(fixture, n_blocks * BLOCK, TRUE);
    for (guint64 block = 0; block < n_blocks; block++) {
        gboolean near = block % 4096 < 8 || block > VMB_QCOW2_REFBLOCK_ENTRIES - 64;
        layer->states[block] = near && block % 3 != 0 ? STATE_MIXED : STATE_RANDOM;
        layer->seeds[block] = (guint32)block;
    }
    image_write(fixture, 0);
    g_assert_cmpuint(layer->summary.file_size, >, VMB_QCOW2_REFBLOCK_SPAN);
    image_own_check(fixture, 0);
    image_own_compare(fixture, 0);
    image_qemu_check(fixture, 0);
}

/* 1.2 million of the shortest frames: several windows of the check, refcounts in the thousands. */
static void
test_tiny_frames(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) fd = -1;
    g_autofree guint8 *block = g_malloc(VMB_BLOCK_SIZE), *frame = g_malloc(VMB_BLOCK_SIZE);
    g_autoptr(VmbCompressor) compressor = vmb_compressor_new(VMB_COMPRESS_DEFAULT);
    if (!image_have_qemu())
        return;
    memset(block, 0xf0, VMB_BLOCK_SIZE);
    gsize length = vmb_compressor_block(compressor, block, frame);
    g_assert_cmpuint(length, >, 0);
    guint64 n_blocks = 1200000;
    ImageLayer *layer = add_huge_layer(fixture, n_blocks * BLOCK);
    layer->compressed = TRUE;
    g_autoptr(VmbQcow2Writer) writer = open_writer(fixture, layer, NULL, &fd);
    for (guint64 i = 0; i < n_blocks; i++) {
        vmb_qcow2_writer_block(writer, i * BLOCK, VMB_BLOCK_COMPRESSED, frame, (guint32)length,
                               &error);
        g_assert_no_error(error);
    }
    vmb_qcow2_writer_finish(writer, &layer->summary, &error);
    g_assert_no_error(error);
    image_own_check(fixture, 0);
    image_qemu_check(fixture, 0);
}

static void
expect_refused(gboolean ok, GError **error)
{
    g_assert_false(ok);
    g_assert_error(*error, VMB_ERROR, VMB_ERROR_FAILED);
    g_clear_error(error);
}

static void
test_misuse(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) fd = -1;
    g_autofree guint8 *block = g_malloc0(VMB_BLOCK_SIZE);
    ImageLayer *layer = image_add_layer(fixture, 10 * BLOCK + 512, FALSE);
    g_autoptr(VmbQcow2Writer) writer = open_writer(fixture, layer, "base.qcow2", &fd);
#define put(offset, kind, length)                                                                  \
    vmb_qcow2_writer_block(writer, offset, kind, block, length, &error)
    expect_refused(put(1, VMB_BLOCK_PLAIN, VMB_BLOCK_SIZE), &error);
    expect_refused(put(11 * BLOCK, VMB_BLOCK_PLAIN, VMB_BLOCK_SIZE), &error);
    expect_refused(put(G_MAXUINT64 - BLOCK + 1, VMB_BLOCK_PLAIN, VMB_BLOCK_SIZE), &error);
    expect_refused(put(0, VMB_BLOCK_PLAIN, 100), &error);
    expect_refused(put(0, VMB_BLOCK_COMPRESSED, 100), &error);
    expect_refused(put(0, VMB_BLOCK_ZERO, VMB_BLOCK_SIZE), &error);
    g_assert_true(put(3 * BLOCK, VMB_BLOCK_PLAIN, VMB_BLOCK_SIZE));
    expect_refused(put(3 * BLOCK, VMB_BLOCK_PLAIN, VMB_BLOCK_SIZE), &error);
    expect_refused(vmb_qcow2_writer_zero(writer, 2 * BLOCK, BLOCK, &error), &error);
    expect_refused(vmb_qcow2_writer_zero(writer, 4 * BLOCK, 100, &error), &error);
    expect_refused(vmb_qcow2_writer_zero(writer, 4 * BLOCK, 8 * BLOCK, &error), &error);
    expect_refused(vmb_qcow2_writer_zero(writer, 4 * BLOCK, G_MAXUINT64, &error), &error);
    g_assert_true(vmb_qcow2_writer_zero(writer, 4 * BLOCK, 0, &error));
    expect_refused(vmb_qcow2_writer_zero(writer, 10 * BLOCK, 600, &error), &error);
    g_assert_true(vmb_qcow2_writer_zero(writer, 10 * BLOCK, 512, &error));
    g_assert_true(vmb_qcow2_writer_finish(writer, NULL, &error));
#undef put

    VmbQcow2WriterOptions options = {BLOCK, FALSE, NULL, "x"};
    expect_refused(vmb_qcow2_writer_new(fd, &options, &error) != NULL, &error);
    g_assert_cmpint(ftruncate(fd, 0), ==, 0);
    options.size = 0;
    expect_refused(vmb_qcow2_writer_new(fd, &options, &error) != NULL, &error);
    options.size = VMB_SIZE_MAX + 1;
    expect_refused(vmb_qcow2_writer_new(fd, &options, &error) != NULL, &error);
    g_autofree char *name = g_strnfill(VMB_QCOW2_NAME_MAX + 1, 'x');
    options = (VmbQcow2WriterOptions){BLOCK, FALSE, name, "x"};
    expect_refused(vmb_qcow2_writer_new(fd, &options, &error) != NULL, &error);
    name[VMB_QCOW2_NAME_MAX] = '\0';
    g_autoptr(VmbQcow2Writer) longest = vmb_qcow2_writer_new(fd, &options, &error);
    g_assert_no_error(error);
}

/* A file that may not grow any more: the error comes through, whatever was being written. */
static void
test_write_errors(ImageFixture *fixture, gconstpointer data)
{
    g_autofree guint8 *block = g_malloc(VMB_BLOCK_SIZE);
    struct rlimit old, limit;
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    signal(SIGXFSZ, SIG_IGN);
    ImageLayer *layer = image_add_layer(fixture, 64 * BLOCK, TRUE);
    guint failures = 0;
    image_fill_random(block, VMB_BLOCK_SIZE, 1);
    for (guint i = 0; i < 70; i++) {
        g_autoptr(GError) error = NULL;
        g_auto(VmbFd) fd = -1;
        gboolean ok = TRUE;
        g_autoptr(VmbQcow2Writer) writer = open_writer(fixture, layer, NULL, &fd);
        limit = (struct rlimit){.rlim_cur = i * BLOCK + 100, .rlim_max = old.rlim_max};
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
        for (guint n = 0; ok && n < 60; n++)
            ok = n % 3 == 0 ? vmb_qcow2_writer_block(writer, n * BLOCK, VMB_BLOCK_PLAIN, block,
                                                     VMB_BLOCK_SIZE, &error)
                            : vmb_qcow2_writer_block(writer, n * BLOCK, VMB_BLOCK_COMPRESSED, block,
                                                     40000, &error);
        ok = ok && vmb_qcow2_writer_finish(writer, NULL, &error);
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
        g_assert_true(ok == (error == NULL));
        failures += ok ? 0 : 1;
    }
    g_assert_cmpuint(failures, >, 40);
    g_assert_cmpuint(failures, <, 70);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    image_add("/qcow2-writer/random", test_random);
    image_add("/qcow2-writer/small-sizes", test_small_sizes);
    image_add("/qcow2-writer/full-tables", test_full_tables);
    image_add("/qcow2-writer/zero-tables", test_zero_tables);
    image_add("/qcow2-writer/written-by-qemu", test_written_by_qemu);
    image_add("/qcow2-writer/sparse-64t", test_sparse_64t);
    image_add("/qcow2-writer/many-zero-tables", test_many_zero_tables);
    image_add("/qcow2-writer/refcount-blocks", test_refcount_blocks);
    image_add("/qcow2-writer/tiny-frames", test_tiny_frames);
    image_add("/qcow2-writer/misuse", test_misuse);
    image_add("/qcow2-writer/write-errors", test_write_errors);
    return g_test_run();
}
