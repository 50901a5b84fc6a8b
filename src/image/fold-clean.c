/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Switching an image to other tables, and making what nobody uses any more zero, before or after that. */
#include "image/fold.h"
#include "block/compress.h"
#include "image/qcow2-reader-private.h"
#include "image/zstd-frame.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/stall.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define ZEROES (256u * 1024u)
/* A frame's own header goes last, so that its end can be found again if this is interrupted. */
#define HEAD 32u

/* A stored block of the old tables. */
typedef struct {
    guint64 host, length; /* 0: its end is not known */
    guint32 limit;        /* it ends within so many bytes, if it is a frame */
    gboolean dead, frame;
} Range;

gboolean
vmb_fold_read_header(int image_fd, guint8 header[VMB_FOLD_HEADER], const char *label, GError **error)
{
    return vmb_fs_pread(image_fd, header, VMB_FOLD_HEADER, 0, label, error);
}

gboolean
vmb_fold_switch(int image_fd, const guint8 header[VMB_FOLD_HEADER], const char *label,
                GError **error)
{
    return vmb_fs_pwrite(image_fd, header, VMB_FOLD_HEADER, 0, label, error) &&
           vmb_fs_sync(image_fd, label, error);
}

/* ---- zeroing ---- */

static gboolean
write_zeroes(int fd, guint64 host, guint64 length, const char *label, GError **error)
{
    g_autofree guint8 *zeroes = g_malloc0(ZEROES);
    for (guint64 done = 0, n; done < length; done += n) {
        n = MIN(length - done, ZEROES);
        if (!vmb_fs_pwrite(fd, zeroes, (gsize)n, host + done, label, error))
            return FALSE;
    }
    return TRUE;
}

/* A hole where there can be one. */
static gboolean
make_zero(int fd, guint64 host, guint64 length, const char *label, GError **error)
{
    g_auto(VmbIoMark) mark = vmb_io_mark();
    int result;
    if (length == 0)
        return TRUE;
    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)host,
                           (off_t)length);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return TRUE;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)
        return write_zeroes(fd, host, length, label, error);
    return vmb_error_errno(error, errno, "cannot free %" G_GUINT64_FORMAT " bytes of %s", length,
                           label);
}

/* Everything in the clusters whose refcount is 0, up to @size bytes of the file. */
static gboolean
zero_free_clusters(VmbQcow2Reader *reader, guint64 size, GError **error)
{
    const VmbQcow2Header *header = &reader->header;
    gsize entries = header->reftable_clusters * (gsize)VMB_QCOW2_TABLE_ENTRIES;
    g_autofree guint64 *table = g_new(guint64, entries);
    g_autofree guint16 *counts = g_new(guint16, VMB_QCOW2_REFBLOCK_ENTRIES);
    guint64 clusters = size / VMB_BLOCK_SIZE, free_from = 0, n_free = 0;
    if (!vmb_fs_pread(reader->fd, table, entries * sizeof(guint64), header->reftable_offset,
                      reader->label, error))
        return FALSE;
    for (guint64 cluster = 0; cluster < clusters; cluster++) {
        guint64 segment = cluster / VMB_QCOW2_REFBLOCK_ENTRIES;
        guint at = (guint)(cluster % VMB_QCOW2_REFBLOCK_ENTRIES);
        guint64 host = segment < entries ? GUINT64_FROM_BE(table[segment]) : 0;
        if (at == 0 && host == 0)
            memset(counts, 0, VMB_BLOCK_SIZE);
        else if (at == 0 && !vmb_qcow2_reader_cluster(reader, host, counts, error))
            return FALSE;
        if (counts[at] == 0) {
            free_from = n_free == 0 ? cluster : free_from;
            n_free++;
            continue;
        }
        if (!make_zero(reader->fd, free_from * VMB_BLOCK_SIZE, n_free * VMB_BLOCK_SIZE,
                       reader->label, error))
            return FALSE;
        n_free = 0;
    }
    return make_zero(reader->fd, free_from * VMB_BLOCK_SIZE, n_free * VMB_BLOCK_SIZE,
                     reader->label, error);
}

gboolean
vmb_fold_undo(int image_fd, guint64 size, guint64 old_size, const char *label, GError **error)
{
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(image_fd, size, label, error);
    if (reader == NULL)
        return FALSE;
    if (old_size > reader->file_size)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the image is shorter than before something was appended", label);
    if (ftruncate(image_fd, (off_t)old_size) < 0)
        return vmb_error_errno(error, errno, "cannot make %s shorter again", label);
    return zero_free_clusters(reader, old_size, error) && vmb_fs_sync(image_fd, label, error);
}

/* ---- after the switch ---- */

typedef struct {
    VmbQcow2Reader *before, *after; /* by the old and by the new header */
    guint64 *tables;                /* hosts of all L2 tables in force, ascending */
    guint n_tables;
    Range *ranges; /* of one table, at most VMB_QCOW2_L2_ENTRIES */
    VmbDecompressor *decompressor;
    guint8 *stored, *block; /* VMB_BLOCK_SIZE bytes */
} Clean;

static int
compare_ranges(const void *a, const void *b)
{
    guint64 x = ((const Range *)a)->host, y = ((const Range *)b)->host;
    return x < y ? -1 : x > y;
}

/* What the old entry @raw leads to. */
static gboolean
find_range(Clean *clean, guint64 raw, gboolean dead, Range *range)
{
    VmbQcow2Entry entry;
    guint32 length = VMB_BLOCK_SIZE;
    gboolean frame;
    if (!vmb_qcow2_reader_entry(clean->before, raw, &entry) || entry.length == 0)
        return FALSE;
    frame = entry.kind == VMB_BLOCK_COMPRESSED;
    if (frame && (!dead || !vmb_zstd_frame_length(clean->before->fd, entry.host_offset,
                                                  entry.length, &length, clean->before->label,
                                                  NULL)))
        length = 0;
    *range = (Range){entry.host_offset, length, entry.length, dead, frame};
    return TRUE;
}

/* A frame whose headers are damaged may claim to be longer than it is, and what follows may be in use. It is
 * believed if another block of the table begins just where it ends, or if it can be decoded. */
static void
settle_end(Clean *clean, Range *range, const Range *next)
{
    gsize length = 0;
    if (!range->frame || !range->dead || range->length == 0 ||
        (next != NULL && next->host == range->host + range->length))
        return;
    if ((!vmb_fs_pread(clean->after->fd, clean->stored, range->limit, range->host, "", NULL) ||
         !vmb_decompressor_block(clean->decompressor, clean->stored, range->limit, clean->block,
                                 &length) ||
         length != range->length))
        range->length = 0;
}

/* Neighbours go in one step. */
static gboolean
zero_ranges(Clean *clean, guint n, GError **error)
{
    int fd = clean->after->fd;
    const char *label = clean->after->label;
    qsort(clean->ranges, n, sizeof(Range), compare_ranges);
    for (guint i = 0; i < n; i++)
        settle_end(clean, &clean->ranges[i], i + 1 < n ? &clean->ranges[i + 1] : NULL);
    for (guint i = 0, next; i < n; i = next) {
        Range range = clean->ranges[i];
        next = i + 1;
        if (!range.dead || range.length == 0)
            continue;
        for (; next < n && clean->ranges[next].dead &&
               clean->ranges[next].host == range.host + range.length;
             next++)
            range.length += clean->ranges[next].length;
        guint64 head = MIN(range.length, HEAD);
        if (!make_zero(fd, range.host + head, range.length - head, label, error) ||
            !make_zero(fd, range.host, head, label, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
is_in_force(const Clean *clean, guint64 host)
{
    guint low = 0, high = clean->n_tables;
    while (low < high) {
        guint middle = (low + high) / 2;
        if (clean->tables[middle] < host)
            low = middle + 1;
        else
            high = middle;
    }
    return low < clean->n_tables && clean->tables[low] == host;
}

/* What table @index led to before and does not any more. */
static gboolean
clean_table(Clean *clean, guint64 index, GError **error)
{
    guint64 old_host = 0;
    gboolean copied, old = FALSE, new = FALSE;
    guint n_old = 0, n_new = 0, n = 0;
    if (!vmb_qcow2_reader_l1(clean->before, index, &old_host, &copied, error))
        return FALSE;
    if (old_host == 0 || is_in_force(clean, old_host))
        return TRUE;
    if (!vmb_qcow2_reader_load(clean->before, index, &n_old, &old, error) ||
        !vmb_qcow2_reader_load(clean->after, index, &n_new, &new, error))
        return FALSE;
    for (guint i = 0; i < n_old; i++) {
        guint64 then = clean->before->l2[i], now = new && i < n_new ? clean->after->l2[i] : 0;
        if (find_range(clean, GUINT64_FROM_BE(then), then != now, &clean->ranges[n]))
            n++;
    }
    return zero_ranges(clean, n, error) && (n == 0 || vmb_fault_point("fold-cleaned-table", error));
}

static int
compare_hosts(const void *a, const void *b)
{
    guint64 x = *(const guint64 *)a, y = *(const guint64 *)b;
    return x < y ? -1 : x > y;
}

static gboolean
list_tables(Clean *clean, GError **error)
{
    guint32 n = clean->after->header.l1_entries;
    clean->tables = g_new(guint64, n);
    for (guint32 i = 0; i < n; i++) {
        gboolean copied;
        guint64 host;
        if (!vmb_qcow2_reader_l1(clean->after, i, &host, &copied, error))
            return FALSE;
        if (host != 0)
            clean->tables[clean->n_tables++] = host;
    }
    qsort(clean->tables, clean->n_tables, sizeof(guint64), compare_hosts);
    return TRUE;
}

/* The old L1 table is only needed to find old tables: they and it are freed together at the end, so that a
 * half-way freed one reads as "nothing more to do". */
static VmbQcow2Reader *
open_before(int image_fd, const guint8 old_header[VMB_FOLD_HEADER], const char *label,
            GError **error)
{
    g_autofree guint8 *cluster = g_malloc0(VMB_BLOCK_SIZE);
    VmbQcow2Header header;
    struct stat st;
    memcpy(cluster, old_header, VMB_FOLD_HEADER);
    if (fstat(image_fd, &st) < 0) {
        vmb_error_errno(error, errno, "cannot stat %s", label);
        return NULL;
    }
    if (!vmb_qcow2_header_decode(&header, cluster, (guint64)st.st_size, label, error))
        return NULL;
    return vmb_qcow2_reader_open_as(image_fd, cluster, header.size, label, error);
}

gboolean
vmb_fold_clean(int image_fd, guint64 size, const guint8 old_header[VMB_FOLD_HEADER],
               const char *label, GError **error)
{
    g_autoptr(VmbQcow2Reader) after = vmb_qcow2_reader_open(image_fd, size, label, error);
    g_autoptr(VmbQcow2Reader) before =
        after != NULL ? open_before(image_fd, old_header, label, error) : NULL;
    g_autofree Range *ranges = g_new(Range, VMB_QCOW2_L2_ENTRIES);
    g_autofree guint8 *stored = g_malloc(VMB_BLOCK_SIZE), *block = g_malloc(VMB_BLOCK_SIZE);
    g_autoptr(VmbDecompressor) decompressor = vmb_decompressor_new();
    if (before == NULL)
        return FALSE;
    Clean clean = {before, after, NULL, 0, ranges, decompressor, stored, block};
    gboolean ok = list_tables(&clean, error);
    for (guint32 i = 0; ok && i < before->header.l1_entries; i++)
        ok = clean_table(&clean, i, error);
    g_free(clean.tables);
    return ok && vmb_fs_sync(image_fd, label, error) && vmb_fault_point("fold-cleaned", error) &&
           zero_free_clusters(after, after->file_size, error) &&
           vmb_fs_sync(image_fd, label, error);
}
