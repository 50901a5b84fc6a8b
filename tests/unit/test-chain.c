/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Chains of images: which layer shows where, agreement with the digests, damage while decoding. */
#include "image-fixture.h"

#define BLOCK G_GUINT64_CONSTANT(65536)

static ImageLayer *
add(ImageFixture *fixture, guint64 size, const char *states)
{
    static const char letters[] = ".0trmf"; /* in the order of BlockState */
    ImageLayer *layer = image_add_layer(fixture, size, TRUE);
    g_assert_cmpuint(strlen(states), ==, layer->n_blocks);
    for (guint64 i = 0; i < layer->n_blocks; i++) {
        layer->states[i] = (guint8)(strchr(letters, states[i]) - letters);
        layer->seeds[i] = (guint32)(100 * fixture->n_layers + i);
    }
    image_write(fixture, fixture->n_layers - 1);
    return layer;
}

/* Kind and layer of each block of the first window: "P0" plain in the newest layer, "-" absent. */
static char *
describe(const VmbChainWindow *window)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < window->n_blocks; i++) {
        const VmbBlock *block = &window->blocks[i];
        if (block->kind == VMB_BLOCK_ABSENT)
            g_string_append(text, " -");
        else
            g_string_append_printf(text, " %c%u", "-ZPC"[block->kind], block -> layer);
    }
    return g_string_free(text, FALSE);
}

static void
expect_window(ImageFixture *fixture, guint top, guint n_layers, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) open_chain = {0};
    const VmbChainWindow *window;
    image_chain_open(&open_chain, fixture, top, n_layers, TRUE, &error);
    g_assert_no_error(error);
    vmb_chain_map(open_chain.chain, 0, &window, &error);
    g_assert_no_error(error);
    g_autofree char *map = describe(window);
    g_assert_cmpstr(map, ==, expected);
    vmb_chain_window(open_chain.chain, 0, &window, &error);
    g_assert_no_error(error);
    g_autofree char *full = describe(window);
    g_assert_cmpstr(full, ==, expected);
}

static void
test_layers(ImageFixture *fixture, gconstpointer data)
{
    add(fixture, 6 * BLOCK, "ttrr.t");
    add(fixture, 6 * BLOCK, ".0t.0.");
    add(fixture, 6 * BLOCK, "..0r..");
    expect_window(fixture, 0, 1, " C0 C0 P0 P0 - C0");
    expect_window(fixture, 1, 2, " C1 Z0 C0 P1 Z0 C1");
    expect_window(fixture, 2, 3, " C2 Z1 Z0 P0 Z1 C2");
    expect_window(fixture, 2, 1, " - - Z0 P0 - -");
    for (guint i = 0; i < 3; i++)
        image_own_compare(fixture, i);
}

/* Beyond the end of a shorter layer nothing of the layers below it shines through. */
static void
test_shorter_middle(ImageFixture *fixture, gconstpointer data)
{
    add(fixture, 6 * BLOCK, "tttttt");
    add(fixture, 3 * BLOCK, "..r");
    add(fixture, 6 * BLOCK, "....r.");
    expect_window(fixture, 2, 3, " C2 C2 P1 - P0 -");
    image_own_compare(fixture, 2);
    if (image_have_qemu())
        image_qemu_compare(fixture, 2);
}

/* The end of a shorter layer in the middle of a block that an older layer holds. */
static void
test_cut_block(ImageFixture *fixture, gconstpointer data)
{
    add(fixture, 4 * BLOCK, "rttt");
    add(fixture, BLOCK + 5 * 512, ".."); /* an older block, cut */
    add(fixture, 4 * BLOCK, "....");
    add(fixture, 3 * BLOCK - 700, "0.."); /* and the newest one ends early, not with a sector */
    expect_window(fixture, 2, 3, " P2 C2 - -");
    for (guint i = 0; i < 4; i++)
        image_own_compare(fixture, i);
    for (guint i = 0; i < 4 && image_have_qemu(); i++)
        image_qemu_compare(fixture, i);
}

/* The cut block is handed on in the form that it has now. */
static void
test_cut_block_stored(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) open_chain = {0};
    g_autoptr(VmbChunk) chunk = image_chunk_new();
    g_autoptr(VmbDigest) hash = vmb_digest_new();
    const VmbChainWindow *window;
    guint8 digest[VMB_DIGEST_SIZE];
    add(fixture, 3 * BLOCK, "ttr");
    add(fixture, BLOCK + 512, "..");
    image_chain_open(&open_chain, fixture, 1, 2, TRUE, &error);
    g_assert_no_error(error);
    vmb_chain_window(open_chain.chain, 0, &window, &error);
    g_assert_no_error(error);
    image_chunk_fill(chunk, window, 0, BLOCK + 512);
    g_autoptr(VmbDecoder) decoder = vmb_decoder_new(open_chain.chain);
    vmb_decoder_chunk(decoder, chunk, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(chunk->blocks[0].kind, ==, VMB_BLOCK_COMPRESSED);
    g_assert_cmpuint(chunk->blocks[0].check, ==,
                     vmb_digest_check(chunk->blocks[0].stored, chunk->blocks[0].stored_length));
    g_assert_cmpint(chunk->blocks[1].kind, ==, VMB_BLOCK_PLAIN);
    g_assert_true(chunk->blocks[1].stored == chunk->data + BLOCK);
    g_assert_cmpuint(chunk->blocks[1].stored_length, ==, BLOCK);
    g_assert_cmpuint(chunk->blocks[1].check, ==, 0);
    vmb_digest_block(hash, chunk->data + BLOCK, BLOCK, digest);
    g_assert_cmpmem(digest, sizeof digest, chunk->blocks[1].digest, sizeof digest);
}

static void
copy_chunk(const VmbChunk *chunk, gpointer user)
{
    VmbQcow2Writer *writer = user;
    for (guint i = 0; i < chunk->n_blocks; i++) {
        g_autoptr(GError) error = NULL;
        const VmbBlock *block = &chunk->blocks[i];
        if (block->kind == VMB_BLOCK_ZERO || block->kind == VMB_BLOCK_ABSENT)
            continue;
        vmb_qcow2_writer_block(writer, chunk->offset + i * BLOCK, block->kind, block->stored,
                               block->stored_length, &error);
        g_assert_no_error(error);
    }
}

/* A chain flattened into one image from the stored forms, without compressing again. */
static void
test_flatten_as_stored(ImageFixture *fixture, gconstpointer data)
{
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    for (guint round = 0; round < 8; round++) {
        g_autoptr(GError) error = NULL;
        g_auto(ImageChain) open_chain = {0};
        for (guint i = 0; i < 3; i++) {
            guint64 size = (guint64)g_rand_int_range(rand, 1, 16 * 1024 * 1024);
            image_randomise(image_add_layer(fixture, size, i != 1), rand);
            image_write(fixture, i);
        }
        image_chain_open(&open_chain, fixture, 2, 3, TRUE, &error);
        g_assert_no_error(error);
        g_autofree char *path = g_build_filename(fixture->dir, "flat.qcow2", NULL);
        g_auto(VmbFd) fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        VmbQcow2WriterOptions options = {fixture->layers[2].size, TRUE, NULL, "flat"};
        g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(fd, &options, &error);
        g_assert_no_error(error);
        image_chain_read(&open_chain, NULL, copy_chunk, writer, TRUE, &error);
        g_assert_no_error(error);
        vmb_qcow2_writer_finish(writer, NULL, &error);
        g_assert_no_error(error);
        VmbChainLayer flat = {"flat", fd, -1, fixture->layers[2].size};
        ImageChain flat_chain = {0};
        g_autoptr(VmbChain) chain = flat_chain.chain = vmb_chain_open(&flat, 1, &error);
        g_assert_no_error(error);
        ImageExpectation expectation = {fixture, 2};
        image_chain_read(&flat_chain, NULL, image_compare_chunk, &expectation, FALSE, &error);
        g_assert_no_error(error);
        image_clear_layers(fixture);
    }
}

/* Rewrites the digests of the newest layer by a recipe: one letter per block, '.' no record, '0'
 * zero, 'd' data as it is, 'x' data with another digest, 'c' data with another check. */
static void
rewrite_digests(ImageFixture *fixture, const char *recipe)
{
    g_autoptr(GError) error = NULL;
    ImageLayer *layer = &fixture->layers[fixture->n_layers - 1];
    g_auto(VmbFd) old_fd = open(layer->digests_path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(g_unlink(layer->digests_path), ==, 0);
    g_auto(VmbFd) fd = open(layer->digests_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_autoptr(VmbDigestReader) reader = vmb_digest_reader_open(old_fd, layer->size, "old", &error);
    g_autoptr(VmbDigestWriter) writer = vmb_digest_writer_new(fd, layer->size, "new", &error);
    VmbDigestRecord records[64] = {0}, record;
    static const guint8 other[VMB_DIGEST_SIZE] = {1, 2, 3};
    gboolean end;
    while (vmb_digest_reader_next(reader, &record, &end, &error) && !end)
        records[record.offset / BLOCK] = record;
    g_assert_no_error(error);
    for (guint64 i = 0; i < layer->n_blocks; i++) {
        VmbDigestRecord *old = &records[i];
        if (recipe[i] == '0')
            vmb_digest_writer_zero(writer, i * BLOCK, BLOCK, &error);
        else if (recipe[i] != '.')
            vmb_digest_writer_data(writer, i * BLOCK, recipe[i] == 'x' ? other : old->digest,
                                   old->check ^ (recipe[i] == 'c' ? 1 : 0), &error);
        g_assert_no_error(error);
    }
    vmb_digest_writer_finish(writer, &layer->digests_length, layer->digests_digest, &error);
    g_assert_no_error(error);
}

/* The same with the layer below the newest one. */
static void
rewrite_lower(ImageFixture *fixture, const char *recipe)
{
    fixture->n_layers--;
    image_write(fixture, fixture->n_layers - 1);
    rewrite_digests(fixture, recipe);
    fixture->n_layers++;
}

/* Reads the top layer alone, or with those below it. */
static gboolean
read_chain(ImageFixture *fixture, guint n_layers, GArray *damage, GError **error)
{
    g_auto(ImageChain) open_chain = {0};
    return image_chain_open(&open_chain, fixture, fixture->n_layers - 1, n_layers, TRUE, error) &&
           image_chain_read(&open_chain, damage, NULL, NULL, TRUE, error);
}

/* With one layer, each entry has its record and each record its entry. */
static void
test_disagreement(ImageFixture *fixture, gconstpointer data)
{
    /* A full stores no zeroes: its last two blocks are absent, and its digests may say zero. */
    static const char *const good[] = {"ddd0.", "ddd00", "ddd.."};
    static const char *const bad[] = {".dd0.", "d.d0.", "0dd0.", "dddd.", "ddd0d", "xdd0.",
                                      "dxd0.", "cdd0.", "dcd0.", ".....", "d0d0."};
    add(fixture, 5 * BLOCK, "trt0.");
    g_assert_true(read_chain(fixture, 1, NULL, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        rewrite_digests(fixture, good[i]);
        g_assert_true(read_chain(fixture, 1, NULL, NULL));
    }
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        image_write(fixture, 0);
        rewrite_digests(fixture, bad[i]);
        g_assert_false(read_chain(fixture, 1, NULL, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
        g_assert_nonnull(strstr(error->message, "layer0.qcow2"));
    }
}

/* In an increment, zeroes are stored and must be told; hidden blocks are not looked at. */
static void
test_disagreement_in_chain(ImageFixture *fixture, gconstpointer data)
{
    static const char *const bad[] = {"ddd..", "ddd00", "ddddd", "dd00.", "ddd0d"};
    g_autoptr(GError) error = NULL;
    add(fixture, 5 * BLOCK, "ttttt");
    add(fixture, 5 * BLOCK, "trt0.");
    rewrite_digests(fixture, "ddd0.");
    g_assert_true(read_chain(fixture, 1, NULL, NULL));
    g_assert_true(read_chain(fixture, 2, NULL, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        image_write(fixture, 1);
        rewrite_digests(fixture, bad[i]);
        for (guint n = 1; n <= 2; n++) {
            g_assert_false(read_chain(fixture, n, NULL, &error));
            g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
            g_assert_nonnull(strstr(error->message, "layer1.qcow2"));
            g_clear_error(&error);
        }
    }
    /* A layer above hides what is wrong, or does not. */
    add(fixture, 5 * BLOCK, "..t00");
    rewrite_lower(fixture, "dd.0d");
    g_assert_true(read_chain(fixture, 3, NULL, NULL));
    rewrite_lower(fixture, "d.d0.");
    g_assert_false(read_chain(fixture, 3, NULL, NULL));
}

static void
damage_block(const ImageLayer *layer, const VmbBlock *block)
{
    g_auto(VmbFd) fd = open(layer->path, O_RDWR | O_CLOEXEC);
    guint8 byte;
    guint64 at = block->host_offset + 17;
    g_assert_cmpint(pread(fd, &byte, 1, (off_t)at), ==, 1);
    byte ^= 4;
    g_assert_cmpint(pwrite(fd, &byte, 1, (off_t)at), ==, 1);
}

static void
test_damaged_blocks(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    ImageLayer *base = add(fixture, 8 * BLOCK, "trtrtrtr");
    add(fixture, 8 * BLOCK, "t....0..");
    {
        g_auto(ImageChain) open_chain = {0};
        const VmbChainWindow *window;
        g_assert_true(image_chain_open(&open_chain, fixture, 0, 1, TRUE, NULL));
        g_assert_true(vmb_chain_map(open_chain.chain, 0, &window, NULL));
        /* 0 and 5 are hidden by the newer layer. */
        for (guint i = 0; i < 8; i++)
            if (i == 0 || i == 2 || i == 3 || i == 5 || i == 7)
                damage_block(base, &window->blocks[i]);
    }
    g_assert_false(read_chain(fixture, 2, NULL, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    g_assert_nonnull(strstr(error->message, "layer0.qcow2"));
    g_assert_nonnull(strstr(error->message, "disk offset 131072"));
    g_clear_error(&error);
    g_assert_true(read_chain(fixture, 2, damage, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(damage->len, ==, 3);
    g_assert_cmpuint(g_array_index(damage, guint64, 0), ==, 2 * BLOCK);
    g_assert_cmpuint(g_array_index(damage, guint64, 1), ==, 3 * BLOCK);
    g_assert_cmpuint(g_array_index(damage, guint64, 2), ==, 7 * BLOCK);
}

/* A file that ends in the middle of a run of blocks: those before are read, those behind are not.
 */
static void
test_unreadable_blocks(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    g_auto(ImageChain) open_chain = {0};
    const VmbChainWindow *window;
    ImageLayer *layer = add(fixture, 8 * BLOCK, "rrrrrttt");
    image_chain_open(&open_chain, fixture, 0, 1, TRUE, &error);
    g_assert_no_error(error);
    vmb_chain_window(open_chain.chain, 0, &window, &error);
    g_assert_no_error(error);
    g_assert_cmpint(truncate(layer->path, (off_t)window->blocks[3].host_offset + 100), ==, 0);
    g_autoptr(VmbChunk) chunk = image_chunk_new();
    g_autoptr(VmbDecoder) decoder = vmb_decoder_new(open_chain.chain);
    image_chunk_fill(chunk, window, 0, layer->size);
    vmb_decoder_chunk(decoder, chunk, damage, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(damage->len, ==, 5);
    g_assert_cmpuint(g_array_index(damage, guint64, 0), ==, 3 * BLOCK);
    g_assert_true(vmb_zero_detect(chunk->data + 3 * BLOCK, 5 * BLOCK));
    g_autofree guint8 *expected = g_malloc(VMB_BLOCK_SIZE);
    image_content(layer, 2, expected);
    g_assert_cmpmem(chunk->data + 2 * BLOCK, BLOCK, expected, BLOCK);
    image_chunk_fill(chunk, window, 0, layer->size);
    g_assert_false(vmb_decoder_chunk(decoder, chunk, NULL, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
test_digests_end(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) open_chain = {0};
    guint8 digest[VMB_DIGEST_SIZE];
    const VmbChainWindow *window;
    ImageLayer *base = image_add_layer(fixture, 3 * VMB_QCOW2_L2_SPAN, TRUE);
    for (guint64 i = 0; i < base->n_blocks; i += 777)
        base->states[i] = STATE_FILLED;
    image_write(fixture, 0);
    ImageLayer *top = image_add_layer(fixture, VMB_QCOW2_L2_SPAN, TRUE);
    memset(top->states, STATE_ZERO, top->n_blocks);
    image_write(fixture, 1);
    image_chain_open(&open_chain, fixture, 1, 2, TRUE, &error);
    g_assert_no_error(error);
    vmb_chain_window(open_chain.chain, 0, &window, &error);
    g_assert_no_error(error);
    /* Records of the base that are hidden or lie beyond the disk are read all the same. */
    for (guint i = 0; i < 2; i++) {
        ImageLayer *layer = &fixture->layers[1 - i];
        vmb_chain_digests_end(open_chain.chain, i, digest, &error);
        g_assert_no_error(error);
        g_assert_cmpmem(digest, sizeof digest, layer->digests_digest, sizeof digest);
    }
    g_assert_false(vmb_chain_window(open_chain.chain, 0, &window, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_clear_error(&error);
    g_assert_false(vmb_chain_map(open_chain.chain, 1, &window, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

/* Windows may be passed over; those of the map come in any order. */
static void
test_window_order(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) open_chain = {0};
    const VmbChainWindow *window;
    ImageLayer *layer = image_add_layer(fixture, 5 * VMB_QCOW2_L2_SPAN + 100, TRUE);
    for (guint64 i = 0; i < layer->n_blocks; i++) {
        layer->states[i] = i % 4000 < 3 ? STATE_FILLED : STATE_HOLE;
        layer->seeds[i] = (guint32)i;
    }
    image_write(fixture, 0);
    image_chain_open(&open_chain, fixture, 0, 1, TRUE, &error);
    g_assert_no_error(error);
    for (guint64 i = 6; i-- > 0;) {
        g_assert_true(vmb_chain_map(open_chain.chain, i, &window, NULL));
        g_assert_cmpuint(window->offset, ==, i * VMB_QCOW2_L2_SPAN);
        g_assert_cmpuint(window->n_blocks, ==, i == 5 ? 1 : VMB_QCOW2_L2_ENTRIES);
        for (guint n = 0; n < window->n_blocks; n++) {
            guint64 block = i * VMB_QCOW2_L2_ENTRIES + n;
            g_assert_cmpint(window->blocks[n].kind, ==,
                            block % 4000 < 3 ? VMB_BLOCK_COMPRESSED : VMB_BLOCK_ABSENT);
        }
    }
    for (guint64 i = 1; i < 6; i += 2) {
        vmb_chain_window(open_chain.chain, i, &window, &error);
        g_assert_no_error(error);
    }
}

/* A layer whose header names no backing file cannot have one below it. */
static void
test_full_above(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) open_chain = {0};
    add(fixture, 2 * BLOCK, "tt");
    g_autofree char *copy = NULL;
    gsize length;
    g_assert_true(g_file_get_contents(fixture->layers[0].path, &copy, &length, NULL));
    add(fixture, 2 * BLOCK, "tt");
    g_assert_true(g_file_set_contents(fixture->layers[1].path, copy, (gssize)length, NULL));
    g_assert_false(image_chain_open(&open_chain, fixture, 1, 2, TRUE, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    image_add("/chain/layers", test_layers);
    image_add("/chain/shorter-middle", test_shorter_middle);
    image_add("/chain/cut-block", test_cut_block);
    image_add("/chain/cut-block-stored", test_cut_block_stored);
    image_add("/chain/flatten-as-stored", test_flatten_as_stored);
    image_add("/chain/disagreement", test_disagreement);
    image_add("/chain/disagreement-in-chain", test_disagreement_in_chain);
    image_add("/chain/damaged-blocks", test_damaged_blocks);
    image_add("/chain/unreadable-blocks", test_unreadable_blocks);
    image_add("/chain/digests-end", test_digests_end);
    image_add("/chain/window-order", test_window_order);
    image_add("/chain/full-above", test_full_above);
    return g_test_run();
}
