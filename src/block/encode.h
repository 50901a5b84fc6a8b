/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The work of a backup on one chunk: zero detection, digests, compression. */
#pragma once
#include "block/chunk.h"

typedef struct VmbEncoder VmbEncoder; /* per worker thread */
/* @level: zstd's, or VMB_COMPRESS_NONE. */
VmbEncoder *vmb_encoder_new(int level);
void vmb_encoder_free(VmbEncoder *encoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbEncoder, vmb_encoder_free)

/* Fills blocks[] and n_blocks of a DATA chunk from its data; zero-pads the last block first. With
 * chunk->compare, blocks[] must hold what each block was before: ABSENT or ZERO for one that read as
 * zero, else PLAIN or COMPRESSED with its digest. One that is the same now becomes ABSENT. */
void vmb_encoder_chunk(VmbEncoder *encoder, VmbChunk *chunk);
