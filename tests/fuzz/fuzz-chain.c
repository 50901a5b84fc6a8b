/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: a chain of images with their digests, decoded to the disk that it is. */
#include "image.h"
#include "image/qcow2-reader.h"

/* Input: u8 which chain; u8 mode (bits below); then changes: u8 layer (bit 7: its digests), and
 * what image.h says. */
#define MODE_DAMAGE 1u     /* damaged blocks are collected instead of ending the reading */
#define MODE_NO_DIGESTS 2u /* of the lower layers */
#define MODE_MAP 4u        /* only kinds are asked for, first */

#define N_CHAINS 4
#define MAX_WINDOWS 4u

typedef struct {
    FuzzLayers layers;
    guint8 content[VMB_DIGEST_SIZE]; /* of the disk */
} Chain;

static Chain chains[N_CHAINS];
static VmbChunk *chunk;

typedef struct {
    VmbDigest *digest;
    guint64 n_damaged;
} Reading;

/* Without the @skip newest layers: what an older point of the disk is. */
static VmbChain *
open_chain(Chain *chain, guint skip, guint mode, GError **error)
{
    VmbChainLayer layers[IMAGE_LAYERS_MAX];
    guint n = chain->layers.files.n_layers - skip;
    for (guint i = 0; i < n; i++) {
        guint at = n - 1 - i;
        const ImageLayer *layer = &chain->layers.files.layers[at];
        gboolean digests = i == 0 || (mode & MODE_NO_DIGESTS) == 0;
        layers[i] = (VmbChainLayer){layer->name, chain->layers.image[at].fd,
                                    digests ? chain->layers.digests[at].fd : -1, layer->size};
    }
    return vmb_chain_open(layers, n, error);
}

static gboolean
read_window(VmbChain *chain, VmbDecoder *decoder, const VmbChainWindow *window, GArray *damage,
            VmbDigest *digest, GError **error)
{
    guint64 size = vmb_chain_size(chain);
    for (guint at = 0; at < window->n_blocks;) {
        guint64 first = at;
        at += image_chunk_fill(chunk, window, at, size);
        gboolean stored = FALSE;
        for (guint i = 0; i < chunk->n_blocks; i++)
            stored |= chunk->blocks[i].kind >= VMB_BLOCK_PLAIN;
        if (!stored)
            continue;
        memset(chunk->data, 0xdb, VMB_CHUNK_SIZE);
        if (!vmb_decoder_chunk(decoder, chunk, damage, error))
            return FALSE;
        vmb_digest_update(digest, &first, sizeof first);
        vmb_digest_update(digest, chunk->data, (gsize)chunk->length);
    }
    return TRUE;
}

/* Reads all that the chain has; @content: digest of it. */
static gboolean
read_chain(VmbChain *chain, guint mode, GArray *damage, guint8 content[VMB_DIGEST_SIZE],
           GError **error)
{
    g_autoptr(VmbDecoder) decoder = vmb_decoder_new(chain);
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    guint n = MIN(vmb_qcow2_l1_entries(vmb_chain_size(chain)), MAX_WINDOWS);
    const VmbChainWindow *window = NULL;
    for (guint i = 0; (mode & MODE_MAP) != 0 && i < n; i++)
        if (!vmb_chain_map(chain, n - 1 - i, &window, error))
            return FALSE;
    for (guint i = 0; i < n; i++)
        if (!vmb_chain_window(chain, i, &window, error) ||
            !read_window(chain, decoder, window, damage, digest, error))
            return FALSE;
    vmb_digest_finish(digest, content);
    return TRUE;
}

static void
make_chain(Chain *chain, const FuzzLayerPlan *plans, guint n)
{
    g_autoptr(GError) error = NULL;
    fuzz_layers_make(&chain->layers, plans, n);
    g_autoptr(VmbChain) opened = open_chain(chain, 0, 0, &error);
    if (opened == NULL || !read_chain(opened, 0, NULL, chain->content, &error))
        g_error("the good chain cannot be read: %s", error->message);
}

void
fuzz_set_up(void)
{
    static const FuzzLayerPlan lone[] = {{7 * VMB_BLOCK_SIZE + 512, TRUE, fuzz_fill_mixed}};
    static const FuzzLayerPlan grown[] = {
        {6 * VMB_BLOCK_SIZE + 1000, TRUE, fuzz_fill_mixed},
        {13 * VMB_BLOCK_SIZE, TRUE, fuzz_fill_mixed},
        {13 * VMB_BLOCK_SIZE, FALSE, fuzz_fill_sparse},
    };
    static const FuzzLayerPlan shrunk[] = {
        {20 * VMB_BLOCK_SIZE, FALSE, fuzz_fill_mixed},
        {9 * VMB_BLOCK_SIZE + 512, TRUE, fuzz_fill_sparse},
        {14 * VMB_BLOCK_SIZE + 3, TRUE, fuzz_fill_sparse},
    };
    static const FuzzLayerPlan wide[] = {
        {VMB_QCOW2_L2_SPAN + 3 * VMB_BLOCK_SIZE, TRUE, fuzz_fill_sparse},
        {2 * VMB_QCOW2_L2_SPAN + 3 * VMB_BLOCK_SIZE, TRUE, fuzz_fill_zero},
    };
    chunk = image_chunk_new();
    make_chain(&chains[0], lone, G_N_ELEMENTS(lone));
    make_chain(&chains[1], grown, G_N_ELEMENTS(grown));
    make_chain(&chains[2], shrunk, G_N_ELEMENTS(shrunk));
    make_chain(&chains[3], wide, G_N_ELEMENTS(wide));
}

/* What a verification of the newest point does to it; TRUE if it finds nothing. */
static gboolean
verify(Chain *chain, guint skip)
{
    guint at = chain->layers.files.n_layers - 1 - skip;
    const ImageLayer *layer = &chain->layers.files.layers[at];
    int fd = chain->layers.image[at].fd;
    guint8 digest[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(VmbChain) opened = open_chain(chain, skip, 0, NULL);
    if (opened == NULL || !read_chain(opened, 0, NULL, digest, NULL) ||
        !vmb_chain_digests_end(opened, 0, digest, NULL) ||
        memcmp(digest, layer->digests_digest, sizeof digest) != 0 ||
        (guint64)lseek(fd, 0, SEEK_END) != layer->summary.file_size)
        return FALSE;
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(fd, layer->size, layer->name, NULL);
    return reader != NULL && vmb_qcow2_reader_check(reader, digest, tables, NULL) &&
           memcmp(digest, layer->summary.head_digest, sizeof digest) == 0 &&
           memcmp(tables, layer->summary.tables_digest, sizeof tables) == 0;
}

/* Of all points, one after the other: a block that a newer one hides is seen with its own point. */
static gboolean
verify_all(Chain *chain)
{
    guint skip = 0;
    while (skip < chain->layers.files.n_layers && verify(chain, skip))
        skip++;
    return skip == chain->layers.files.n_layers;
}

static gboolean
is_changed(Chain *chain, gboolean images)
{
    gboolean changed = FALSE;
    for (guint i = 0; i < chain->layers.files.n_layers; i++)
        changed |= fuzz_base_is_changed(&chain->layers.digests[i]) ||
                   (images && fuzz_base_is_changed(&chain->layers.image[i]));
    return changed;
}

static void
try_chain(Chain *chain, guint mode)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    guint8 content[VMB_DIGEST_SIZE];
    g_autoptr(VmbChain) opened = open_chain(chain, 0, mode, &error);
    if (opened == NULL ||
        !read_chain(opened, mode, mode & MODE_DAMAGE ? damage : NULL, content, &error)) {
        fuzz_check_error(error, VMB_ERROR_DAMAGE);
        FUZZ_CHECK(is_changed(chain, TRUE));
        return;
    }
    for (guint i = 0; i < damage->len; i++)
        FUZZ_CHECK(g_array_index(damage, guint64, i) < vmb_chain_size(opened));
    FUZZ_CHECK(damage->len == 0 || is_changed(chain, TRUE));
    if (damage->len > 0 || (mode & MODE_NO_DIGESTS) != 0)
        return;
    /* Digests that are right leave no other content than the right one. */
    if (!is_changed(chain, FALSE))
        FUZZ_CHECK(memcmp(content, chain->content, sizeof content) == 0);
    /* And a verification that finds nothing has seen every byte of every file. */
    if (is_changed(chain, TRUE))
        FUZZ_CHECK(!verify_all(chain));
}

void
fuzz_one(const guint8 *data, gsize length)
{
    FuzzInput input = {data, length};
    Chain *chain = &chains[fuzz_take(&input, 1) % N_CHAINS];
    guint mode = (guint)fuzz_take(&input, 1);
    gboolean more = TRUE;
    while (more) {
        guint layer = (guint)fuzz_take(&input, 1);
        guint at = (layer & 127) % chain->layers.files.n_layers;
        more = layer & 128 ? fuzz_poke_digests(&chain->layers.digests[at], &input)
                           : fuzz_poke_image(&chain->layers.image[at], &input);
    }
    try_chain(chain, mode);
    fuzz_layers_restore(&chain->layers);
}

void
fuzz_seeds(void)
{
    for (guint8 i = 0; i < N_CHAINS; i++)
        for (guint8 mode = 0; mode < 8; mode++) {
            guint8 good[] = {i, mode};
            guint8 image[] = {i, mode, 0, FUZZ_POKE_L2, 0, 2, 0, 2, 9, 0};
            guint8 frame[] = {i, mode, 0, FUZZ_POKE_FRAME, 2, 0, 6, 3, 1, 2, 3};
            guint8 digest[] = {i, mode, 128, 1, 0, 1, 1, 0};
            g_autofree char *name = g_strdup_printf("%u-%u", i, mode);
            g_autofree char *name2 = g_strconcat(name, "-image", NULL);
            g_autofree char *name3 = g_strconcat(name, "-frame", NULL);
            g_autofree char *name4 = g_strconcat(name, "-digest", NULL);
            fuzz_seed(name, good, sizeof good);
            fuzz_seed(name2, image, sizeof image);
            fuzz_seed(name3, frame, sizeof frame);
            fuzz_seed(name4, digest, sizeof digest);
        }
}
