/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Walks through all bytes of an image in ascending order: overlaps, padding and refcounts. */
#include "block/digest.h"
#include "image/qcow2-check-private.h"
#include "image/zstd-frame.h"
#include "util/error.h"
#include "util/fsio.h"

#include <stdlib.h>

/* The stored blocks are looked at in windows of the file, each sorted by offset. A window is as
 * long as its blocks fit into this many items (8 bytes each); it is halved whenever they do not. An
 * image that was written from front to back has its blocks almost in order, so each L2 table is
 * needed in one or two windows; one whose blocks are scattered costs more reading, but no more
 * memory. */
#define MAX_ITEMS (1024u * 1024u)
#define MAX_WINDOW VMB_TIB
#define NOT_LOADED G_MAXUINT64

/* An item: offset in its window << 9 | sectors beyond the first << 1 | 1 for a frame. */
#define ITEM_OFFSET_SHIFT 9
#define ITEM_SECTORS_SHIFT 1

typedef struct {
    VmbQcow2Reader *reader;
    const GArray *tables;
    guint next_table;        /* of those that are not accounted for yet */
    const guint64 *reftable; /* big-endian */
    guint64 reftable_entries;
    guint64 position;  /* all bytes of the file before it are accounted for */
    guint64 cluster;   /* whose references are being counted ... */
    guint32 counts[2]; /* ... and those of the next one */
    guint16 *refblock; /* big-endian, of 2 GiB */
    guint64 segment;   /* which 2 GiB, or NOT_LOADED */
    guint8 *padding;   /* a cluster */
    guint64 *items;
    guint n_items;
    guint64 start, end; /* of the window */
} Sweep;

static gboolean
load_refblock(Sweep *sweep, guint64 segment, GError **error)
{
    guint64 host = 0;
    if (segment < sweep->reftable_entries)
        host = GUINT64_FROM_BE(sweep->reftable[segment]);
    sweep->segment = segment;
    if (host != 0)
        return vmb_qcow2_reader_cluster(sweep->reader, host, sweep->refblock, error);
    memset(sweep->refblock, 0, VMB_BLOCK_SIZE);
    return TRUE;
}

/* No more references come to clusters before @cluster: compares their counts. */
static gboolean
compare_refcounts(Sweep *sweep, guint64 cluster, GError **error)
{
    for (; sweep->cluster < cluster; sweep->cluster++) {
        guint64 segment = sweep->cluster / VMB_QCOW2_REFBLOCK_ENTRIES;
        if (segment != sweep->segment && !load_refblock(sweep, segment, error))
            return FALSE;
        guint16 stored =
            GUINT16_FROM_BE(sweep->refblock[sweep->cluster % VMB_QCOW2_REFBLOCK_ENTRIES]);
        if (stored != sweep->counts[0])
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: the refcount of the cluster at offset %" G_GUINT64_FORMAT
                                 " of the image is %u, but it is used %u times",
                                 sweep->reader->label, sweep->cluster * VMB_BLOCK_SIZE, stored,
                                 sweep->counts[0]);
        sweep->counts[0] = sweep->counts[1];
        sweep->counts[1] = 0;
    }
    return TRUE;
}

/* What lies between the things of the file is zero. */
static gboolean
check_padding(Sweep *sweep, guint64 end, GError **error)
{
    while (sweep->position < end) {
        gsize length = (gsize)MIN(end - sweep->position, VMB_BLOCK_SIZE);
        if (!vmb_fs_pread(sweep->reader->fd, sweep->padding, length, sweep->position,
                          sweep->reader->label, error))
            return FALSE;
        if (!vmb_zero_detect(sweep->padding, length))
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: %" G_GSIZE_FORMAT " unused bytes at offset %" G_GUINT64_FORMAT
                                 " of the image are not zero",
                                 sweep->reader->label, length, sweep->position);
        sweep->position += length;
    }
    return TRUE;
}

/* @length bytes at @host are in use, by @uses entries; @host ascends over the calls. */
static gboolean
account(Sweep *sweep, guint64 host, guint64 length, guint32 uses, GError **error)
{
    guint64 first = host / VMB_BLOCK_SIZE;
    if (host < sweep->position)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: offset %" G_GUINT64_FORMAT " of the image is used twice",
                             sweep->reader->label, host);
    if (!check_padding(sweep, host, error) || !compare_refcounts(sweep, first, error))
        return FALSE;
    sweep->counts[0] += uses;
    if ((host + length - 1) / VMB_BLOCK_SIZE != first)
        sweep->counts[1] += uses;
    sweep->position = host + length;
    return TRUE;
}

/* Accounts for the tables that lie before @host. */
static gboolean
account_tables(Sweep *sweep, guint64 host, GError **error)
{
    for (; sweep->next_table < sweep->tables->len; sweep->next_table++) {
        const VmbQcow2Table *table =
            &g_array_index(sweep->tables, VmbQcow2Table, sweep->next_table);
        if (table->host >= host)
            break;
        if (!account(sweep, table->host, VMB_BLOCK_SIZE, table->uses, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
account_item(Sweep *sweep, guint64 item, GError **error)
{
    VmbQcow2Reader *reader = sweep->reader;
    guint64 host = sweep->start + (item >> ITEM_OFFSET_SHIFT);
    guint64 sectors = item >> ITEM_SECTORS_SHIFT & VMB_QCOW2_FRAME_SECTORS_MAX;
    guint32 length = VMB_BLOCK_SIZE;
    if (!account_tables(sweep, host, error))
        return FALSE;
    if (item & 1) {
        guint64 limit = (sectors + 1) * VMB_QCOW2_SECTOR - host % VMB_QCOW2_SECTOR;
        limit = MIN(MIN(limit, VMB_BLOCK_SIZE), reader->file_size - host);
        if (!vmb_zstd_frame_length(reader->fd, host, (guint32)limit, &length, reader->label, error))
            return FALSE;
        if (vmb_qcow2_frame_sectors(host, length) != sectors)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: the zstd frame at offset %" G_GUINT64_FORMAT
                                 " of the image has %u bytes, but its table says otherwise",
                                 reader->label, host, length);
    }
    return account(sweep, host, length, 1, error);
}

/* Makes the window shorter, because its blocks are too many. */
static gboolean
halve_window(Sweep *sweep, GError **error)
{
    guint64 length = vmb_round_down((sweep->end - sweep->start) / 2, VMB_BLOCK_SIZE);
    guint kept = 0;
    if (length == 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: offset %" G_GUINT64_FORMAT " of the image is used many times",
                             sweep->reader->label, sweep->start);
    for (guint i = 0; i < sweep->n_items; i++)
        if (sweep->items[i] >> ITEM_OFFSET_SHIFT < length)
            sweep->items[kept++] = sweep->items[i];
    sweep->n_items = kept;
    sweep->end = sweep->start + length;
    return TRUE;
}

/* Adds the blocks of an L2 table that begin in the window. */
static gboolean
add_items(Sweep *sweep, const VmbQcow2Table *table, GError **error)
{
    VmbQcow2Reader *reader = sweep->reader;
    if (!vmb_qcow2_reader_cluster(reader, table->host, reader->l2, error))
        return FALSE;
    for (guint i = 0; i < VMB_QCOW2_L2_ENTRIES; i++) {
        guint64 raw = GUINT64_FROM_BE(reader->l2[i]);
        VmbQcow2Entry entry;
        if (!vmb_qcow2_reader_entry(reader, raw, &entry))
            return vmb_qcow2_reader_bad_entry(
                reader, (guint64)table->index * VMB_QCOW2_L2_ENTRIES + i, raw, error);
        if (entry.length == 0 || entry.host_offset < sweep->start)
            continue;
        while (entry.host_offset < sweep->end && sweep->n_items == MAX_ITEMS)
            if (!halve_window(sweep, error))
                return FALSE;
        if (entry.host_offset >= sweep->end)
            continue;
        guint64 item = (entry.host_offset - sweep->start) << ITEM_OFFSET_SHIFT;
        if (entry.kind == VMB_BLOCK_COMPRESSED) {
            guint64 sectors = raw >> VMB_QCOW2_FRAME_OFFSET_BITS & VMB_QCOW2_FRAME_SECTORS_MAX;
            item |= sectors << ITEM_SECTORS_SHIFT | 1;
        }
        sweep->items[sweep->n_items++] = item;
    }
    return TRUE;
}

static int
compare_items(const void *a, const void *b)
{
    guint64 x = *(const guint64 *)a, y = *(const guint64 *)b;
    return x < y ? -1 : x > y;
}

static void
sort_items(Sweep *sweep)
{
    for (guint i = 1; i < sweep->n_items; i++)
        if (sweep->items[i] < sweep->items[i - 1]) {
            qsort(sweep->items, sweep->n_items, sizeof *sweep->items, compare_items);
            return;
        }
}

/* TRUE if a block of the table may begin in the window. */
static gboolean
touches_window(const Sweep *sweep, const VmbQcow2Table *table)
{
    guint64 file_size = sweep->reader->file_size;
    guint last = vmb_qcow2_part(sweep->end - 1, file_size);
    for (guint part = vmb_qcow2_part(sweep->start, file_size); part <= last; part++)
        if (table->parts[part / 64] >> part % 64 & 1)
            return TRUE;
    return FALSE;
}

static gboolean
sweep_window(Sweep *sweep, GError **error)
{
    sweep->n_items = 0;
    for (guint i = 0; i < sweep->tables->len; i++) {
        const VmbQcow2Table *table = &g_array_index(sweep->tables, VmbQcow2Table, i);
        if (touches_window(sweep, table) && !add_items(sweep, table, error))
            return FALSE;
    }
    sort_items(sweep);
    for (guint i = 0; i < sweep->n_items; i++)
        if (!account_item(sweep, sweep->items[i], error))
            return FALSE;
    return TRUE;
}

static gboolean
sweep_file(Sweep *sweep, GError **error)
{
    guint64 file_size = sweep->reader->file_size;
    guint64 length = MAX_WINDOW;
    for (sweep->start = 0; sweep->start < file_size; sweep->start = sweep->end) {
        sweep->end = sweep->start + MIN(length, file_size - sweep->start);
        if (!sweep_window(sweep, error))
            return FALSE;
        length = vmb_round_up(sweep->end - sweep->start, VMB_BLOCK_SIZE);
        if (sweep->n_items < MAX_ITEMS / 4)
            length = MIN(2 * length, MAX_WINDOW);
    }
    /* What follows the last block, and the counts of clusters that are not there. */
    return account_tables(sweep, G_MAXUINT64, error) && check_padding(sweep, file_size, error) &&
           compare_refcounts(
               sweep, vmb_round_up(file_size, VMB_QCOW2_REFBLOCK_SPAN) / VMB_BLOCK_SIZE, error);
}

gboolean
vmb_qcow2_sweep(VmbQcow2Reader *reader, const GArray *tables, const guint64 *reftable,
                guint64 reftable_entries, GError **error)
{
    g_autofree guint16 *refblock = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint8 *padding = g_malloc(VMB_BLOCK_SIZE);
    g_autofree guint64 *items = g_new(guint64, MAX_ITEMS);
    Sweep sweep = {
        .reader = reader,
        .tables = tables,
        .reftable = reftable,
        .reftable_entries = reftable_entries,
        .refblock = refblock,
        .segment = NOT_LOADED,
        .padding = padding,
        .items = items,
    };
    return sweep_file(&sweep, error);
}
