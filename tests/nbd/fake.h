/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An NBD server in a thread of the test that speaks the protocol as the test wants, also wrongly.
 */
#pragma once
#include <glib.h>

#define FAKE_SIZE (16u * 1024 * 1024)
#define FAKE_CONTEXT "qemu:dirty-bitmap:fake"

/* Ids of the meta contexts, as the fake server hands them out. */
#define FAKE_BASE 1u
#define FAKE_DIRTY 2u

typedef struct {
    guint16 type; /* NBD_CMD_READ or NBD_CMD_BLOCK_STATUS */
    guint64 cookie, offset;
    guint32 length;
} FakeRequest;

#define NBD_CMD_READ 0
#define NBD_CMD_BLOCK_STATUS 7
#define NBD_REPLY_TYPE_NONE 0
#define NBD_REPLY_TYPE_OFFSET_DATA 1
#define NBD_REPLY_TYPE_OFFSET_HOLE 2
#define NBD_REPLY_TYPE_BLOCK_STATUS 5

typedef struct Fake Fake;
/* Answers one request through the functions below; FALSE closes the connection. */
typedef gboolean (*FakeAnswer)(Fake *fake, const FakeRequest *request);

/* Serves one connection. */
Fake *fake_start(FakeAnswer answer);
const char *fake_socket(const Fake *fake);
void fake_free(Fake *fake);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fake, fake_free)

void fake_send(Fake *fake, const void *data, gsize length);
/* One chunk of a structured reply with @length bytes of payload. */
void fake_chunk(Fake *fake, guint64 cookie, gboolean done, guint16 type, const void *payload,
                gsize length);
/* A chunk of data, all bytes @fill, or a hole. */
void fake_data(Fake *fake, const FakeRequest *request, guint64 offset, guint32 length, guint8 fill,
               gboolean done);
void fake_hole(Fake *fake, const FakeRequest *request, guint64 offset, guint32 length,
               gboolean done);
/* A block status chunk: pairs of length and flags, ended by a length of G_MAXUINT32. */
void fake_status(Fake *fake, const FakeRequest *request, gboolean done, guint32 context, ...);
#define FAKE_END G_MAXUINT32
