/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An NBD server in a thread of the test that speaks the protocol as the test wants, also wrongly.
 */
#include "fake.h"
#include "server.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Numbers of the NBD protocol (doc/proto.md of the nbd project). */
#define OPTION_MAGIC G_GUINT64_CONSTANT(0x49484156454f5054)
#define REPLY_MAGIC G_GUINT64_CONSTANT(0x3e889045565a9)
#define STRUCTURED_MAGIC 0x668e33efu
#define OPT_GO 7
#define OPT_STRUCTURED_REPLY 8
#define OPT_SET_META_CONTEXT 10
#define REP_ACK 1
#define REP_INFO 3
#define REP_META_CONTEXT 4
#define REP_ERR_UNSUP 0x80000001u

struct Fake {
    char *directory, *socket;
    int listener, connection;
    FakeAnswer answer;
    GThread *thread;
};

static gboolean
receive(Fake *fake, void *data, gsize length)
{
    while (length > 0) {
        gssize n = recv(fake->connection, data, length, 0);
        if (n <= 0)
            return FALSE;
        data = (guint8 *)data + n;
        length -= (gsize)n;
    }
    return TRUE;
}

void
fake_send(Fake *fake, const void *data, gsize length)
{
    while (length > 0) {
        gssize n = send(fake->connection, data, length, MSG_NOSIGNAL);
        if (n <= 0)
            return; /* the client is gone; the next receive() tells it */
        data = (const guint8 *)data + n;
        length -= (gsize)n;
    }
}

static void
put(GByteArray *bytes, guint64 value, guint width)
{
    for (guint i = width; i-- > 0;) {
        guint8 byte = (guint8)(value >> 8 * i);
        g_byte_array_append(bytes, &byte, 1);
    }
}

static guint64
get(const guint8 *bytes, guint width)
{
    guint64 value = 0;
    for (guint i = 0; i < width; i++)
        value = value << 8 | bytes[i];
    return value;
}

static void
reply_option(Fake *fake, guint32 option, guint32 type, const GByteArray *payload)
{
    g_autoptr(GByteArray) reply = g_byte_array_new();
    put(reply, REPLY_MAGIC, 8);
    put(reply, option, 4);
    put(reply, type, 4);
    put(reply, payload != NULL ? payload->len : 0, 4);
    if (payload != NULL)
        g_byte_array_append(reply, payload->data, payload->len);
    fake_send(fake, reply->data, reply->len);
}

static void
reply_context(Fake *fake, guint32 id, const char *name)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    put(payload, id, 4);
    g_byte_array_append(payload, (const guint8 *)name, (guint)strlen(name));
    reply_option(fake, OPT_SET_META_CONTEXT, REP_META_CONTEXT, payload);
}

static void
reply_go(Fake *fake)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    put(payload, 0, 2); /* NBD_INFO_EXPORT */
    put(payload, FAKE_SIZE, 8);
    put(payload, 1 | 2 | 128, 2); /* has flags, read-only, may fragment */
    reply_option(fake, OPT_GO, REP_INFO, payload);
}

static gboolean
negotiate(Fake *fake)
{
    static const guint8 greeting[] = "NBDMAGICIHAVEOPT\0\3";
    guint8 flags[4], header[16];
    fake_send(fake, greeting, 18);
    if (!receive(fake, flags, sizeof flags))
        return FALSE;
    while (receive(fake, header, sizeof header) && get(header, 8) == OPTION_MAGIC) {
        guint32 option = (guint32)get(header + 8, 4), length = (guint32)get(header + 12, 4);
        g_autofree guint8 *data = g_malloc(length + 1);
        if (!receive(fake, data, length))
            return FALSE;
        if (option == OPT_SET_META_CONTEXT) {
            reply_context(fake, FAKE_BASE, "base:allocation");
            reply_context(fake, FAKE_DIRTY, FAKE_CONTEXT);
        } else if (option == OPT_GO) {
            reply_go(fake);
        } else if (option != OPT_STRUCTURED_REPLY) {
            reply_option(fake, option, REP_ERR_UNSUP, NULL);
            continue;
        }
        reply_option(fake, option, REP_ACK, NULL);
        if (option == OPT_GO)
            return TRUE;
    }
    return FALSE;
}

static gpointer
serve(gpointer data)
{
    Fake *fake = data;
    guint8 header[28];
    fake->connection = accept(fake->listener, NULL, NULL);
    if (fake->connection < 0 || !negotiate(fake))
        return NULL;
    while (receive(fake, header, sizeof header)) {
        FakeRequest request = {.type = (guint16)get(header + 6, 2),
                               .cookie = get(header + 8, 8),
                               .offset = get(header + 16, 8),
                               .length = (guint32)get(header + 24, 4)};
        if (request.type != NBD_CMD_READ && request.type != NBD_CMD_BLOCK_STATUS)
            break;
        if (!fake->answer(fake, &request))
            break;
    }
    shutdown(fake->connection, SHUT_RDWR);
    return NULL;
}

Fake *
fake_start(FakeAnswer answer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    Fake *fake = g_new0(Fake, 1);
    fake->answer = answer;
    fake->connection = -1;
    fake->directory = server_directory_new();
    fake->socket = g_build_filename(fake->directory, "fake.sock", NULL);
    g_strlcpy(address.sun_path, fake->socket, sizeof address.sun_path);
    fake->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fake->listener, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(fake->listener, 1), ==, 0);
    fake->thread = g_thread_new("fake", serve, fake);
    return fake;
}

const char *
fake_socket(const Fake *fake)
{
    return fake->socket;
}

void
fake_free(Fake *fake)
{
    /* Ends an accept() that nobody answers; a served client is gone by now. */
    shutdown(fake->listener, SHUT_RDWR);
    g_thread_join(fake->thread);
    if (fake->connection >= 0)
        close(fake->connection);
    close(fake->listener);
    server_directory_free(fake->directory);
    g_free(fake->socket);
    g_free(fake);
}

void
fake_chunk(Fake *fake, guint64 cookie, gboolean done, guint16 type, const void *payload,
           gsize length)
{
    g_autoptr(GByteArray) reply = g_byte_array_new();
    put(reply, STRUCTURED_MAGIC, 4);
    put(reply, done ? 1 : 0, 2);
    put(reply, type, 2);
    put(reply, cookie, 8);
    put(reply, length, 4);
    if (length > 0)
        g_byte_array_append(reply, payload, (guint)length);
    fake_send(fake, reply->data, reply->len);
}

void
fake_data(Fake *fake, const FakeRequest *request, guint64 offset, guint32 length, guint8 fill,
          gboolean done)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    put(payload, offset, 8);
    g_byte_array_set_size(payload, 8 + length);
    memset(payload->data + 8, fill, length);
    fake_chunk(fake, request->cookie, done, NBD_REPLY_TYPE_OFFSET_DATA, payload->data,
               payload->len);
}

void
fake_hole(Fake *fake, const FakeRequest *request, guint64 offset, guint32 length, gboolean done)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    put(payload, offset, 8);
    put(payload, length, 4);
    fake_chunk(fake, request->cookie, done, NBD_REPLY_TYPE_OFFSET_HOLE, payload->data,
               payload->len);
}

void
fake_status(Fake *fake, const FakeRequest *request, gboolean done, guint32 context, ...)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    va_list args;
    put(payload, context, 4);
    va_start(args, context);
    for (guint32 length; (length = va_arg(args, guint32)) != FAKE_END;) {
        put(payload, length, 4);
        put(payload, va_arg(args, guint32), 4);
    }
    va_end(args);
    fake_chunk(fake, request->cookie, done, NBD_REPLY_TYPE_BLOCK_STATUS, payload->data,
               payload->len);
}
