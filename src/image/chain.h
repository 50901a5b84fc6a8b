/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A chain of images with their digests as one disk: where each block lies and what it must hold. */
#pragma once
#include "image/qcow2-reader.h"

typedef struct {
    const char *label; /* "web01/20261121T020000Z disk vda", for messages; copied */
    int image_fd;      /* borrowed, open for the chain's life */
    int digests_fd;    /* borrowed, or -1: no digests (VmbBlock.digest is not set, no check) */
    guint64 size;      /* virtual size in bytes by the manifest */
    const guint8 *header; /* NULL, or a cluster that counts instead of the image's first one */
} VmbChainLayer;

typedef struct VmbChain VmbChain;

/* @layers: [0] is the newest. What lies beyond the end of a lower layer reads as zero; a layer below
 * a shorter one never shines through. Errors: VMB_ERROR_DAMAGE with the layer's label. */
VmbChain *vmb_chain_open(const VmbChainLayer *layers, guint n_layers, GError **error);
/* The same for images that are known to be damaged, and whose digest files are known not to be (those that are
 * are left out): what the tables of an image say wrongly is no error, but decided by the digests, and a
 * block that is nowhere to be found reads as zero, with its loss set. */
VmbChain *vmb_chain_open_tolerant(const VmbChainLayer *layers, guint n_layers, GError **error);
/* The first thing that was tolerated; NULL: nothing. Borrowed. */
const GError *vmb_chain_disagreement(VmbChain *chain);
void vmb_chain_free(VmbChain *chain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbChain, vmb_chain_free)

guint64 vmb_chain_size(VmbChain *chain);   /* of the newest layer, bytes */

/* One window: VMB_QCOW2_L2_ENTRIES blocks from guest offset index * VMB_QCOW2_L2_SPAN. */
typedef struct {
    guint64 offset;  /* bytes */
    guint n_blocks;  /* inside the disk */
    VmbBlock *blocks;/* kind (ABSENT: in no layer), layer, host_offset, stored_length, digest, check */
    gboolean empty;  /* no layer has anything here: all are ABSENT */
} VmbChainWindow;

/* Fills @window for @index; indexes must ascend over the calls (digest cursors only go forward).
 * @window->blocks is owned by the chain and valid until the next call. A block whose L2 entry and
 * digest record disagree is VMB_ERROR_DAMAGE. Cost: one table per layer that has one there. */
gboolean vmb_chain_window(VmbChain *chain, guint64 index, const VmbChainWindow **window,
                          GError **error);

/* As vmb_chain_window() but only kinds: no digest is read, any order. For the map of a parent. */
gboolean vmb_chain_map(VmbChain *chain, guint64 index, const VmbChainWindow **window,
                       GError **error);

/* TRUE if @block, at disk offset @offset, comes from an older layer and a newer, shorter one cuts
 * it: its digest then is not that of what it reads as. */
gboolean vmb_chain_is_cut(VmbChain *chain, const VmbBlock *block, guint64 offset);

/* After the last window: reads the digest files to their ends (no record may be left over in any
 * layer... beyond what the windows showed) and gives each file's digest. @digest: layer's. */
gboolean vmb_chain_digests_end(VmbChain *chain, guint layer, guint8 digest[VMB_DIGEST_SIZE],
                               GError **error);

/* Per worker thread: reads and decodes the blocks of a chunk whose blocks[] the producer filled from
 * windows, verifies their digests, and leaves the bytes in chunk->data (ZERO and ABSENT as zeroes).
 * Afterwards blocks[].stored and .stored_length are the true stored form (in chunk->data or
 * chunk->output), so that a qcow2 target can take it as it is. */
typedef struct VmbDecoder VmbDecoder;
VmbDecoder *vmb_decoder_new(VmbChain *chain);
void vmb_decoder_free(VmbDecoder *decoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDecoder, vmb_decoder_free)
/* Errors: VMB_ERROR_DAMAGE with label and offset. With @damage (an array of guint64 offsets, or
 * NULL) damaged blocks are appended there (under a lock of the decoder's chain), read as zero, their
 * loss is set, and the call succeeds. */
gboolean vmb_decoder_chunk(VmbDecoder *decoder, VmbChunk *chunk, GArray *damage, GError **error);
