/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first cluster of an image: written in one way only, and accepted in that way only. */
#include "image/qcow2-header.h"
#include "util/error.h"

/* Offsets of the fields, see qcow2-format.h. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_BACKING_OFFSET = 8,
    AT_BACKING_LENGTH = 16,
    AT_CLUSTER_BITS = 20,
    AT_SIZE = 24,
    AT_ENCRYPTION = 32,
    AT_L1_ENTRIES = 36,
    AT_L1_OFFSET = 40,
    AT_REFTABLE_OFFSET = 48,
    AT_REFTABLE_CLUSTERS = 56,
    AT_SNAPSHOTS = 60,
    AT_INCOMPATIBLE = 72,
    AT_REFCOUNT_ORDER = 96,
    AT_HEADER_LENGTH = 100,
    AT_COMPRESSION_TYPE = 104,
};

void
vmb_qcow2_header_encode(const VmbQcow2Header *header, guint8 cluster[VMB_BLOCK_SIZE])
{
    static const char format[] = "qcow2";
    guint8 *at = cluster + VMB_QCOW2_HEADER_LENGTH;
    gsize name_length = strlen(header->backing_file);
    memset(cluster, 0, VMB_BLOCK_SIZE);
    vmb_qcow2_put32(cluster + AT_MAGIC, VMB_QCOW2_MAGIC);
    vmb_qcow2_put32(cluster + AT_VERSION, VMB_QCOW2_VERSION);
    vmb_qcow2_put32(cluster + AT_CLUSTER_BITS, VMB_BLOCK_BITS);
    vmb_qcow2_put64(cluster + AT_SIZE, header->size);
    vmb_qcow2_put32(cluster + AT_L1_ENTRIES, header->l1_entries);
    vmb_qcow2_put64(cluster + AT_L1_OFFSET, header->l1_offset);
    vmb_qcow2_put64(cluster + AT_REFTABLE_OFFSET, header->reftable_offset);
    vmb_qcow2_put32(cluster + AT_REFTABLE_CLUSTERS, header->reftable_clusters);
    vmb_qcow2_put32(cluster + AT_REFCOUNT_ORDER, VMB_QCOW2_REFCOUNT_ORDER);
    vmb_qcow2_put32(cluster + AT_HEADER_LENGTH, VMB_QCOW2_HEADER_LENGTH);
    if (header->compressed) {
        vmb_qcow2_put64(cluster + AT_INCOMPATIBLE, VMB_QCOW2_INCOMPATIBLE_COMPRESSION);
        cluster[AT_COMPRESSION_TYPE] = VMB_QCOW2_COMPRESSION_ZSTD;
    }
    if (name_length > 0) {
        vmb_qcow2_put32(at, VMB_QCOW2_EXTENSION_BACKING);
        vmb_qcow2_put32(at + 4, sizeof format - 1);
        memcpy(at + 8, format, sizeof format - 1);
        at += 16; /* the text is padded to 8 bytes */
        at += 8;  /* extension 0, length 0: no more of them */
        memcpy(at, header->backing_file, name_length);
        vmb_qcow2_put64(cluster + AT_BACKING_OFFSET, (guint64)(at - cluster));
        vmb_qcow2_put32(cluster + AT_BACKING_LENGTH, (guint32)name_length);
    }
}

static gboolean
check_features(const guint8 *cluster, const char *label, GError **error)
{
    static const struct {
        guint at;
        guint32 value;
        const char *what;
    } fixed[] = {
        {AT_MAGIC, VMB_QCOW2_MAGIC, "magic number"},
        {AT_VERSION, VMB_QCOW2_VERSION, "qcow2 version"},
        {AT_CLUSTER_BITS, VMB_BLOCK_BITS, "cluster size"},
        {AT_ENCRYPTION, 0, "encryption method"},
        {AT_SNAPSHOTS, 0, "number of internal snapshots"},
        {AT_REFCOUNT_ORDER, VMB_QCOW2_REFCOUNT_ORDER, "refcount width"},
        {AT_HEADER_LENGTH, VMB_QCOW2_HEADER_LENGTH, "header length"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(fixed); i++) {
        guint32 value = vmb_qcow2_get32(cluster + fixed[i].at);
        if (value != fixed[i].value)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: the %s of the qcow2 header is %u instead of %u", label,
                                 fixed[i].what, value, fixed[i].value);
    }
    return TRUE;
}

static gboolean
decode_backing(VmbQcow2Header *header, const guint8 *cluster, const char *label, GError **error)
{
    guint64 offset = vmb_qcow2_get64(cluster + AT_BACKING_OFFSET);
    guint32 length = vmb_qcow2_get32(cluster + AT_BACKING_LENGTH);
    header->backing_file[0] = '\0';
    if (offset == 0 && length == 0)
        return TRUE;
    if (length == 0 || length > VMB_QCOW2_NAME_MAX || offset < VMB_QCOW2_HEADER_LENGTH ||
        offset > VMB_BLOCK_SIZE - length)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the backing file name lies outside of the qcow2 header", label);
    if (memchr(cluster + offset, '\0', length) != NULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the backing file name contains a zero byte", label);
    memcpy(header->backing_file, cluster + offset, length);
    header->backing_file[length] = '\0';
    return TRUE;
}

/* TRUE if @clusters whole clusters at @offset lie inside a file of @file_size bytes. */
static gboolean
is_inside(guint64 offset, guint64 clusters, guint64 file_size)
{
    guint64 length = clusters * VMB_BLOCK_SIZE;
    return offset >= VMB_BLOCK_SIZE && offset % VMB_BLOCK_SIZE == 0 && length <= file_size &&
           offset <= file_size - length;
}

static gboolean
check_tables(const VmbQcow2Header *header, guint64 file_size, const char *label, GError **error)
{
    if (header->size == 0 || header->size > VMB_SIZE_MAX || header->size % VMB_QCOW2_SECTOR != 0 ||
        header->l1_entries != vmb_qcow2_l1_entries(header->size))
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: virtual size %" G_GUINT64_FORMAT
                             " with %u L1 entries is not valid",
                             label, header->size, header->l1_entries);
    if (!is_inside(header->l1_offset, vmb_qcow2_table_clusters(header->l1_entries), file_size))
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the L1 table at offset %" G_GUINT64_FORMAT
                             " does not lie in the file",
                             label, header->l1_offset);
    if (header->reftable_clusters == 0 ||
        header->reftable_clusters > VMB_QCOW2_REFTABLE_CLUSTERS_MAX ||
        !is_inside(header->reftable_offset, header->reftable_clusters, file_size))
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the refcount table of %u clusters at offset %" G_GUINT64_FORMAT
                             " does not lie in the file",
                             label, header->reftable_clusters, header->reftable_offset);
    return TRUE;
}

gboolean
vmb_qcow2_header_decode(VmbQcow2Header *header, const guint8 cluster[VMB_BLOCK_SIZE],
                        guint64 file_size, const char *label, GError **error)
{
    if (!check_features(cluster, label, error) || !decode_backing(header, cluster, label, error))
        return FALSE;
    header->size = vmb_qcow2_get64(cluster + AT_SIZE);
    header->l1_entries = vmb_qcow2_get32(cluster + AT_L1_ENTRIES);
    header->l1_offset = vmb_qcow2_get64(cluster + AT_L1_OFFSET);
    header->reftable_offset = vmb_qcow2_get64(cluster + AT_REFTABLE_OFFSET);
    header->reftable_clusters = vmb_qcow2_get32(cluster + AT_REFTABLE_CLUSTERS);
    header->compressed =
        vmb_qcow2_get64(cluster + AT_INCOMPATIBLE) == VMB_QCOW2_INCOMPATIBLE_COMPRESSION;
    if (!check_tables(header, file_size, label, error))
        return FALSE;

    /* Whatever else stands there (features, extensions, stray bytes) is found in one comparison. */
    g_autofree guint8 *canonical = g_malloc(VMB_BLOCK_SIZE);
    vmb_qcow2_header_encode(header, canonical);
    for (guint i = 0; i < VMB_BLOCK_SIZE; i++)
        if (cluster[i] != canonical[i])
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: byte %u of the qcow2 header is 0x%02x instead of 0x%02x: "
                                 "damaged, or not written by vmbackup",
                                 label, i, cluster[i], canonical[i]);
    return TRUE;
}
