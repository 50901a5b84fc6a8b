/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a comparison expects of a chain, and which blocks test a bitmap. */
#include "block/encode.h"
#include "image-fixture.h"
#include "job/compare.h"
#include "job/disk-backup.h"

#define CHOICES 3000

/* Random layers of random sizes; the newest is the parent. */
static void
make_chain(ImageFixture *fixture, GRand *random)
{
    guint n = (guint)g_rand_int_range(random, 1, 4);
    for (guint i = 0; i < n; i++) {
        guint64 size = (guint64)g_rand_int_range(random, 1, 80 * 128) * 512;
        image_randomise(image_add_layer(fixture, size, g_rand_boolean(random)), random);
        image_write(fixture, i);
    }
}

/* What the disk holds now: mostly what the chain holds. */
static void
content_now(const ImageFixture *fixture, GRand *random, guint64 block, guint64 size, guint8 *out)
{
    guint64 offset = block * VMB_BLOCK_SIZE;
    const ImageLayer *top = &fixture->layers[fixture->n_layers - 1];
    memset(out, 0, VMB_BLOCK_SIZE);
    if (block < top->n_blocks)
        image_expected(fixture, fixture->n_layers - 1, block, out);
    int kind = g_rand_int_range(random, 0, 6);
    if (kind == 0)
        memset(out, 0, VMB_BLOCK_SIZE);
    else if (kind == 1)
        out[g_rand_int_range(random, 0, VMB_BLOCK_SIZE)] ^= 0x40;
    if (size < offset + VMB_BLOCK_SIZE)
        memset(out + (size - offset), 0, (gsize)(offset + VMB_BLOCK_SIZE - size));
}

/* Equal to the chain: not stored; else stored as what it is. A block that a shorter layer cuts may be
 * stored in any case. */
static void
check_block(const ImageFixture *fixture, VmbChain *chain, const VmbChainWindow *window,
            guint64 block, const guint8 *now, const VmbBlock *result)
{
    const ImageLayer *top = &fixture->layers[fixture->n_layers - 1];
    g_autofree guint8 *before = g_malloc0(VMB_BLOCK_SIZE);
    gboolean zero = vmb_zero_detect(now, VMB_BLOCK_SIZE), cut = FALSE;
    if (block < top->n_blocks)
        image_expected(fixture, fixture->n_layers - 1, block, before);
    if (block < window->n_blocks)
        cut = vmb_chain_is_cut(chain, &window->blocks[block], block * VMB_BLOCK_SIZE);
    if (memcmp(before, now, VMB_BLOCK_SIZE) != 0)
        g_assert_cmpint(result->kind, !=, VMB_BLOCK_ABSENT);
    else if (!cut)
        g_assert_cmpint(result->kind, ==, VMB_BLOCK_ABSENT);
    if (result->kind != VMB_BLOCK_ABSENT)
        g_assert_cmpint(result->kind == VMB_BLOCK_ZERO, ==, zero);
}

static void
compare_disk(const ImageFixture *fixture, GRand *random, VmbEncoder *encoder, guint64 size)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) parent = {0};
    g_autoptr(VmbChunk) chunk = image_chunk_new();
    g_autofree guint8 *kept = g_malloc(VMB_CHUNK_SIZE);
    const VmbChainWindow *window = NULL;
    image_chain_open(&parent, fixture, fixture->n_layers - 1, fixture->n_layers, TRUE, &error);
    g_assert_no_error(error);
    vmb_chain_window(parent.chain, 0, &window, &error);
    g_assert_no_error(error);
    for (guint64 offset = 0; offset < size; offset += VMB_CHUNK_SIZE) {
        chunk->offset = offset;
        chunk->length = MIN(VMB_CHUNK_SIZE, size - offset);
        guint n = (guint)((chunk->length + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE);
        guint64 first = offset / VMB_BLOCK_SIZE;
        for (guint i = 0; i < n; i++)
            content_now(fixture, random, first + i, size, chunk->data + i * VMB_BLOCK_SIZE);
        memcpy(kept, chunk->data, n * VMB_BLOCK_SIZE);
        vmb_compare_expect(parent.chain, window, chunk);
        g_assert_true(chunk->compare);
        vmb_encoder_chunk(encoder, chunk);
        g_assert_cmpuint(chunk->n_blocks, ==, n);
        for (guint i = 0; i < n; i++)
            check_block(fixture, parent.chain, window, first + i, kept + i * VMB_BLOCK_SIZE,
                        &chunk->blocks[i]);
    }
}

static void
test_expect(ImageFixture *fixture, gconstpointer unused)
{
    guint32 seed = g_test_rand_int() ^ g_random_int();
    g_test_message("seed %u", seed);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autoptr(VmbEncoder) encoder = vmb_encoder_new(VMB_COMPRESS_DEFAULT);
    for (int round = 0; round < 12; round++) {
        make_chain(fixture, random);
        guint64 size = g_rand_boolean(random)
                           ? fixture->layers[fixture->n_layers - 1].size
                           : (guint64)g_rand_int_range(random, 1, 80 * 128) * 512;
        compare_disk(fixture, random, encoder, vmb_round_up(size, 512));
        image_clear_layers(fixture);
    }
}

/* The last, partial block of an older layer of the same size is not cut: its digest holds. */
static void
test_last_block_is_not_cut(ImageFixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    const VmbChainWindow *window = NULL;
    static const guint64 sizes[] = {2 * VMB_BLOCK_SIZE + 512, 2 * VMB_BLOCK_SIZE + 512,
                                    2 * VMB_BLOCK_SIZE + 1024};
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
        image_add_layer(fixture, sizes[i], TRUE)->states[i == 0 ? 2 : 0] = STATE_TEXT;
        image_write(fixture, i);
    }
    for (guint top = 1; top < 3; top++) {
        g_auto(ImageChain) chain = {0};
        image_chain_open(&chain, fixture, top, top + 1, TRUE, &error);
        g_assert_no_error(error);
        vmb_chain_window(chain.chain, 0, &window, &error);
        g_assert_no_error(error);
        g_assert_cmpint(window->blocks[2].kind, ==, VMB_BLOCK_COMPRESSED);
        g_assert_false(vmb_chain_is_cut(chain.chain, &window->blocks[2], 2 * VMB_BLOCK_SIZE));
    }
}

/* ---- spot checks ---- */

typedef struct {
    ImageChain open;
    const VmbChainWindow *window;
    guint8 *actions;
    guint n;
} Map;

/* Two layers: data below, some of it again in the newest, and holes. */
static void
map_set_up(Map *map, ImageFixture *fixture, guint n)
{
    g_autoptr(GError) error = NULL;
    ImageLayer *full = image_add_layer(fixture, (guint64)n * VMB_BLOCK_SIZE, FALSE);
    ImageLayer *newest = image_add_layer(fixture, (guint64)n * VMB_BLOCK_SIZE, FALSE);
    for (guint b = 0; b < n; b++) {
        full->states[b] = b % 3 != 2 ? STATE_FILLED : STATE_HOLE;
        full->seeds[b] = b;
        newest->states[b] = b % 6 == 0 ? STATE_FILLED : STATE_HOLE;
        newest->seeds[b] = b + 1;
    }
    image_write(fixture, 0);
    image_write(fixture, 1);
    image_chain_open(&map->open, fixture, 1, 2, FALSE, &error);
    g_assert_no_error(error);
    vmb_chain_map(map->open.chain, 0, &map->window, &error);
    g_assert_no_error(error);
    map->n = n;
    map->actions = g_new(guint8, n);
    memset(map->actions, VMB_ACTION_TRUST, n);
}

static void
map_clear(Map *map)
{
    image_chain_clear(&map->open);
    g_free(map->actions);
}

static GArray *
choose(const Map *map, guint32 seed)
{
    g_autoptr(VmbSpotCheck) check = vmb_spot_check_new(map->open.chain, seed);
    vmb_spot_check_window(check, map->window, map->actions, map->n);
    return vmb_spot_check_spots(check);
}

/* Not farther than six standard deviations from what chance gives between these probabilities. */
static void
check_times(guint times, gdouble low, gdouble high)
{
    gdouble too_few = low * CHOICES - times, too_many = times - high * CHOICES;
    gdouble off = MAX(MAX(too_few, too_many), 0);
    g_assert_cmpfloat(off * off, <, 36 * high * CHOICES);
}

/* Each of a kind is chosen as often as any other, and only what is a candidate. */
static void
test_choice(ImageFixture *fixture, gconstpointer unused)
{
    guint32 seed = g_test_rand_int() ^ g_random_int();
    g_test_message("seed %u", seed);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    Map map = {0};
    map_set_up(&map, fixture, 1200);
    guint fresh = 0, others = 0, recent = 0;
    for (guint b = 0; b < map.n - 4; b++) {
        if (g_rand_int_range(random, 0, 3) == 0)
            map.actions[b] = (guint8)g_rand_int_range(random, VMB_ACTION_SKIP, VMB_ACTION_TRUST);
        fresh += map.actions[b] == VMB_ACTION_TRUST && b % 3 == 2 ? 1 : 0;
        others += map.actions[b] == VMB_ACTION_TRUST && b % 3 != 2 && b % 6 != 0 ? 1 : 0;
        recent += map.actions[b] == VMB_ACTION_TRUST && b % 6 == 0 ? 1 : 0;
    }
    guint last = map.n - 2; /* the last that holds data */
    g_autofree guint *times = g_new0(guint, map.n);
    for (guint i = 0; i < CHOICES; i++) {
        g_autoptr(GArray) spots = choose(&map, g_rand_int(random));
        g_assert_cmpuint(spots->len, <=, VMB_SPOTS_MAX);
        for (guint s = 0; s < spots->len; s++) {
            const VmbSpot *spot = &g_array_index(spots, VmbSpot, s);
            guint block = (guint)(spot->offset / VMB_BLOCK_SIZE);
            g_assert_cmpint(map.actions[block], ==, VMB_ACTION_TRUST);
            g_assert_true(s == 0 || spot->offset > (spot - 1)->offset);
            times[block]++;
        }
    }
    g_assert_cmpuint(times[last], ==, CHOICES);
    for (guint b = 0; b < map.n - 4; b++) {
        gdouble p = (gdouble)VMB_SPOTS_OF_NEW / (fresh + 2), q = 64.0 / (others + recent + 2);
        if (map.actions[b] != VMB_ACTION_TRUST)
            g_assert_cmpuint(times[b], ==, 0);
        else if (b % 3 == 2)
            check_times(times[b], p, p);
        else if (b % 6 != 0)
            check_times(times[b], q, q);
        else /* as one of the newest point's, too */
            check_times(times[b], q + (1 - q) * 32 / recent, q + 32.0 / recent);
    }
    map_clear(&map);
}

/* Where there are few, all are taken. */
static void
test_few(ImageFixture *fixture, gconstpointer unused)
{
    Map map = {0};
    map_set_up(&map, fixture, 90);
    g_autoptr(GArray) spots = choose(&map, 1);
    g_assert_cmpuint(spots->len, ==, 90);
    memset(map.actions, VMB_ACTION_READ, map.n);
    g_autoptr(GArray) none = choose(&map, 1);
    g_assert_cmpuint(none->len, ==, 0);
    map_clear(&map);
}

/* What is expected is what the chain holds, also where a shorter layer cuts it, and at its end. */
static void
test_spot_expect(ImageFixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    guint32 seed = g_test_rand_int() ^ g_random_int();
    g_test_message("seed %u", seed);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    g_autofree guint8 *content = g_malloc(VMB_BLOCK_SIZE);
    for (int round = 0; round < 10; round++) {
        g_auto(ImageChain) chain = {0};
        const VmbChainWindow *window = NULL;
        guint8 actions[128], expected_digest[VMB_DIGEST_SIZE];
        make_chain(fixture, random);
        guint top = fixture->n_layers - 1;
        image_chain_open(&chain, fixture, top, top + 1, FALSE, &error);
        g_assert_no_error(error);
        vmb_chain_map(chain.chain, 0, &window, &error);
        g_assert_no_error(error);
        memset(actions, VMB_ACTION_TRUST, sizeof actions);
        g_autoptr(VmbSpotCheck) check = vmb_spot_check_new(chain.chain, g_rand_int(random));
        vmb_spot_check_window(check, window, actions, window->n_blocks);
        g_autoptr(GArray) spots = vmb_spot_check_spots(check);
        g_assert_cmpuint(spots->len, >, 0);
        for (guint s = 0; s < spots->len; s++) {
            const VmbSpot *spot = &g_array_index(spots, VmbSpot, s);
            VmbBlock expected;
            g_assert_true(vmb_spot_check_expect(check, spot, &expected, &error));
            g_assert_no_error(error);
            image_expected(fixture, top, spot->offset / VMB_BLOCK_SIZE, content);
            vmb_digest_block(digest, content, VMB_BLOCK_SIZE, expected_digest);
            g_assert_cmpmem(expected.digest, VMB_DIGEST_SIZE, expected_digest, VMB_DIGEST_SIZE);
            g_assert_cmpint(expected.kind == VMB_BLOCK_ZERO, ==,
                            vmb_zero_detect(content, VMB_BLOCK_SIZE));
        }
        image_clear_layers(fixture);
    }
}

static void
test_spot_damage(ImageFixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) chain = {0};
    const VmbChainWindow *window = NULL;
    VmbBlock expected;
    ImageLayer *layer = image_add_layer(fixture, VMB_BLOCK_SIZE, TRUE);
    layer->states[0] = STATE_TEXT;
    image_write(fixture, 0);
    image_chain_open(&chain, fixture, 0, 1, FALSE, &error);
    g_assert_no_error(error);
    vmb_chain_map(chain.chain, 0, &window, &error);
    g_assert_no_error(error);
    VmbSpot spot = {0, window->blocks[0]};
    g_auto(VmbFd) fd = open(layer->path, O_RDWR | O_CLOEXEC);
    vmb_fs_pwrite(fd, "damage", 6, spot.known.host_offset, layer->path, &error);
    g_assert_no_error(error);
    g_autoptr(VmbSpotCheck) check = vmb_spot_check_new(chain.chain, 1);
    g_assert_false(vmb_spot_check_expect(check, &spot, &expected, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    image_add("/compare/expect", test_expect);
    image_add("/compare/last-block-is-not-cut", test_last_block_is_not_cut);
    image_add("/compare/choice", test_choice);
    image_add("/compare/few", test_few);
    image_add("/compare/spot-expect", test_spot_expect);
    image_add("/compare/spot-damage", test_spot_damage);
    return g_test_run();
}
