/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 with the processor's instructions (libcrypto), and the cheap check of stored bytes. */
#include "block/digest.h"

#include <openssl/evp.h>
#include <string.h>
#include <xxhash.h>

struct VmbDigest {
    EVP_MD *md; /* fetched once: a fetch per block would cost more than some blocks */
    EVP_MD_CTX *context;
};

/* Only lack of memory or a broken libcrypto can get here; no caller could do better than stop. */
static void
check(gboolean ok)
{
    if (!ok)
        g_error("libcrypto cannot compute SHA-256");
}

static void
restart(VmbDigest *digest)
{
    check(EVP_DigestInit_ex2(digest->context, digest->md, NULL) == 1);
}

VmbDigest *
vmb_digest_new(void)
{
    VmbDigest *digest = g_new0(VmbDigest, 1);
    digest->md = EVP_MD_fetch(NULL, "SHA256", NULL);
    check(digest->md != NULL && EVP_MD_get_size(digest->md) == (int)VMB_DIGEST_SIZE);
    digest->context = EVP_MD_CTX_new();
    check(digest->context != NULL);
    restart(digest);
    return digest;
}

void
vmb_digest_free(VmbDigest *digest)
{
    if (digest == NULL)
        return;
    EVP_MD_CTX_free(digest->context);
    EVP_MD_free(digest->md);
    g_free(digest);
}

void
vmb_digest_update(VmbDigest *digest, const void *data, gsize length)
{
    check(EVP_DigestUpdate(digest->context, data, length) == 1);
}

void
vmb_digest_finish(VmbDigest *digest, guint8 out[VMB_DIGEST_SIZE])
{
    check(EVP_DigestFinal_ex(digest->context, out, NULL) == 1);
    restart(digest);
}

void
vmb_digest_block(VmbDigest *digest, const void *data, gsize length, guint8 out[VMB_DIGEST_SIZE])
{
    vmb_digest_update(digest, data, length);
    vmb_digest_finish(digest, out);
}

guint32
vmb_digest_check(const void *stored, gsize length)
{
    return (guint32)(XXH64(stored, length, 0) & G_MAXUINT32);
}

/* If the first bytes are zero and each byte equals the one HEAD bytes before it, all are zero; the
 * comparison is left to the C library's vector code, and most data ends at the first bytes. */
gboolean
vmb_zero_detect(const void *data, gsize length)
{
    enum { HEAD = 64 };
    static const guint8 zeroes[HEAD];
    const guint8 *bytes = data;
    if (length <= HEAD)
        return memcmp(bytes, zeroes, length) == 0;
    return memcmp(bytes, zeroes, HEAD) == 0 && memcmp(bytes, bytes + HEAD, length - HEAD) == 0;
}
