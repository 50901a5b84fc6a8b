/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies stored blocks from one image to free places of another, as they are, in large pieces. */
#include "image/fold-copy.h"
#include "image/zstd-frame.h"
#include "util/error.h"
#include "util/fsio.h"

#define WINDOW (1024u * 1024u)   /* read at once */
#define PIECE (1024u * 1024u)    /* written at once */
#define CAPACITY (PIECE + 2 * VMB_BLOCK_SIZE)

/* Bytes that will stand one behind the other in the file. */
typedef struct {
    guint8 *data; /* CAPACITY bytes */
    guint64 start;
    guint32 used;
} Piece;

struct VmbFoldCopy {
    VmbQcow2Reader *from;
    int to;
    VmbFoldAlloc *alloc;
    guint8 *window; /* what was read of @from */
    guint64 window_start;
    gsize window_length;
    Piece plain, packed;
    guint64 packed_end; /* end of the clusters that were taken for packed.  */
};

VmbFoldCopy *
vmb_fold_copy_new(VmbQcow2Reader *from, int to, VmbFoldAlloc *alloc)
{
    VmbFoldCopy *copy = g_new0(VmbFoldCopy, 1);
    copy->from = from;
    copy->to = to;
    copy->alloc = alloc;
    copy->window = g_malloc(WINDOW);
    copy->plain.data = g_malloc(CAPACITY);
    copy->packed.data = g_malloc(CAPACITY);
    return copy;
}

void
vmb_fold_copy_free(VmbFoldCopy *copy)
{
    if (copy == NULL)
        return;
    g_free(copy->window);
    g_free(copy->plain.data);
    g_free(copy->packed.data);
    g_free(copy);
}

/* The @length bytes at @host of the image that is read; they lie inside the file. */
static const guint8 *
look(VmbFoldCopy *copy, guint64 host, gsize length, GError **error)
{
    if (host < copy->window_start ||
        host + length > copy->window_start + copy->window_length) {
        gsize n = (gsize)MIN(WINDOW, copy->from->file_size - host);
        copy->window_length = 0;
        if (!vmb_fs_pread(copy->from->fd, copy->window, n, host, copy->from->label, error))
            return NULL;
        copy->window_start = host;
        copy->window_length = n;
    }
    return copy->window + (host - copy->window_start);
}

static gboolean
write_piece(VmbFoldCopy *copy, Piece *piece, guint32 length, GError **error)
{
    return length == 0 || vmb_fs_pwrite(copy->to, piece->data, length, piece->start,
                                        copy->from->label, error);
}

static gboolean
flush_plain(VmbFoldCopy *copy, GError **error)
{
    guint32 used = copy->plain.used;
    copy->plain.used = 0;
    return write_piece(copy, &copy->plain, used, error);
}

static gboolean
put_plain(VmbFoldCopy *copy, const guint8 *data, guint64 *raw, GError **error)
{
    Piece *piece = &copy->plain;
    guint64 host = 0;
    if (!vmb_fold_alloc_take(copy->alloc, 1, 1, &host, error))
        return FALSE;
    if ((piece->used == PIECE || piece->start + piece->used != host) && !flush_plain(copy, error))
        return FALSE;
    if (piece->used == 0)
        piece->start = host;
    memcpy(piece->data + piece->used, data, VMB_BLOCK_SIZE);
    piece->used += VMB_BLOCK_SIZE;
    *raw = host | VMB_QCOW2_COPIED;
    return TRUE;
}

/* The last cluster is filled up with zeroes. */
static gboolean
flush_packed(VmbFoldCopy *copy, GError **error)
{
    Piece *piece = &copy->packed;
    guint32 whole = (guint32)(copy->packed_end - piece->start);
    if (piece->used == 0)
        return TRUE;
    memset(piece->data + piece->used, 0, whole - piece->used);
    piece->used = 0;
    return write_piece(copy, piece, whole, error);
}

/* Writes the clusters that are full, and goes on with the rest. */
static gboolean
shift_packed(VmbFoldCopy *copy, GError **error)
{
    Piece *piece = &copy->packed;
    guint32 whole = (guint32)vmb_round_down(piece->used, VMB_BLOCK_SIZE);
    if (piece->used < PIECE)
        return TRUE;
    if (!write_piece(copy, piece, whole, error))
        return FALSE;
    memmove(piece->data, piece->data + whole, piece->used - whole);
    piece->start += whole;
    piece->used -= whole;
    return TRUE;
}

/* Makes room for @length more packed bytes: where they end, in the next cluster, or elsewhere. */
static gboolean
reserve_packed(VmbFoldCopy *copy, guint32 length, GError **error)
{
    Piece *piece = &copy->packed;
    gboolean taken = FALSE;
    if (piece->used > 0) {
        if (length <= copy->packed_end - piece->start - piece->used)
            return TRUE;
        if (!vmb_fold_alloc_take_next(copy->alloc, copy->packed_end, &taken, error))
            return FALSE;
        if (taken) {
            copy->packed_end += VMB_BLOCK_SIZE;
            return TRUE;
        }
        if (!flush_packed(copy, error))
            return FALSE;
    }
    if (!vmb_fold_alloc_take(copy->alloc, 1, 0, &piece->start, error))
        return FALSE;
    copy->packed_end = piece->start + VMB_BLOCK_SIZE;
    return TRUE;
}

static gboolean
put_frame(VmbFoldCopy *copy, const guint8 *frame, guint32 length, guint64 *raw, GError **error)
{
    Piece *piece = &copy->packed;
    if (!reserve_packed(copy, length, error))
        return FALSE;
    guint64 host = piece->start + piece->used;
    memcpy(piece->data + piece->used, frame, length);
    piece->used += length;
    *raw = vmb_qcow2_frame_entry(host, length);
    /* Its last cluster may be full: then the next frame takes another one. */
    return vmb_fold_alloc_ref(copy->alloc, host, length, 1, error) && shift_packed(copy, error);
}

gboolean
vmb_fold_copy_block(VmbFoldCopy *copy, const VmbQcow2Entry *entry, guint64 *raw, guint32 *length,
                    GError **error)
{
    const guint8 *data = look(copy, entry->host_offset, entry->length, error);
    *length = entry->length;
    if (data == NULL)
        return FALSE;
    if (entry->kind == VMB_BLOCK_PLAIN)
        return put_plain(copy, data, raw, error);
    if (!vmb_zstd_frame_length_of(data, entry->length, length))
        *length = entry->length;
    return put_frame(copy, data, *length, raw, error);
}

gboolean
vmb_fold_copy_finish(VmbFoldCopy *copy, GError **error)
{
    return flush_plain(copy, error) && flush_packed(copy, error);
}
