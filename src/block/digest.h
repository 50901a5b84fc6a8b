/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 with the processor's instructions (libcrypto), and the cheap check of stored bytes. */
#pragma once
#include "block/chunk.h"

/* A reusable hasher; not shared between threads. */
typedef struct VmbDigest VmbDigest;
VmbDigest *vmb_digest_new(void);
void vmb_digest_free(VmbDigest *digest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDigest, vmb_digest_free)

void vmb_digest_update(VmbDigest *digest, const void *data, gsize length);
/* Gives the digest of all updates since the last finish, and starts anew. */
void vmb_digest_finish(VmbDigest *digest, guint8 out[VMB_DIGEST_SIZE]);
/* Update and finish in one. */
void vmb_digest_block(VmbDigest *digest, const void *data, gsize length,
                      guint8 out[VMB_DIGEST_SIZE]);

/* Low 32 bits of XXH64 (seed 0) of a stored frame: finds a flipped bit that decoding forgives. */
guint32 vmb_digest_check(const void *stored, gsize length);

/* TRUE if all @length bytes are zero. */
gboolean vmb_zero_detect(const void *data, gsize length);
