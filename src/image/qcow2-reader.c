/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads the tables of one qcow2 image of the kind that we write, and trusts nothing in them. */
#include "image/qcow2-reader-private.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>

/* @header: the cluster that counts, or NULL: that of the file. */
static gboolean
read_header(VmbQcow2Reader *reader, const guint8 *header, GError **error)
{
    struct stat st;
    g_autofree guint8 *cluster = g_malloc(VMB_BLOCK_SIZE);
    if (fstat(reader->fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s: cannot stat the image", reader->label);
    reader->file_size = (guint64)st.st_size;
    if (!S_ISREG(st.st_mode) || reader->file_size < VMB_BLOCK_SIZE)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: is too short for a qcow2 image: %" G_GUINT64_FORMAT " bytes",
                             reader->label, reader->file_size);
    if (header == NULL &&
        !vmb_fs_pread(reader->fd, cluster, VMB_BLOCK_SIZE, 0, reader->label, error))
        return FALSE;
    return vmb_qcow2_header_decode(&reader->header, header != NULL ? header : cluster,
                                   reader->file_size, reader->label, error);
}

static gboolean
read_l1(VmbQcow2Reader *reader, gboolean tolerant, GError **error)
{
    gsize length = reader->header.l1_entries * sizeof *reader->l1;
    reader->l1 = g_malloc(length);
    if (!vmb_fs_pread(reader->fd, reader->l1, length, reader->header.l1_offset, reader->label,
                      error))
        return FALSE;
    if (tolerant)
        return TRUE;
    for (guint32 i = 0; i < reader->header.l1_entries; i++) {
        guint64 host;
        gboolean copied;
        if (!vmb_qcow2_reader_l1(reader, i, &host, &copied, error))
            return FALSE;
    }
    return TRUE;
}

/* @header: as for vmb_qcow2_reader_open_as(). @tolerant: entries of the L1 table are not looked at. */
static VmbQcow2Reader *
open_reader(int fd, const guint8 *header, guint64 size, const char *label, gboolean tolerant,
            GError **error)
{
    g_autoptr(VmbQcow2Reader) reader = g_new0(VmbQcow2Reader, 1);
    reader->fd = fd;
    reader->label = g_strdup(label);
    if (!read_header(reader, header, error))
        return NULL;
    if (size > VMB_SIZE_MAX || reader->header.size != vmb_round_up(size, VMB_QCOW2_SECTOR)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE,
                      "%s: the image's virtual size is %" G_GUINT64_FORMAT
                      " bytes, but %" G_GUINT64_FORMAT " were expected",
                      label, reader->header.size, size);
        return NULL;
    }
    reader->n_blocks = vmb_round_up(reader->header.size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE;
    reader->l2 = g_new(guint64, VMB_QCOW2_L2_ENTRIES);
    if (!read_l1(reader, tolerant, error))
        return NULL;
    return g_steal_pointer(&reader);
}

VmbQcow2Reader *
vmb_qcow2_reader_open(int fd, guint64 size, const char *label, GError **error)
{
    return open_reader(fd, NULL, size, label, FALSE, error);
}

VmbQcow2Reader *
vmb_qcow2_reader_open_as(int fd, const guint8 *header, guint64 size, const char *label,
                         GError **error)
{
    return open_reader(fd, header, size, label, FALSE, error);
}

VmbQcow2Reader *
vmb_qcow2_reader_open_tolerant(int fd, guint64 size, const char *label, GError **error)
{
    return open_reader(fd, NULL, size, label, TRUE, error);
}

void
vmb_qcow2_reader_free(VmbQcow2Reader *reader)
{
    if (reader == NULL)
        return;
    g_free(reader->l1);
    g_free(reader->l2);
    g_free(reader->label);
    g_free(reader);
}

const char *
vmb_qcow2_reader_backing_file(VmbQcow2Reader *reader)
{
    return reader->header.backing_file[0] != '\0' ? reader->header.backing_file : NULL;
}

guint64
vmb_qcow2_reader_size(VmbQcow2Reader *reader)
{
    return reader->header.size;
}

/* TRUE if the cluster at @host lies behind the header and inside the file. */
static gboolean
is_cluster(const VmbQcow2Reader *reader, guint64 host)
{
    return host >= VMB_BLOCK_SIZE && host % VMB_BLOCK_SIZE == 0 &&
           reader->file_size >= VMB_BLOCK_SIZE && host <= reader->file_size - VMB_BLOCK_SIZE;
}

gboolean
vmb_qcow2_reader_l1(VmbQcow2Reader *reader, guint64 index, guint64 *host, gboolean *copied,
                    GError **error)
{
    guint64 raw = GUINT64_FROM_BE(reader->l1[index]);
    *copied = (raw & VMB_QCOW2_COPIED) != 0;
    *host = raw & VMB_QCOW2_OFFSET_MASK;
    if (raw == 0 ||
        ((raw & ~(VMB_QCOW2_COPIED | VMB_QCOW2_OFFSET_MASK)) == 0 && is_cluster(reader, *host)))
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s: L1 entry %" G_GUINT64_FORMAT " is not valid (0x%016" G_GINT64_MODIFIER
                         "x); the blocks of 512 MiB from disk offset %" G_GUINT64_FORMAT
                         " on cannot be found",
                         reader->label, index, raw, index * VMB_QCOW2_L2_SPAN);
}

gboolean
vmb_qcow2_reader_cluster(VmbQcow2Reader *reader, guint64 host, void *table, GError **error)
{
    return vmb_fs_pread(reader->fd, table, VMB_BLOCK_SIZE, host, reader->label, error);
}

gboolean
vmb_qcow2_reader_entry(const VmbQcow2Reader *reader, guint64 raw, VmbQcow2Entry *entry)
{
    entry->host_offset = 0;
    entry->length = 0;
    if (raw <= VMB_QCOW2_ZERO) {
        entry->kind = raw == VMB_QCOW2_ZERO ? VMB_BLOCK_ZERO : VMB_BLOCK_ABSENT;
        return TRUE;
    }
    if (raw & VMB_QCOW2_COMPRESSED) {
        guint64 sectors = (raw & ~VMB_QCOW2_COMPRESSED) >> VMB_QCOW2_FRAME_OFFSET_BITS;
        guint64 host = raw & VMB_QCOW2_FRAME_OFFSET_MASK;
        if (!reader->header.compressed || sectors > VMB_QCOW2_FRAME_SECTORS_MAX ||
            host < VMB_BLOCK_SIZE || host >= reader->file_size)
            return FALSE;
        guint64 bound = (sectors + 1) * VMB_QCOW2_SECTOR - host % VMB_QCOW2_SECTOR;
        entry->kind = VMB_BLOCK_COMPRESSED;
        entry->host_offset = host;
        /* Our writer stores no frame that is longer than its block. */
        entry->length = (guint32)MIN(MIN(bound, VMB_BLOCK_SIZE), reader->file_size - host);
        return TRUE;
    }
    entry->kind = VMB_BLOCK_PLAIN;
    entry->host_offset = raw & VMB_QCOW2_OFFSET_MASK;
    entry->length = VMB_BLOCK_SIZE;
    return (raw & ~(VMB_QCOW2_COPIED | VMB_QCOW2_OFFSET_MASK)) == 0 &&
           is_cluster(reader, entry->host_offset);
}

gboolean
vmb_qcow2_reader_bad_entry(const VmbQcow2Reader *reader, guint64 block, guint64 raw, GError **error)
{
    return vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s: the L2 entry of the block at disk offset %" G_GUINT64_FORMAT
                         " is not valid (0x%016" G_GINT64_MODIFIER "x)",
                         reader->label, block * VMB_BLOCK_SIZE, raw);
}

gboolean
vmb_qcow2_reader_load(VmbQcow2Reader *reader, guint64 index, guint *n_blocks, gboolean *any,
                      GError **error)
{
    guint64 host = 0;
    gboolean copied;
    *any = FALSE;
    if (index >= reader->header.l1_entries)
        return TRUE;
    *n_blocks = (guint)MIN(reader->n_blocks - index * VMB_QCOW2_L2_ENTRIES, VMB_QCOW2_L2_ENTRIES);
    if (!vmb_qcow2_reader_l1(reader, index, &host, &copied, error))
        return FALSE;
    *any = host != 0;
    return !*any || vmb_qcow2_reader_cluster(reader, host, reader->l2, error);
}

gboolean
vmb_qcow2_reader_table(VmbQcow2Reader *reader, guint64 index, VmbQcow2Entry *entries, gboolean *any,
                       GError **error)
{
    guint n_blocks;
    gboolean loaded;
    *any = FALSE;
    if (!vmb_qcow2_reader_load(reader, index, &n_blocks, &loaded, error))
        return FALSE;
    for (guint i = 0; loaded && i < VMB_QCOW2_L2_ENTRIES; i++) {
        guint64 raw = i < n_blocks ? GUINT64_FROM_BE(reader->l2[i]) : 0;
        if (!vmb_qcow2_reader_entry(reader, raw, &entries[i]))
            return vmb_qcow2_reader_bad_entry(reader, index * VMB_QCOW2_L2_ENTRIES + i, raw, error);
        *any |= entries[i].kind != VMB_BLOCK_ABSENT;
    }
    return TRUE;
}
