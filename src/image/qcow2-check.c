/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checks a whole image: digests of its tables, their flags and entries, refcounts and padding. */
#include "block/digest.h"
#include "image/qcow2-check-private.h"
#include "util/error.h"
#include "util/fsio.h"

typedef struct {
    VmbQcow2Reader *reader;
    GArray *tables;    /* VmbQcow2Table */
    guint64 *reftable; /* big-endian */
    guint64 reftable_entries;
    VmbQcow2Counts counts;
} Check;

static gboolean
damage(const Check *check, guint64 host, const char *what, GError **error)
{
    return vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s: offset %" G_GUINT64_FORMAT " of the image: %s", check->reader->label,
                         host, what);
}

static void
add_table(Check *check, VmbQcow2TableKind kind, guint64 host, guint32 index, gboolean copied)
{
    VmbQcow2Table table = {
        .host = host, .index = index, .uses = 1, .copied = copied ? 1 : 0, .kind = kind};
    g_array_append_val(check->tables, table);
}

static void
add_head(Check *check, guint64 host, guint64 clusters)
{
    for (guint64 i = 0; i < clusters; i++)
        add_table(check, VMB_QCOW2_TABLE_HEAD, host + i * VMB_BLOCK_SIZE, 0, FALSE);
}

static int
compare_tables(gconstpointer a, gconstpointer b)
{
    guint64 x = ((const VmbQcow2Table *)a)->host, y = ((const VmbQcow2Table *)b)->host;
    return x < y ? -1 : x > y;
}

/* Sorts the tables and makes one of L2 tables that several L1 entries share. */
static gboolean
merge_tables(Check *check, GError **error)
{
    VmbQcow2Table *all = (VmbQcow2Table *)(void *)check->tables->data;
    guint n = 0;
    g_array_sort(check->tables, compare_tables);
    for (guint i = 0; i < check->tables->len; i++) {
        if (n == 0 || all[n - 1].host != all[i].host) {
            all[n++] = all[i];
            continue;
        }
        if (all[n - 1].kind != VMB_QCOW2_TABLE_L2 || all[i].kind != VMB_QCOW2_TABLE_L2)
            return damage(check, all[i].host, "two tables lie at the same place", error);
        all[n - 1].uses++;
        all[n - 1].copied += all[i].copied;
    }
    g_array_set_size(check->tables, n);
    for (guint i = 0; i < n; i++)
        if (all[i].kind == VMB_QCOW2_TABLE_L2 && all[i].copied != (all[i].uses == 1 ? 1 : 0))
            return damage(check, all[i].host,
                          "the flag for a single reference to this L2 table is wrong", error);
    return TRUE;
}

static gboolean
collect_refblocks(Check *check, GError **error)
{
    const VmbQcow2Reader *reader = check->reader;
    for (guint64 i = 0; i < check->reftable_entries; i++) {
        guint64 host = GUINT64_FROM_BE(check->reftable[i]);
        if (host == 0)
            continue;
        if (host < VMB_BLOCK_SIZE || host % VMB_BLOCK_SIZE != 0 ||
            host > reader->file_size - VMB_BLOCK_SIZE ||
            i * VMB_QCOW2_REFBLOCK_SPAN >= reader->file_size)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: refcount table entry %" G_GUINT64_FORMAT
                                 " is not valid (0x%016" G_GINT64_MODIFIER "x)",
                                 reader->label, i, host);
        add_table(check, VMB_QCOW2_TABLE_REFBLOCK, host, 0, FALSE);
    }
    return TRUE;
}

static gboolean
collect_tables(Check *check, GError **error)
{
    const VmbQcow2Header *header = &check->reader->header;
    add_head(check, 0, 1);
    add_head(check, header->l1_offset, vmb_qcow2_table_clusters(header->l1_entries));
    add_head(check, header->reftable_offset, header->reftable_clusters);
    for (guint32 i = 0; i < header->l1_entries; i++) {
        guint64 host;
        gboolean copied;
        if (!vmb_qcow2_reader_l1(check->reader, i, &host, &copied, error))
            return FALSE;
        if (host != 0)
            add_table(check, VMB_QCOW2_TABLE_L2, host, i, copied);
    }
    return collect_refblocks(check, error) && merge_tables(check, error);
}

/* Reads header, L1 and refcount table once more, as they are, for their digest. */
static gboolean
digest_head(Check *check, guint8 digest[VMB_DIGEST_SIZE], GError **error)
{
    VmbQcow2Reader *reader = check->reader;
    const VmbQcow2Header *header = &reader->header;
    gsize used = header->l1_entries * sizeof(guint64);
    gsize l1_length = (gsize)vmb_round_up(used, VMB_BLOCK_SIZE);
    gsize reftable_length = (gsize)header->reftable_clusters * VMB_BLOCK_SIZE;
    g_autofree guint8 *buffer = g_malloc(MAX(l1_length, VMB_BLOCK_SIZE));
    g_autoptr(VmbDigest) hash = vmb_digest_new();
    /* What was read of the first cluster was accepted only because it is just this. */
    vmb_qcow2_header_encode(header, buffer);
    vmb_digest_update(hash, buffer, VMB_BLOCK_SIZE);
    if (!vmb_fs_pread(reader->fd, buffer, l1_length, header->l1_offset, reader->label, error))
        return FALSE;
    if (memcmp(buffer, reader->l1, used) != 0 || !vmb_zero_detect(buffer + used, l1_length - used))
        return damage(check, header->l1_offset,
                      "the L1 table is followed by stray bytes, or changes while it is read",
                      error);
    vmb_digest_update(hash, buffer, l1_length);
    check->reftable = g_malloc(reftable_length);
    check->reftable_entries = reftable_length / sizeof(guint64);
    if (!vmb_fs_pread(reader->fd, check->reftable, reftable_length, header->reftable_offset,
                      reader->label, error))
        return FALSE;
    vmb_digest_update(hash, check->reftable, reftable_length);
    vmb_digest_finish(hash, digest);
    return TRUE;
}

/* Validates the entries of the L2 table that has been read into reader->l2, and finds in which parts of the
 * file its blocks lie. */
static gboolean
check_l2(Check *check, VmbQcow2Table *table, GError **error)
{
    VmbQcow2Reader *reader = check->reader;
    guint64 first = (guint64)table->index * VMB_QCOW2_L2_ENTRIES;
    for (guint i = 0; i < VMB_QCOW2_L2_ENTRIES; i++) {
        guint64 raw = GUINT64_FROM_BE(reader->l2[i]);
        VmbQcow2Entry entry;
        if (!vmb_qcow2_reader_entry(reader, raw, &entry) ||
            (first + i >= reader->n_blocks && raw != 0) ||
            (table->uses > 1 && entry.kind != VMB_BLOCK_ZERO) ||
            (entry.kind == VMB_BLOCK_PLAIN && (raw & VMB_QCOW2_COPIED) == 0))
            return vmb_qcow2_reader_bad_entry(reader, first + i, raw, error);
        check->counts.zero_blocks += entry.kind == VMB_BLOCK_ZERO ? table->uses : 0;
        if (entry.length == 0)
            continue;
        check->counts.data_blocks++;
        guint part = vmb_qcow2_part(entry.host_offset, reader->file_size);
        table->parts[part / 64] |= G_GUINT64_CONSTANT(1) << part % 64;
    }
    return TRUE;
}

/* Reads all L2 tables and refcount blocks in the order of their offsets. */
static gboolean
digest_tables(Check *check, guint8 digest[VMB_DIGEST_SIZE], GError **error)
{
    VmbQcow2Reader *reader = check->reader;
    g_autoptr(VmbDigest) hash = vmb_digest_new();
    for (guint i = 0; i < check->tables->len; i++) {
        VmbQcow2Table *table = &g_array_index(check->tables, VmbQcow2Table, i);
        if (table->kind == VMB_QCOW2_TABLE_HEAD)
            continue;
        if (!vmb_qcow2_reader_cluster(reader, table->host, reader->l2, error))
            return FALSE;
        vmb_digest_update(hash, reader->l2, VMB_BLOCK_SIZE);
        if (table->kind == VMB_QCOW2_TABLE_L2 && !check_l2(check, table, error))
            return FALSE;
    }
    vmb_digest_finish(hash, digest);
    return TRUE;
}

static gboolean
check_tables(Check *check, guint8 head_digest[VMB_DIGEST_SIZE],
             guint8 tables_digest[VMB_DIGEST_SIZE], GError **error)
{
    return digest_head(check, head_digest, error) && collect_tables(check, error) &&
           digest_tables(check, tables_digest, error);
}

gboolean
vmb_qcow2_reader_metadata(VmbQcow2Reader *reader, guint8 head_digest[VMB_DIGEST_SIZE],
                          guint8 tables_digest[VMB_DIGEST_SIZE], VmbQcow2Counts *counts,
                          GError **error)
{
    g_autoptr(GArray) tables = g_array_new(FALSE, FALSE, sizeof(VmbQcow2Table));
    Check check = {.reader = reader, .tables = tables};
    gboolean ok = check_tables(&check, head_digest, tables_digest, error);
    g_free(check.reftable);
    if (counts != NULL)
        *counts = check.counts;
    return ok;
}

gboolean
vmb_qcow2_reader_check(VmbQcow2Reader *reader, guint8 head_digest[VMB_DIGEST_SIZE],
                       guint8 tables_digest[VMB_DIGEST_SIZE], GError **error)
{
    g_autoptr(GArray) tables = g_array_new(FALSE, FALSE, sizeof(VmbQcow2Table));
    Check check = {.reader = reader, .tables = tables};
    gboolean ok = check_tables(&check, head_digest, tables_digest, error) &&
                  vmb_qcow2_sweep(reader, tables, check.reftable, check.reftable_entries, error);
    g_free(check.reftable);
    return ok;
}
