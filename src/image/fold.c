/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Folding: an image takes up what the image above it holds, and never looks different to a reader meanwhile. */
#include "image/fold.h"
#include "block/digest.h"
#include "image/fold-alloc.h"
#include "image/fold-check.h"
#include "image/fold-copy.h"
#include "image/fold-digests.h"
#include "image/zstd-frame.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"

#include <errno.h>

G_DEFINE_QUARK(vmb-fold-impossible, vmb_fold_impossible)

gboolean
vmb_fold_impossible(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, VMB_FOLD_IMPOSSIBLE, 0, message);
    return FALSE;
}

void
vmb_fold_result_clear(VmbFoldResult *result)
{
    g_clear_pointer(&result->damage, g_array_unref);
}

typedef struct {
    const VmbFoldOptions *options;
    VmbFoldResult *result;
    VmbQcow2Reader *parent, *child;
    VmbFoldAlloc *alloc;
    VmbFoldCopy *copy;
    gboolean full; /* the parent has no backing file: what is absent is zero */
    guint64 *l1;   /* big-endian, whole clusters */
    guint64 l1_clusters;
    guint64 *table;         /* the new one, big-endian */
    guint64 zero_host;      /* a table that says "zero" for all of its blocks; 0: none yet */
    guint64 copied, hidden; /* stored bytes */
    guint8 *header;         /* the new first cluster */
} Fold;

/* ---- one table ---- */

/* How many blocks of a disk of @n_blocks table @index tells of. */
static guint
blocks_of_table(guint64 n_blocks, guint64 index)
{
    guint64 first = index * VMB_QCOW2_L2_ENTRIES;
    return n_blocks <= first ? 0 : (guint)MIN(n_blocks - first, VMB_QCOW2_L2_ENTRIES);
}

/* Nobody will see this block of the parent any more. */
static gboolean
drop(Fold *fold, guint64 block, guint64 raw, GError **error)
{
    VmbQcow2Entry entry;
    guint32 length = VMB_BLOCK_SIZE;
    if (!vmb_qcow2_reader_entry(fold->parent, raw, &entry))
        return vmb_qcow2_reader_bad_entry(fold->parent, block, raw, error);
    if (entry.length == 0)
        return TRUE;
    if (entry.kind == VMB_BLOCK_COMPRESSED &&
        !vmb_zstd_frame_length(fold->parent->fd, entry.host_offset, entry.length, &length,
                               fold->parent->label, NULL))
        length = entry.length;
    fold->hidden += length;
    /* It counts where its entry says: nothing that damage has done to the frame itself changes that. */
    guint64 last = entry.host_offset + VMB_BLOCK_SIZE - 1;
    if (entry.kind == VMB_BLOCK_COMPRESSED)
        last = (entry.host_offset / VMB_QCOW2_SECTOR +
                (raw >> VMB_QCOW2_FRAME_OFFSET_BITS & VMB_QCOW2_FRAME_SECTORS_MAX)) *
               VMB_QCOW2_SECTOR;
    return vmb_fold_alloc_ref(fold->alloc, entry.host_offset,
                              MAX(last, entry.host_offset) + 1 - entry.host_offset, -1, error);
}

/* A block that the child leaves to the parent, and that the end of the one or the other cuts: what lies behind
 * that end would come to light. Backups store such a block anew, so that this is seldom. */
static gboolean
is_cut(const Fold *fold, guint64 block, guint64 raw)
{
    guint64 parent_size = fold->options->parent.size, child_size = fold->options->child.size;
    if (child_size < parent_size)
        return raw > VMB_QCOW2_ZERO && child_size % VMB_BLOCK_SIZE != 0 && block == child_size / VMB_BLOCK_SIZE;
    return raw == 0 && !fold->full && child_size > parent_size &&
           parent_size % VMB_BLOCK_SIZE != 0 && block == parent_size / VMB_BLOCK_SIZE;
}

static gboolean
fail_cut(const Fold *fold, guint64 block, GError **error)
{
    return vmb_fold_impossible(error,
                         "%s: the block at disk offset %" G_GUINT64_FORMAT
                         " is cut by the end of a shorter image",
                         fold->options->child.label, block * VMB_BLOCK_SIZE);
}

static gboolean
copy_block(Fold *fold, guint64 block, const VmbQcow2Entry *entry, guint64 *raw, GError **error)
{
    guint32 length = 0;
    if (!vmb_fold_copy_block(fold->copy, entry, raw, &length, error)) {
        g_prefix_error(error, "%s, disk offset %" G_GUINT64_FORMAT ": ",
                       fold->options->child.label, block * VMB_BLOCK_SIZE);
        return FALSE;
    }
    fold->copied += length;
    if (fold->options->progress != NULL)
        fold->options->progress(length, fold->options->user);
    return TRUE;
}

/* @child, @parent: native entries, 0 where there is none. */
static gboolean
merge_entry(Fold *fold, guint64 block, guint64 child, guint64 parent, gboolean in_parent,
            guint64 *raw, GError **error)
{
    const guint64 zero = fold->full ? 0 : VMB_QCOW2_ZERO;
    VmbQcow2Entry entry;
    if (!vmb_qcow2_reader_entry(fold->child, child, &entry))
        return vmb_qcow2_reader_bad_entry(fold->child, block, child, error);
    if (entry.kind == VMB_BLOCK_ABSENT) {
        if (is_cut(fold, block, parent))
            return fail_cut(fold, block, error);
        *raw = in_parent ? parent : zero;
        return TRUE;
    }
    *raw = zero;
    return (entry.kind == VMB_BLOCK_ZERO || copy_block(fold, block, &entry, raw, error)) &&
           (!in_parent || drop(fold, block, parent, error));
}

/* The table of zeroes that L1 entries share; who is alone with one gets its flag in the end. */
static gboolean
use_zero_table(Fold *fold, guint64 *host, GError **error)
{
    guint16 count = 0;
    if (fold->zero_host != 0) {
        if (!vmb_fold_alloc_count(fold->alloc, fold->zero_host, &count, error))
            return FALSE;
        if (count < VMB_QCOW2_REFCOUNT_MAX) {
            *host = fold->zero_host;
            return vmb_fold_alloc_ref(fold->alloc, *host, 1, 1, error);
        }
    }
    if (!vmb_fold_alloc_take(fold->alloc, 1, 1, host, error))
        return FALSE;
    fold->zero_host = *host;
    return vmb_fs_pwrite(fold->parent->fd, fold->table, VMB_BLOCK_SIZE, *host, fold->parent->label,
                         error);
}

static gboolean
put_table(Fold *fold, guint64 index, GError **error)
{
    guint used = 0, zeroes = 0;
    guint64 host = 0;
    for (guint i = 0; i < VMB_QCOW2_L2_ENTRIES; i++) {
        used += fold->table[i] != 0;
        zeroes += fold->table[i] == GUINT64_TO_BE(VMB_QCOW2_ZERO);
    }
    if (used == 0)
        return TRUE;
    if (zeroes == VMB_QCOW2_L2_ENTRIES) {
        if (!use_zero_table(fold, &host, error))
            return FALSE;
        fold->l1[index] = GUINT64_TO_BE(host);
        return TRUE;
    }
    fold->l1[index] = 0;
    if (!vmb_fold_alloc_take(fold->alloc, 1, 1, &host, error))
        return FALSE;
    fold->l1[index] = GUINT64_TO_BE(host | VMB_QCOW2_COPIED);
    return vmb_fs_pwrite(fold->parent->fd, fold->table, VMB_BLOCK_SIZE, host, fold->parent->label,
                         error);
}

/* Writes the table of 512 MiB anew. The tables of both have been read. */
static gboolean
merge_table(Fold *fold, guint64 index, gboolean in_child, gboolean in_parent, GError **error)
{
    guint n = blocks_of_table(fold->child->n_blocks, index);
    guint n_parent = blocks_of_table(fold->parent->n_blocks, index);
    memset(fold->table, 0, VMB_BLOCK_SIZE);
    for (guint i = 0; i < MAX(n, n_parent); i++) {
        guint64 block = index * VMB_QCOW2_L2_ENTRIES + i, raw = 0;
        guint64 child = in_child && i < n ? GUINT64_FROM_BE(fold->child->l2[i]) : 0;
        guint64 parent = in_parent && i < n_parent ? GUINT64_FROM_BE(fold->parent->l2[i]) : 0;
        if (i < n ? !merge_entry(fold, block, child, parent, i < n_parent, &raw, error)
                  : !drop(fold, block, parent, error))
            return FALSE;
        fold->table[i] = GUINT64_TO_BE(raw);
    }
    return put_table(fold, index, error);
}

/* TRUE if a block of table @index may be cut: see is_cut(). */
static gboolean
is_boundary(const Fold *fold, guint64 index)
{
    guint64 parent = fold->options->parent.size, child = fold->options->child.size;
    return parent != child &&
           ((parent % VMB_BLOCK_SIZE != 0 && parent / VMB_QCOW2_L2_SPAN == index) ||
            (child % VMB_BLOCK_SIZE != 0 && child / VMB_QCOW2_L2_SPAN == index));
}

/* Table @index of both as it will be; most of them stay as they are. */
static gboolean
fold_table(Fold *fold, guint64 index, GError **error)
{
    guint n = blocks_of_table(fold->child->n_blocks, index), n_read = 0;
    guint n_parent = blocks_of_table(fold->parent->n_blocks, index);
    guint64 host = 0;
    gboolean in_child = FALSE, in_parent = FALSE, copied = FALSE;
    if (!vmb_qcow2_reader_load(fold->child, index, &n_read, &in_child, error) ||
        (n_parent > 0 && !vmb_qcow2_reader_l1(fold->parent, index, &host, &copied, error)))
        return FALSE;
    gboolean longer = n_parent > n && host != 0;
    gboolean shorter = n_parent < n && !fold->full;
    if (!in_child && !longer && !shorter && !is_boundary(fold, index) && n > 0) {
        fold->l1[index] = n_parent > 0 ? fold->parent->l1[index] : 0;
        return TRUE;
    }
    if (n_parent > 0 && !vmb_qcow2_reader_load(fold->parent, index, &n_read, &in_parent, error))
        return FALSE;
    return merge_table(fold, index, in_child, in_parent, error) &&
           (host == 0 || vmb_fold_alloc_ref(fold->alloc, host, 1, -1, error));
}

static gboolean
fold_tables(Fold *fold, GError **error)
{
    guint64 n = MAX(fold->child->header.l1_entries, fold->parent->header.l1_entries);
    for (guint64 index = 0; index < n; index++) {
        if (g_cancellable_is_cancelled(fold->options->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED, "%s: cancelled",
                                 fold->options->child.label);
        if (!fold_table(fold, index, error))
            return FALSE;
    }
    return vmb_fold_copy_finish(fold->copy, error) && vmb_fault_point("fold-copied", error);
}

/* ---- what leads to the tables ---- */

/* The flag for a table with one user: the number of users of a shared one may have changed. */
static void
set_flags(Fold *fold)
{
    g_autoptr(GHashTable) users = g_hash_table_new(g_int64_hash, g_int64_equal);
    guint32 n = fold->child->header.l1_entries;
    for (guint32 i = 0; i < n; i++)
        if (fold->l1[i] != 0 && (GUINT64_FROM_BE(fold->l1[i]) & VMB_QCOW2_COPIED) == 0) {
            guint count = GPOINTER_TO_UINT(g_hash_table_lookup(users, &fold->l1[i]));
            g_hash_table_insert(users, &fold->l1[i], GUINT_TO_POINTER(count + 1));
        }
    g_autofree guint64 *l1 = g_memdup2(fold->l1, n * sizeof(guint64));
    for (guint32 i = 0; i < n; i++)
        if (GPOINTER_TO_UINT(g_hash_table_lookup(users, &fold->l1[i])) == 1)
            l1[i] |= GUINT64_TO_BE(VMB_QCOW2_COPIED);
    memcpy(fold->l1, l1, n * sizeof(guint64));
}

static gboolean
write_l1(Fold *fold, VmbQcow2Header *header, GError **error)
{
    guint64 old = vmb_qcow2_table_clusters(fold->parent->header.l1_entries) * VMB_BLOCK_SIZE;
    set_flags(fold);
    return vmb_fold_alloc_take(fold->alloc, fold->l1_clusters, 1, &header->l1_offset, error) &&
           vmb_fold_alloc_ref(fold->alloc, fold->parent->header.l1_offset, old, -1, error) &&
           vmb_fs_pwrite(fold->parent->fd, fold->l1, fold->l1_clusters * VMB_BLOCK_SIZE,
                         header->l1_offset, fold->parent->label, error);
}

static gboolean
make_header(Fold *fold, VmbQcow2Header *header, GError **error)
{
    VmbFoldResult *result = fold->result;
    fold->header = g_malloc(VMB_BLOCK_SIZE);
    vmb_qcow2_header_encode(header, fold->header);
    for (guint i = VMB_FOLD_HEADER; i < VMB_BLOCK_SIZE; i++)
        if (fold->header[i] != 0)
            return vmb_fold_impossible(error,
                                 "%s: the header is longer than a sector, so that it cannot be "
                                 "switched", fold->parent->label);
    memcpy(result->header, fold->header, VMB_FOLD_HEADER);
    return vmb_fold_read_header(fold->parent->fd, result->old_header, fold->parent->label, error);
}

static gboolean
write_tables(Fold *fold, GError **error)
{
    VmbQcow2Header header = fold->parent->header;
    header.size = fold->child->header.size;
    header.l1_entries = fold->child->header.l1_entries;
    header.compressed = fold->result->compressed;
    if (!write_l1(fold, &header, error) ||
        !vmb_fold_alloc_finish(fold->alloc, &header.reftable_offset, &header.reftable_clusters,
                               &fold->result->summary.file_size, error))
        return FALSE;
    /* A place at the end that was taken for something that needed less is part of the file, too. */
    if (ftruncate(fold->parent->fd, (off_t)fold->result->summary.file_size) < 0)
        return vmb_error_errno(error, errno, "cannot make %s longer", fold->parent->label);
    return make_header(fold, &header, error) &&
           vmb_fs_sync(fold->parent->fd, fold->parent->label, error) &&
           vmb_fault_point("fold-tables", error);
}

static gboolean
summarise(Fold *fold, GError **error)
{
    VmbQcow2Summary *summary = &fold->result->summary;
    const VmbFoldImage *parent = &fold->options->parent;
    VmbQcow2Counts counts = {0};
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open_as(fold->parent->fd, fold->header, fold->child->header.size,
                                 parent->label, error);
    if (reader == NULL || !vmb_qcow2_reader_metadata(reader, summary->head_digest,
                                                     summary->tables_digest, &counts, error))
        return FALSE;
    /* Of damaged frames only a bound is known. */
    fold->hidden = MIN(fold->hidden, parent->stored_bytes);
    summary->data_blocks = counts.data_blocks;
    summary->zero_blocks = counts.zero_blocks;
    summary->stored_bytes = parent->stored_bytes - fold->hidden + fold->copied;
    fold->result->copied_bytes = fold->copied;
    fold->result->hidden_bytes = fold->hidden;
    return TRUE;
}

/* ---- the whole ---- */

static gboolean
open_images(Fold *fold, GError **error)
{
    const VmbFoldImage *parent = &fold->options->parent, *child = &fold->options->child;
    fold->parent = vmb_qcow2_reader_open(parent->image_fd, parent->size, parent->label, error);
    if (fold->parent == NULL)
        return FALSE;
    fold->child = vmb_qcow2_reader_open(child->image_fd, child->size, child->label, error);
    if (fold->child == NULL)
        return FALSE;
    if (vmb_qcow2_reader_backing_file(fold->child) == NULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the image's header names no backing file, but the point has a "
                             "parent", child->label);
    fold->full = vmb_qcow2_reader_backing_file(fold->parent) == NULL;
    fold->result->compressed = fold->parent->header.compressed || fold->child->header.compressed;
    fold->result->old_size = fold->parent->file_size;
    fold->alloc = vmb_fold_alloc_new(fold->parent, error);
    if (fold->alloc == NULL)
        return FALSE;
    fold->copy = vmb_fold_copy_new(fold->child, parent->image_fd, fold->alloc);
    fold->l1_clusters = vmb_qcow2_table_clusters(fold->child->header.l1_entries);
    /* Both L1 tables fit: entries behind the new end are looked at as well, and not written. */
    guint64 clusters = MAX(fold->l1_clusters,
                           vmb_qcow2_table_clusters(fold->parent->header.l1_entries));
    fold->l1 = g_new0(guint64, clusters * VMB_QCOW2_TABLE_ENTRIES);
    fold->table = g_new(guint64, VMB_QCOW2_L2_ENTRIES);
    return TRUE;
}

static void
fold_clear(Fold *fold)
{
    vmb_fold_copy_free(fold->copy);
    vmb_fold_alloc_free(fold->alloc);
    vmb_qcow2_reader_free(fold->parent);
    vmb_qcow2_reader_free(fold->child);
    g_free(fold->l1);
    g_free(fold->table);
    g_free(fold->header);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Fold, fold_clear)

gboolean
vmb_fold_append(const VmbFoldOptions *options, VmbFoldResult *result, GError **error)
{
    g_auto(Fold) fold = {.options = options, .result = result};
    result->damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    if (!open_images(&fold, error) || !fold_tables(&fold, error) || !write_tables(&fold, error) ||
        !summarise(&fold, error) || !vmb_fold_digests(options, fold.full, result, error) ||
        !vmb_fs_sync(options->digests_out, options->child.label, error))
        return FALSE;
    return vmb_fold_check(options, fold.header, result, error) &&
           vmb_fault_point("fold-checked", error);
}

gboolean
vmb_fold_metadata(int image_fd, guint64 size, const char *label,
                  guint8 head_digest[VMB_DIGEST_SIZE], guint8 tables_digest[VMB_DIGEST_SIZE],
                  GError **error)
{
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(image_fd, size, label, error);
    return reader != NULL &&
           vmb_qcow2_reader_metadata(reader, head_digest, tables_digest, NULL, error);
}
