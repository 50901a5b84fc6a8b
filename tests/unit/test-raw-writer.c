/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The raw target of a restore: right bytes, and holes where nothing is. */
#include "image-fixture.h"
#include "image/raw-writer.h"

#define BLOCK G_GUINT64_CONSTANT(65536)

typedef struct {
    int fd;
    guint64 size;
} Target;

static void
write_chunk(const VmbChunk *chunk, gpointer user)
{
    const Target *target = user;
    g_autoptr(GError) error = NULL;
    vmb_raw_writer_chunk(target->fd, chunk, target->size, "raw", &error);
    g_assert_no_error(error);
}

static void
compare_raw(const ImageFixture *fixture, guint top, int fd)
{
    const ImageLayer *layer = &fixture->layers[top];
    g_autofree guint8 *got = g_malloc(VMB_BLOCK_SIZE), *expected = g_malloc(VMB_BLOCK_SIZE);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, (gint64)layer->size);
    for (guint64 block = 0; block < layer->n_blocks; block++) {
        g_autoptr(GError) error = NULL;
        gsize length = (gsize)MIN(BLOCK, layer->size - block * BLOCK);
        vmb_fs_pread(fd, got, length, block * BLOCK, "raw", &error);
        g_assert_no_error(error);
        image_expected(fixture, top, block, expected);
        g_assert_cmpmem(got, length, expected, length);
    }
}

static void
test_chain(ImageFixture *fixture, gconstpointer data)
{
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    for (guint round = 0; round < 6; round++) {
        g_autoptr(GError) error = NULL;
        g_auto(ImageChain) open_chain = {0};
        for (guint i = 0; i < 2; i++) {
            guint64 size = (guint64)g_rand_int_range(rand, 1, 16 * 1024 * 1024);
            image_randomise(image_add_layer(fixture, size, TRUE), rand);
            image_write(fixture, i);
        }
        g_autofree char *path = g_build_filename(fixture->dir, "raw", NULL);
        g_auto(VmbFd) fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        g_assert_cmpint(fd, >=, 0);
        Target target = {fd, fixture->layers[1].size};
        /* What stood there before is gone. */
        g_assert_cmpint(pwrite(fd, "old", 3, 12345), ==, 3);
        vmb_raw_writer_prepare(fd, target.size, "raw", &error);
        g_assert_no_error(error);
        image_chain_open(&open_chain, fixture, 1, 2, TRUE, &error);
        g_assert_no_error(error);
        image_chain_read(&open_chain, NULL, write_chunk, &target, TRUE, &error);
        g_assert_no_error(error);
        compare_raw(fixture, 1, fd);
        g_assert_cmpint(g_unlink(path), ==, 0);
        image_clear_layers(fixture);
    }
}

static void
test_sparse(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_build_filename(fixture->dir, "raw", NULL);
    g_auto(VmbFd) fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_autoptr(VmbChunk) chunk = image_chunk_new();
    guint64 size = 20 * VMB_GIB + 100;
    struct stat st;
    vmb_raw_writer_prepare(fd, size, "raw", &error);
    g_assert_no_error(error);
    memset(chunk->data, 1, VMB_CHUNK_SIZE);
    chunk->offset = 10 * VMB_GIB;
    chunk->length = VMB_CHUNK_SIZE;
    chunk->n_blocks = VMB_CHUNK_BLOCKS;
    for (guint i = 0; i < VMB_CHUNK_BLOCKS; i++)
        chunk->blocks[i].kind = VMB_BLOCK_ZERO;
    chunk->blocks[5].kind = VMB_BLOCK_PLAIN;
    chunk->blocks[15].kind = VMB_BLOCK_COMPRESSED;
    vmb_raw_writer_chunk(fd, chunk, size, "raw", &error);
    g_assert_no_error(error);
    /* The last chunk is short; its last block is padded, and cut where the disk ends. */
    chunk->offset = 20 * VMB_GIB;
    chunk->length = 100;
    chunk->n_blocks = 1;
    chunk->blocks[0].kind = VMB_BLOCK_PLAIN;
    vmb_raw_writer_chunk(fd, chunk, size, "raw", &error);
    g_assert_no_error(error);
    VmbChunk zeroes = {.offset = 0, .length = VMB_GIB};
    g_assert_true(vmb_raw_writer_chunk(fd, &zeroes, size, "raw", NULL));
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpuint((guint64)st.st_size, ==, size);
    g_assert_cmpuint((guint64)st.st_blocks * 512, <=, VMB_MIB);
    guint8 byte = 7;
    g_assert_cmpint(pread(fd, &byte, 1, (off_t)(10 * VMB_GIB + 4 * BLOCK)), ==, 1);
    g_assert_cmpuint(byte, ==, 0);
    g_assert_cmpint(pread(fd, &byte, 1, (off_t)(10 * VMB_GIB + 5 * BLOCK)), ==, 1);
    g_assert_cmpuint(byte, ==, 1);
}

static void
test_refused(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_assert_false(vmb_raw_writer_prepare(null_fd, VMB_GIB, "null", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_clear_error(&error);
    g_autofree char *path = g_build_filename(fixture->dir, "raw", NULL);
    g_auto(VmbFd) fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_assert_false(vmb_raw_writer_prepare(fd, VMB_SIZE_MAX + 1, "raw", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    image_add("/raw-writer/chain", test_chain);
    image_add("/raw-writer/sparse", test_sparse);
    image_add("/raw-writer/refused", test_refused);
    return g_test_run();
}
