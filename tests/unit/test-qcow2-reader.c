/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The qcow2 reader against damage: flipped, random, cut and contradictory bytes. */
#include "image-fixture.h"
#include "image/qcow2-header.h"
#include "image/zstd-frame.h"

#include <sys/mman.h>
#include <zstd.h>

#define BLOCK G_GUINT64_CONSTANT(65536)

/* A small image in memory, which tests damage and restore. */
typedef struct {
    const ImageLayer *layer;
    guint8 *content;
    guint64 length;
    int fd, digests_fd;
} Victim;

static void
victim_clear(Victim *victim)
{
    g_free(victim->content);
    close(victim->fd);
    close(victim->digests_fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Victim, victim_clear)

static void
write_at(int fd, const void *data, gsize length, guint64 offset)
{
    g_autoptr(GError) error = NULL;
    vmb_fs_pwrite(fd, data, length, offset, "victim", &error);
    g_assert_no_error(error);
}

static void
victim_load(Victim *victim, const ImageFixture *fixture, guint index)
{
    const ImageLayer *layer = &fixture->layers[index];
    gsize length;
    victim->layer = layer;
    g_assert_true(g_file_get_contents(layer->path, (char **)&victim->content, &length, NULL));
    victim->length = length;
    victim->fd = memfd_create("victim", MFD_CLOEXEC);
    victim->digests_fd = open(layer->digests_path, O_RDONLY | O_CLOEXEC);
    g_assert_true(victim->fd >= 0 && victim->digests_fd >= 0);
    write_at(victim->fd, victim->content, length, 0);
}

/* As verification does it: the tables with their digests. FALSE: damage was found. */
static gboolean
check_tables(const Victim *victim, GError **error)
{
    const ImageLayer *layer = victim->layer;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open(victim->fd, layer->size, layer->name, error);
    if (reader == NULL || !vmb_qcow2_reader_check(reader, head, tables, error))
        return FALSE;
    if (memcmp(head, layer->summary.head_digest, sizeof head) != 0 ||
        memcmp(tables, layer->summary.tables_digest, sizeof tables) != 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "another digest");
    return TRUE;
}

/* And then each block. */
static gboolean
check_blocks(const Victim *victim, GError **error)
{
    const ImageLayer *layer = victim->layer;
    VmbChainLayer only = {layer->name, victim->fd, victim->digests_fd, layer->size};
    ImageChain open_chain = {.n_layers = 0};
    g_autoptr(VmbChain) chain = vmb_chain_open(&only, 1, error);
    open_chain.chain = chain;
    return chain != NULL && image_chain_read(&open_chain, NULL, NULL, NULL, FALSE, error);
}

static gboolean
check_all(const Victim *victim, GError **error)
{
    return check_tables(victim, error) && check_blocks(victim, error);
}

static void
expect_damage(gboolean ok, GError **error, const char *what, guint64 at)
{
    if (ok)
        g_error("%s at %" G_GUINT64_FORMAT " was not found", what, at);
    g_assert_error(*error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

/* Flips bits of the byte at @at, looks whether it is found, and puts it back. */
static void
flip(const Victim *victim, guint64 at, guint8 bits,
     gboolean (*check)(const Victim *victim, GError **error))
{
    g_autoptr(GError) error = NULL;
    guint8 byte = victim->content[at] ^ bits;
    write_at(victim->fd, &byte, 1, at);
    expect_damage(check(victim, &error), &error, "a flipped byte", at);
    write_at(victim->fd, &victim->content[at], 1, at);
}

/* A base and an increment with blocks of all kinds; frames that cross clusters, padding. */
static void
make_images(ImageFixture *fixture, gboolean compressed)
{
    static const guint8 pattern[] = {STATE_TEXT,   STATE_MIXED, STATE_MIXED,  STATE_MIXED,
                                     STATE_RANDOM, STATE_ZERO,  STATE_FILLED, STATE_TEXT,
                                     STATE_HOLE,   STATE_MIXED, STATE_RANDOM, STATE_TEXT};
    for (guint i = 0; i < 2; i++) {
        ImageLayer *layer = image_add_layer(fixture, 13 * BLOCK - 1000, compressed);
        for (guint64 block = 0; block < layer->n_blocks; block++) {
            layer->states[block] = pattern[(block + 5 * i) % G_N_ELEMENTS(pattern)];
            layer->seeds[block] = (guint32)block * 17 + i;
        }
        image_write(fixture, i);
    }
}

/* Every bit of a byte that is in use, and a random bit of all others, a stride apart; all with
 * `-m slow`. @start and @end: what part of the file. */
static void
flip_range(const Victim *victim, guint64 start, guint64 end, guint stride,
           gboolean (*check)(const Victim *victim, GError **error))
{
    guint64 phase = (guint64)g_test_rand_int_range(0, (gint32)stride);
    for (guint64 at = start; at < end; at++) {
        gboolean used = victim->content[at] != 0;
        if (used || g_test_slow() || at % stride == phase)
            flip(victim, at, (guint8)(1u << g_test_rand_int_range(0, 8)), check);
    }
}

static void
test_flipped_tables(ImageFixture *fixture, gconstpointer data)
{
    for (guint compressed = 0; compressed < 2; compressed++) {
        g_auto(Victim) victim = {0};
        make_images(fixture, compressed != 0);
        victim_load(&victim, fixture, 1);
        g_assert_true(check_all(&victim, NULL));
        flip_range(&victim, 0, 3 * BLOCK, 97, check_tables);
        /* L2 table and refcount block are the last two clusters. */
        flip_range(&victim, victim.length - 2 * BLOCK, victim.length, 97, check_tables);
        g_assert_true(check_all(&victim, NULL));
        image_clear_layers(fixture);
    }
}

/* Every bit of what the tables hold. */
static void
test_every_bit(ImageFixture *fixture, gconstpointer data)
{
    g_auto(Victim) victim = {0};
    guint n = 0;
    make_images(fixture, TRUE);
    victim_load(&victim, fixture, 1);
    for (guint64 at = 0; at < victim.length; at++) {
        gboolean table = at < 3 * BLOCK || at >= victim.length - 2 * BLOCK;
        gboolean near =
            victim.content[at] != 0 || (at > 0 && victim.content[at - 1] != 0) || at % BLOCK < 160;
        for (guint bit = 0; table && near && bit < 8; bit++, n++)
            flip(&victim, at, (guint8)(1u << bit), check_tables);
    }
    g_assert_cmpuint(n, >, 5000);
}

/* Frames, one of which crosses clusters, a plain block, padding: tables and blocks together find
 * every changed byte of the whole file; those of the tables alone are flipped above. */
static void
test_flipped_data(ImageFixture *fixture, gconstpointer data)
{
    static const guint8 states[] = {STATE_MIXED, STATE_MIXED,  STATE_TEXT, STATE_RANDOM,
                                    STATE_ZERO,  STATE_FILLED, STATE_TEXT};
    g_auto(Victim) victim = {0};
    guint64 stride = g_test_slow() ? 1 : 37;
    for (guint i = 0; i < 2; i++) {
        ImageLayer *layer = image_add_layer(fixture, 7 * BLOCK - 1000, TRUE);
        memcpy(layer->states, states, sizeof states);
        image_write(fixture, i);
    }
    victim_load(&victim, fixture, 1);
    guint64 at = 3 * BLOCK + (guint64)g_test_rand_int_range(0, (gint32)stride);
    for (; at < victim.length - 2 * BLOCK; at += stride)
        flip(&victim, at, (guint8)g_test_rand_int_range(1, 256), check_all);
}

/* Random bytes over everything: never a crash, and whatever is read without an error is right. */
static void
test_garbage(ImageFixture *fixture, gconstpointer data)
{
    g_auto(Victim) victim = {0};
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    make_images(fixture, TRUE);
    victim_load(&victim, fixture, 1);
    for (guint round = 0; round < (g_test_slow() ? 50000u : 4000u); round++) {
        static const guint8 interesting[] = {0, 1, 0x40, 0x80, 0xff, 0xc0};
        g_autoptr(GError) error = NULL;
        guint8 junk[64];
        guint n = (guint)g_rand_int_range(rand, 1, (gint32)sizeof junk + 1);
        guint64 tables[] = {0, BLOCK, 2 * BLOCK, victim.length - 2 * BLOCK, victim.length - BLOCK};
        guint64 at = tables[g_rand_int_range(rand, 0, G_N_ELEMENTS(tables))];
        at += (guint64)g_rand_int_range(rand, 0, g_rand_boolean(rand) ? 160 : 65536 - 64);
        gboolean edge = g_rand_boolean(rand);
        for (guint i = 0; i < n; i++)
            junk[i] = edge ? interesting[g_rand_int_range(rand, 0, G_N_ELEMENTS(interesting))]
                           : (guint8)g_rand_int(rand);
        if (memcmp(junk, victim.content + at, n) == 0)
            continue;
        write_at(victim.fd, junk, n, at);
        expect_damage(check_tables(&victim, &error), &error, "garbage", at);
        g_clear_error(&error);
        /* Whoever reads without that check meets an error, or what the digests promise. */
        if (!check_blocks(&victim, &error))
            g_assert_nonnull(error);
        write_at(victim.fd, victim.content + at, n, at);
    }
    g_assert_true(check_all(&victim, NULL));
}

static void
test_truncated(ImageFixture *fixture, gconstpointer data)
{
    g_auto(Victim) victim = {0};
    make_images(fixture, TRUE);
    victim_load(&victim, fixture, 1);
    for (guint64 length = 0; length < victim.length; length += 4096) {
        g_autoptr(GError) error = NULL, error2 = NULL;
        g_assert_cmpint(ftruncate(victim.fd, (off_t)length), ==, 0);
        expect_damage(check_tables(&victim, &error), &error, "truncation", length);
        if (!check_blocks(&victim, &error2))
            g_assert_error(error2, VMB_ERROR, VMB_ERROR_DAMAGE);
        write_at(victim.fd, victim.content, victim.length, 0);
    }
    g_assert_true(check_all(&victim, NULL));
    /* Bytes behind the end: stray ones are found, zeroes are padding. */
    write_at(victim.fd, "\0", 1, victim.length + 70000);
    g_assert_true(check_all(&victim, NULL));
    write_at(victim.fd, "x", 1, victim.length + 30000);
    g_assert_false(check_tables(&victim, NULL));
}

static guint64
get_entry(const Victim *victim, guint64 at)
{
    return vmb_qcow2_get64(victim->content + at);
}

static void
set_entry(const Victim *victim, guint64 at, guint64 value)
{
    guint8 bytes[8];
    vmb_qcow2_put64(bytes, value);
    write_at(victim->fd, bytes, sizeof bytes, at);
}

/* Tables that are well-formed each, but contradict each other. The digest of the tables is not
 * asked: these are errors of their own. */
static gboolean
is_sound(const Victim *victim)
{
    g_autoptr(GError) error = NULL;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open(victim->fd, victim->layer->size, "victim", &error);
    g_assert_no_error(error);
    gboolean ok = vmb_qcow2_reader_check(reader, head, tables, &error);
    if (!ok) {
        g_test_message("%s", error->message);
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
    return ok;
}

static void
test_contradictions(ImageFixture *fixture, gconstpointer data)
{
    g_auto(Victim) victim = {0};
    make_images(fixture, TRUE);
    victim_load(&victim, fixture, 0);
    guint64 l2 = victim.length - 2 * BLOCK, refs = victim.length - BLOCK;
    guint64 text = get_entry(&victim, l2), random = get_entry(&victim, l2 + 4 * 8);
    g_assert_true((text & VMB_QCOW2_COMPRESSED) != 0 && (random & VMB_QCOW2_COPIED) != 0);
    struct {
        const char *what;
        guint64 at, value;
    } cases[] = {
        {"a frame used twice", l2 + 8, text},
        {"a plain cluster used twice", l2 + 10 * 8, random},
        {"a plain cluster without its flag", l2 + 4 * 8, random & ~VMB_QCOW2_COPIED},
        {"a plain cluster over the L2 table", l2 + 4 * 8, l2 | VMB_QCOW2_COPIED},
        {"a plain cluster over the header", l2 + 4 * 8, 0 | VMB_QCOW2_COPIED},
        {"a frame inside of a frame", l2, text + 20},
        {"a frame that claims a sector more", l2,
         text + (G_GUINT64_CONSTANT(1) << VMB_QCOW2_FRAME_OFFSET_BITS)},
        {"a frame that claims a sector less", l2,
         text - (G_GUINT64_CONSTANT(1) << VMB_QCOW2_FRAME_OFFSET_BITS)},
        {"a block that was dropped", l2 + 4 * 8, 0},
        {"an entry behind the end of the disk", l2 + 13 * 8, 1},
        {"an L2 table that was dropped", BLOCK, 0},
        {"an L2 table without its flag", BLOCK, l2},
        {"an L1 entry that points to the refcount block", BLOCK, refs | VMB_QCOW2_COPIED},
        {"a refcount block that was dropped", 2 * BLOCK, 0},
        {"a refcount block over the L2 table", 2 * BLOCK, l2},
        {"a refcount block for 2 GiB that are not there", 2 * BLOCK + 8, refs},
        {"a wrong refcount", refs, G_GUINT64_CONSTANT(0x0001000100010002)},
        {"a refcount behind the end of the file", refs + 60000, 1},
    };
    g_assert_true(is_sound(&victim));
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        guint64 old = get_entry(&victim, cases[i].at);
        g_test_message("%s", cases[i].what);
        set_entry(&victim, cases[i].at, cases[i].value);
        g_assert_false(is_sound(&victim));
        set_entry(&victim, cases[i].at, old);
    }
    g_assert_true(is_sound(&victim));
}

/* Header fields that promise what the file does not hold. */
static void
test_header(ImageFixture *fixture, gconstpointer data)
{
    g_autofree guint8 *cluster = g_malloc(VMB_BLOCK_SIZE);
    VmbQcow2Header good = {
        .size = 3 * VMB_QCOW2_L2_SPAN,
        .l1_offset = BLOCK,
        .l1_entries = 3,
        .reftable_offset = 2 * BLOCK,
        .reftable_clusters = 1,
        .compressed = TRUE,
        .backing_file = "../20261121T020000Z/vda.qcow2",
    };
    VmbQcow2Header bad[14], got;
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        bad[i] = good;
    bad[0].size = 0;
    bad[1].size += 1;
    bad[2].size += 512;
    bad[3].size = VMB_SIZE_MAX + 512;
    bad[4].l1_entries = 2;
    bad[5].l1_entries = G_MAXUINT32;
    bad[6].l1_offset = 0;
    bad[7].l1_offset += 512;
    bad[8].l1_offset = 4 * BLOCK;
    bad[9].l1_offset = G_MAXUINT64 - BLOCK + 1;
    bad[10].reftable_clusters = 0;
    bad[11].reftable_clusters = 3;
    bad[12].reftable_clusters = G_MAXUINT32;
    bad[13].reftable_offset = G_MAXUINT64 - BLOCK + 1;
    vmb_qcow2_header_encode(&good, cluster);
    g_assert_true(vmb_qcow2_header_decode(&got, cluster, 4 * BLOCK, "x", NULL));
    g_assert_cmpstr(got.backing_file, ==, good.backing_file);
    g_assert_cmpuint(got.size, ==, good.size);
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        vmb_qcow2_header_encode(&bad[i], cluster);
        g_assert_false(vmb_qcow2_header_decode(&got, cluster, 4 * BLOCK, "x", &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
}

/* Images of qemu-img's own making are not ours, however sound they are. */
static void
test_foreign_images(ImageFixture *fixture, gconstpointer data)
{
    static const char *const options[] = {
        "cluster_size=64k",  "compat=0.10",    "cluster_size=2M",
        "lazy_refcounts=on", "extended_l2=on", "refcount_bits=64",
    };
    if (!image_have_qemu())
        return;
    g_autofree char *path = g_build_filename(fixture->dir, "foreign.qcow2", NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autoptr(GError) error = NULL;
        g_free(image_qemu(fixture, "create", "-q", "-f", "qcow2", "-o", options[i], "foreign.qcow2",
                          "10M", NULL));
        g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC);
        g_assert_null(vmb_qcow2_reader_open(fd, 10 * VMB_MIB, "foreign", &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
}

static void
test_another_size(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    make_images(fixture, TRUE);
    const ImageLayer *layer = &fixture->layers[0];
    g_auto(VmbFd) fd = open(layer->path, O_RDONLY | O_CLOEXEC);
    g_assert_null(vmb_qcow2_reader_open(fd, layer->size + 512, "x", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    g_clear_error(&error);
    g_assert_null(vmb_qcow2_reader_open(fd, G_MAXUINT64, "x", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

/* Blocks in any order, over several tables: as sound as in order. */
static void
test_scattered(ImageFixture *fixture, gconstpointer data)
{
    g_auto(Victim) victim = {0};
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    ImageLayer *layer = image_add_layer(fixture, 2 * VMB_QCOW2_L2_SPAN, TRUE);
    for (guint64 block = 0; block < layer->n_blocks; block++) {
        layer->states[block] = block % 1000 == 7 ? STATE_RANDOM : STATE_FILLED;
        layer->seeds[block] = (guint32)block;
    }
    image_write(fixture, 0);
    victim_load(&victim, fixture, 0);
    guint64 first = GUINT64_FROM_BE(((guint64 *)(void *)victim.content)[BLOCK / 8]);
    guint64 second = GUINT64_FROM_BE(((guint64 *)(void *)victim.content)[BLOCK / 8 + 1]);
    first &= VMB_QCOW2_OFFSET_MASK;
    second &= VMB_QCOW2_OFFSET_MASK;
    for (guint i = 0; i < 40000; i++) {
        guint64 a = first + 8 * (guint64)g_rand_int_range(rand, 0, VMB_QCOW2_L2_ENTRIES);
        guint64 b = second + 8 * (guint64)g_rand_int_range(rand, 0, VMB_QCOW2_L2_ENTRIES);
        guint64 swap = get_entry(&victim, a);
        vmb_qcow2_put64(victim.content + a, get_entry(&victim, b));
        vmb_qcow2_put64(victim.content + b, swap);
    }
    write_at(victim.fd, victim.content, victim.length, 0);
    g_assert_true(is_sound(&victim));
    set_entry(&victim, first, get_entry(&victim, second));
    g_assert_false(is_sound(&victim));
}

static void
expect_frame(int fd, const guint8 *frame, gsize length, gsize tail)
{
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *junk = g_malloc(tail + 1);
    guint32 got = 0;
    memset(junk, 0xa5, tail);
    g_assert_cmpint(ftruncate(fd, 0), ==, 0);
    write_at(fd, frame, length, 1000);
    write_at(fd, junk, tail, 1000 + length);
    vmb_zstd_frame_length(fd, 1000, (guint32)(length + tail), &got, "x", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(got, ==, length);
    for (guint32 cut = 0; cut < length; cut += 1 + cut / 7)
        g_assert_false(vmb_zstd_frame_length(fd, 1000, cut, &got, "x", NULL));
    g_assert_false(vmb_zstd_frame_length(fd, 1001, (guint32)(length + tail - 1), &got, "x", NULL));
}

/* The length of frames of all forms, as zstd itself makes them. */
static void
test_frame_length(void)
{
    static const int levels[] = {-5, 1, 3, 19};
    g_auto(VmbFd) fd = memfd_create("frame", MFD_CLOEXEC);
    g_autofree guint8 *data = g_malloc(4 * BLOCK), *frame = g_malloc(5 * BLOCK);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    for (guint i = 0; i < 4 * G_N_ELEMENTS(levels) * 8; i++) {
        gsize size = i % 5 == 0   ? 4 * BLOCK
                     : i % 5 == 1 ? 100
                                  : BLOCK; /* several zstd blocks too */
        image_fill_text(data, size, i);
        if (i % 3 == 0)
            image_fill_random(data, size / (1 + i % 4), i);
        if (i % 7 == 0)
            memset(data, 0x77, size);
        ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, levels[i % G_N_ELEMENTS(levels)]);
        ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, i / 4 % 2);
        ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, i / 8 % 2);
        gsize length = ZSTD_compress2(context, frame, 5 * BLOCK, data, size);
        g_assert_false(ZSTD_isError(length));
        g_assert_cmpuint(ZSTD_findFrameCompressedSize(frame, length), ==, length);
        expect_frame(fd, frame, length, 0);
        expect_frame(fd, frame, length, 300);
    }
    ZSTD_freeCCtx(context);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    image_add("/qcow2-reader/flipped-tables", test_flipped_tables);
    image_add("/qcow2-reader/every-bit", test_every_bit);
    image_add("/qcow2-reader/flipped-data", test_flipped_data);
    image_add("/qcow2-reader/garbage", test_garbage);
    image_add("/qcow2-reader/truncated", test_truncated);
    image_add("/qcow2-reader/contradictions", test_contradictions);
    image_add("/qcow2-reader/header", test_header);
    image_add("/qcow2-reader/foreign-images", test_foreign_images);
    image_add("/qcow2-reader/another-size", test_another_size);
    image_add("/qcow2-reader/scattered", test_scattered);
    g_test_add_func("/qcow2-reader/frame-length", test_frame_length);
    return g_test_run();
}
