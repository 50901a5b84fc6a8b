/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes a qcow2 image once, from its first block to its last, in memory independent of its size.
 */
#include "image/qcow2-writer.h"
#include "block/digest.h"
#include "image/qcow2-alloc.h"
#include "image/qcow2-header.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>

#define NO_TABLE G_MAXUINT64

struct VmbQcow2Writer {
    int fd;
    char *label;
    VmbQcow2Header header;
    VmbQcow2Alloc *alloc;
    guint64 *l1;            /* big-endian, whole clusters */
    guint64 n_blocks;       /* of the disk */
    guint64 next_block;     /* smallest one that may still come */
    guint64 *l2;            /* big-endian, the table of the current 512 MiB */
    guint64 l2_index;       /* NO_TABLE: none yet */
    guint l2_zero, l2_data; /* entries in use */
    guint64 shared_host;    /* the table of zeroes that further entries may share; 0: none */
    guint64 shared_first;   /* L1 index that used it first */
    VmbQcow2Summary summary;
};

static gboolean
check_options(int fd, const VmbQcow2WriterOptions *options, GError **error)
{
    struct stat st;
    if (options->size == 0 || options->size > VMB_SIZE_MAX)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: a disk of %" G_GUINT64_FORMAT " bytes cannot be written",
                             options->label, options->size);
    if (options->backing_file != NULL &&
        (options->backing_file[0] == '\0' || strlen(options->backing_file) > VMB_QCOW2_NAME_MAX))
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: the backing file name must have 1 to %u bytes", options->label,
                             VMB_QCOW2_NAME_MAX);
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s: cannot stat it", options->label);
    if (!S_ISREG(st.st_mode) || st.st_size != 0)
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: is not an empty regular file",
                             options->label);
    return TRUE;
}

VmbQcow2Writer *
vmb_qcow2_writer_new(int fd, const VmbQcow2WriterOptions *options, GError **error)
{
    if (!check_options(fd, options, error))
        return NULL;
    VmbQcow2Writer *writer = g_new0(VmbQcow2Writer, 1);
    VmbQcow2Header *header = &writer->header;
    guint64 l1_clusters;
    header->size = vmb_round_up(options->size, VMB_QCOW2_SECTOR);
    header->compressed = options->compressed;
    header->l1_entries = vmb_qcow2_l1_entries(header->size);
    l1_clusters = vmb_qcow2_table_clusters(header->l1_entries);
    header->l1_offset = VMB_BLOCK_SIZE;
    header->reftable_offset = header->l1_offset + l1_clusters * VMB_BLOCK_SIZE;
    header->reftable_clusters = (guint32)vmb_qcow2_reftable_clusters(header->size);
    if (options->backing_file != NULL)
        g_strlcpy(header->backing_file, options->backing_file, sizeof header->backing_file);
    writer->fd = fd;
    writer->label = g_strdup(options->label);
    writer->l1 = g_new0(guint64, l1_clusters * VMB_QCOW2_TABLE_ENTRIES);
    writer->l2 = g_new0(guint64, VMB_QCOW2_L2_ENTRIES);
    writer->l2_index = NO_TABLE;
    writer->n_blocks = vmb_round_up(header->size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE;
    writer->alloc = vmb_qcow2_alloc_new(fd, 1 + l1_clusters + header->reftable_clusters,
                                        header->reftable_clusters, options->label);
    return writer;
}

void
vmb_qcow2_writer_free(VmbQcow2Writer *writer)
{
    if (writer == NULL)
        return;
    vmb_qcow2_alloc_free(writer->alloc);
    g_free(writer->l1);
    g_free(writer->l2);
    g_free(writer->label);
    g_free(writer);
}

/* Lets L1 entry @index point to a table in which every block is zero. Such tables are shared, as
 * far as their 16-bit count goes and while that count is still in memory. */
static gboolean
put_zero_table(VmbQcow2Writer *writer, guint64 index, GError **error)
{
    guint64 host;
    if (writer->shared_host != 0 && vmb_qcow2_alloc_share(writer->alloc, writer->shared_host)) {
        writer->l1[index] = GUINT64_TO_BE(writer->shared_host);
        writer->l1[writer->shared_first] = writer->l1[index]; /* no COPIED flag any more */
        return TRUE;
    }
    g_autofree guint64 *table = g_new(guint64, VMB_QCOW2_L2_ENTRIES);
    for (guint i = 0; i < VMB_QCOW2_L2_ENTRIES; i++)
        table[i] = GUINT64_TO_BE(VMB_QCOW2_ZERO);
    if (!vmb_qcow2_alloc_table(writer->alloc, table, &host, error))
        return FALSE;
    writer->shared_host = host;
    writer->shared_first = index;
    writer->l1[index] = GUINT64_TO_BE(host | VMB_QCOW2_COPIED);
    return TRUE;
}

/* Writes the current table if anything is in it. */
static gboolean
flush_table(VmbQcow2Writer *writer, GError **error)
{
    guint64 host, index = writer->l2_index;
    guint used = writer->l2_data + writer->l2_zero;
    writer->l2_index = NO_TABLE;
    if (index == NO_TABLE || used == 0)
        return TRUE;
    if (writer->l2_zero == VMB_QCOW2_L2_ENTRIES)
        return put_zero_table(writer, index, error);
    if (!vmb_qcow2_alloc_table(writer->alloc, writer->l2, &host, error))
        return FALSE;
    writer->l1[index] = GUINT64_TO_BE(host | VMB_QCOW2_COPIED);
    return TRUE;
}

static gboolean
select_table(VmbQcow2Writer *writer, guint64 index, GError **error)
{
    if (writer->l2_index == index)
        return TRUE;
    if (!flush_table(writer, error))
        return FALSE;
    memset(writer->l2, 0, VMB_BLOCK_SIZE);
    writer->l2_index = index;
    writer->l2_data = writer->l2_zero = 0;
    return TRUE;
}

/* Checks that @n_blocks blocks at @offset come next, and takes note of them. */
static gboolean
advance(VmbQcow2Writer *writer, guint64 offset, guint64 n_blocks, GError **error)
{
    guint64 block = offset / VMB_BLOCK_SIZE;
    if (offset % VMB_BLOCK_SIZE != 0 || block < writer->next_block || block > writer->n_blocks ||
        n_blocks > writer->n_blocks - block)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: %" G_GUINT64_FORMAT " blocks at disk offset %" G_GUINT64_FORMAT
                             " do not fit after offset %" G_GUINT64_FORMAT
                             " of a disk of %" G_GUINT64_FORMAT " bytes",
                             writer->label, n_blocks, offset, writer->next_block * VMB_BLOCK_SIZE,
                             writer->header.size);
    writer->next_block = block + n_blocks;
    return TRUE;
}

static gboolean
check_stored(VmbQcow2Writer *writer, guint64 offset, VmbBlockKind kind, guint32 stored_length,
             GError **error)
{
    if ((kind == VMB_BLOCK_PLAIN && stored_length == VMB_BLOCK_SIZE) ||
        (kind == VMB_BLOCK_COMPRESSED && writer->header.compressed && stored_length > 0 &&
         stored_length <= VMB_BLOCK_SIZE))
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_FAILED,
                         "%s: a block of kind %d with %u bytes at disk offset %" G_GUINT64_FORMAT
                         " cannot be stored in this image",
                         writer->label, (int)kind, stored_length, offset);
}

gboolean
vmb_qcow2_writer_block(VmbQcow2Writer *writer, guint64 offset, VmbBlockKind kind,
                       const guint8 *stored, guint32 stored_length, GError **error)
{
    guint64 host, entry, block = offset / VMB_BLOCK_SIZE;
    if (!check_stored(writer, offset, kind, stored_length, error) ||
        !advance(writer, offset, 1, error) ||
        !select_table(writer, block / VMB_QCOW2_L2_ENTRIES, error))
        return FALSE;
    if (kind == VMB_BLOCK_PLAIN) {
        if (!vmb_qcow2_alloc_plain(writer->alloc, stored, &host, error))
            return FALSE;
        entry = host | VMB_QCOW2_COPIED;
    } else {
        if (!vmb_qcow2_alloc_frame(writer->alloc, stored, stored_length, &host, error))
            return FALSE;
        entry = vmb_qcow2_frame_entry(host, stored_length);
    }
    writer->l2[block % VMB_QCOW2_L2_ENTRIES] = GUINT64_TO_BE(entry);
    writer->l2_data++;
    writer->summary.data_blocks++;
    writer->summary.stored_bytes += stored_length;
    return TRUE;
}

gboolean
vmb_qcow2_writer_zero(VmbQcow2Writer *writer, guint64 offset, guint64 length, GError **error)
{
    guint64 block = offset / VMB_BLOCK_SIZE;
    guint64 n_blocks = length / VMB_BLOCK_SIZE + (length % VMB_BLOCK_SIZE != 0);
    if (length % VMB_BLOCK_SIZE != 0 &&
        vmb_round_up(length, VMB_QCOW2_SECTOR) != writer->header.size - offset)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: zeroes of %" G_GUINT64_FORMAT
                             " bytes at disk offset %" G_GUINT64_FORMAT " do not end with a block",
                             writer->label, length, offset);
    if (!advance(writer, offset, n_blocks, error))
        return FALSE;
    if (writer->header.backing_file[0] == '\0')
        return TRUE; /* absent reads as zero */
    writer->summary.zero_blocks += n_blocks;
    while (n_blocks > 0) {
        guint64 index = block / VMB_QCOW2_L2_ENTRIES;
        guint first = (guint)(block % VMB_QCOW2_L2_ENTRIES);
        guint count = (guint)MIN(n_blocks, VMB_QCOW2_L2_ENTRIES - first);
        if (count == VMB_QCOW2_L2_ENTRIES) {
            if (!flush_table(writer, error) || !put_zero_table(writer, index, error))
                return FALSE;
        } else {
            if (!select_table(writer, index, error))
                return FALSE;
            for (guint i = first; i < first + count; i++)
                writer->l2[i] = GUINT64_TO_BE(VMB_QCOW2_ZERO);
            writer->l2_zero += count;
        }
        block += count;
        n_blocks -= count;
    }
    return TRUE;
}

/* Header, L1 and refcount table; the header goes last, so that a torn image is none. */
static gboolean
write_front(VmbQcow2Writer *writer, const guint64 *reftable, GError **error)
{
    const VmbQcow2Header *header = &writer->header;
    gsize l1_length = (gsize)(header->reftable_offset - header->l1_offset);
    gsize reftable_length = (gsize)header->reftable_clusters * VMB_BLOCK_SIZE;
    g_autofree guint8 *cluster = g_malloc(VMB_BLOCK_SIZE);
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    vmb_qcow2_header_encode(header, cluster);
    vmb_digest_update(digest, cluster, VMB_BLOCK_SIZE);
    vmb_digest_update(digest, writer->l1, l1_length);
    vmb_digest_update(digest, reftable, reftable_length);
    vmb_digest_finish(digest, writer->summary.head_digest);
    return vmb_fs_pwrite(writer->fd, writer->l1, l1_length, header->l1_offset, writer->label,
                         error) &&
           vmb_fs_pwrite(writer->fd, reftable, reftable_length, header->reftable_offset,
                         writer->label, error) &&
           vmb_fs_pwrite(writer->fd, cluster, VMB_BLOCK_SIZE, 0, writer->label, error);
}

gboolean
vmb_qcow2_writer_finish(VmbQcow2Writer *writer, VmbQcow2Summary *summary, GError **error)
{
    const guint64 *reftable;
    if (!flush_table(writer, error) ||
        !vmb_qcow2_alloc_finish(writer->alloc, &writer->summary.file_size,
                                writer->summary.tables_digest, &reftable, error) ||
        !write_front(writer, reftable, error))
        return FALSE;
    writer->next_block = writer->n_blocks;
    if (summary != NULL)
        *summary = writer->summary;
    return TRUE;
}
