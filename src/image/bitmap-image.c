/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A qcow2 image without any data that holds a bitmap: what QEMU can serve beside the image below it. */
#include "image/bitmap-image.h"
#include "image/qcow2-header.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <unistd.h>

#define EXTENSION_BITMAPS 0x23852875u
#define EXTENSION_LENGTH 24u
#define AUTOCLEAR_AT 88
#define AUTOCLEAR_BITMAPS G_GUINT64_CONSTANT(1)
#define ENTRY_HEADER 24u
#define TYPE_DIRTY_TRACKING 1u
#define TABLE_ALL_ONES G_GUINT64_CONSTANT(1)
#define BITS_PER_CLUSTER (VMB_BLOCK_SIZE * G_GUINT64_CONSTANT(8)) /* 32 GiB of the disk */

/* Cluster 0 is the header, then the L1 table, all of it absent; one cluster of refcount table, one of directory, the
 * bitmap table, the bitmap's clusters that are neither all zero nor all one, and the refcount blocks. */
struct VmbBitmapImage {
    int fd;
    char *name, *label;
    guint64 size, n_blocks;
    guint64 l1_clusters, reftable, directory, table; /* cluster numbers, but for the first */
    guint64 n_table;                                 /* entries */
    guint64 *entries;                                /* of the bitmap table, big-endian */
    guint64 next;                                    /* cluster */
    guint64 open;                                    /* index of the bitmap's cluster in bits */
    guint8 *bits;
};

VmbBitmapImage *
vmb_bitmap_image_new(int fd, guint64 size, const char *name, const char *label)
{
    VmbBitmapImage *image = g_new0(VmbBitmapImage, 1);
    image->fd = fd;
    image->name = g_strdup(name);
    image->label = g_strdup(label);
    image->size = size;
    image->n_blocks = vmb_round_up(size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE;
    image->l1_clusters = vmb_qcow2_table_clusters(vmb_qcow2_l1_entries(size));
    image->n_table = (image->n_blocks + BITS_PER_CLUSTER - 1) / BITS_PER_CLUSTER;
    image->reftable = 1 + image->l1_clusters;
    image->directory = image->reftable + 1;
    image->table = image->directory + 1;
    image->next = image->table + vmb_qcow2_table_clusters(image->n_table);
    image->entries =
        g_new0(guint64, vmb_qcow2_table_clusters(image->n_table) * VMB_QCOW2_TABLE_ENTRIES);
    image->bits = g_malloc0(VMB_BLOCK_SIZE);
    return image;
}

void
vmb_bitmap_image_free(VmbBitmapImage *image)
{
    if (image == NULL)
        return;
    g_free(image->name);
    g_free(image->label);
    g_free(image->entries);
    g_free(image->bits);
    g_free(image);
}

static gboolean
put(VmbBitmapImage *image, const void *data, gsize length, guint64 cluster, GError **error)
{
    return vmb_fs_pwrite(image->fd, data, length, cluster * VMB_BLOCK_SIZE, image->label, error);
}

/* How many bits of the open cluster mean anything. */
static guint64
open_bits(const VmbBitmapImage *image)
{
    return MIN(BITS_PER_CLUSTER, image->n_blocks - image->open * BITS_PER_CLUSTER);
}

static gboolean
are_all_ones(const VmbBitmapImage *image)
{
    guint64 n = open_bits(image);
    for (guint64 i = 0; i < n / 8; i++)
        if (image->bits[i] != 0xff)
            return FALSE;
    return n % 8 == 0 || image->bits[n / 8] == (1u << n % 8) - 1;
}

static gboolean
flush(VmbBitmapImage *image, GError **error)
{
    static const guint8 zero[4096];
    gboolean any = FALSE;
    for (guint i = 0; i < VMB_BLOCK_SIZE && !any; i += sizeof zero)
        any = memcmp(image->bits + i, zero, sizeof zero) != 0;
    if (!any)
        return TRUE;
    guint64 entry = TABLE_ALL_ONES;
    if (!are_all_ones(image)) {
        entry = image->next * VMB_BLOCK_SIZE;
        if (!put(image, image->bits, VMB_BLOCK_SIZE, image->next++, error))
            return FALSE;
    }
    image->entries[image->open] = GUINT64_TO_BE(entry);
    memset(image->bits, 0, VMB_BLOCK_SIZE);
    return TRUE;
}

gboolean
vmb_bitmap_image_set(VmbBitmapImage *image, guint64 offset, guint64 length, GError **error)
{
    guint64 first = offset / VMB_BLOCK_SIZE;
    guint64 end = MIN(first + (length + VMB_BLOCK_SIZE - 1) / VMB_BLOCK_SIZE, image->n_blocks);
    g_return_val_if_fail(offset % VMB_BLOCK_SIZE == 0 && first / BITS_PER_CLUSTER >= image->open, FALSE);
    for (guint64 block = first; block < end;) {
        guint64 index = block / BITS_PER_CLUSTER, bit = block % BITS_PER_CLUSTER;
        if (index != image->open && !flush(image, error))
            return FALSE;
        image->open = index;
        guint64 n = MIN(end - block, BITS_PER_CLUSTER - bit);
        block += n;
        for (; n > 0 && (bit % 8 != 0 || n < 8); bit++, n--)
            image->bits[bit / 8] |= (guint8)(1u << bit % 8);
        memset(image->bits + bit / 8, 0xff, n / 8);
        for (bit += n / 8 * 8, n %= 8; n > 0; bit++, n--)
            image->bits[bit / 8] |= (guint8)(1u << bit % 8);
    }
    return TRUE;
}

static gsize
make_directory(const VmbBitmapImage *image, guint8 *cluster)
{
    gsize length = strlen(image->name);
    memset(cluster, 0, VMB_BLOCK_SIZE);
    vmb_qcow2_put64(cluster, image->table * VMB_BLOCK_SIZE);
    vmb_qcow2_put32(cluster + 8, (guint32)image->n_table);
    cluster[16] = TYPE_DIRTY_TRACKING;
    cluster[17] = VMB_BLOCK_BITS;
    cluster[18] = (guint8)(length >> 8);
    cluster[19] = (guint8)length;
    memcpy(cluster + ENTRY_HEADER, image->name, length);
    return vmb_round_up(ENTRY_HEADER + length, 8);
}

/* Of clusters that are all used once, those of the refcount blocks as well. */
static gboolean
write_refcounts(VmbBitmapImage *image, GError **error)
{
    guint64 blocks = 0, used = image->next;
    g_autofree guint64 *reftable = g_new0(guint64, VMB_QCOW2_TABLE_ENTRIES);
    g_autofree guint16 *counts = g_new(guint16, VMB_QCOW2_REFBLOCK_ENTRIES);
    while (blocks * VMB_QCOW2_REFBLOCK_ENTRIES < used + blocks)
        blocks++;
    used += blocks;
    for (guint64 i = 0; i < blocks; i++) {
        guint64 n = MIN(used - i * VMB_QCOW2_REFBLOCK_ENTRIES, VMB_QCOW2_REFBLOCK_ENTRIES);
        for (guint64 k = 0; k < VMB_QCOW2_REFBLOCK_ENTRIES; k++)
            counts[k] = k < n ? GUINT16_TO_BE(1) : 0;
        reftable[i] = GUINT64_TO_BE((image->next + i) * VMB_BLOCK_SIZE);
        if (!put(image, counts, VMB_BLOCK_SIZE, image->next + i, error))
            return FALSE;
    }
    return put(image, reftable, VMB_BLOCK_SIZE, image->reftable, error);
}

static gboolean
write_header(VmbBitmapImage *image, guint8 *cluster, gsize directory_length, GError **error)
{
    VmbQcow2Header header = {.size = image->size,
                             .l1_offset = VMB_BLOCK_SIZE,
                             .reftable_offset = image->reftable * VMB_BLOCK_SIZE,
                             .l1_entries = vmb_qcow2_l1_entries(image->size),
                             .reftable_clusters = 1};
    vmb_qcow2_header_encode(&header, cluster);
    vmb_qcow2_put64(cluster + AUTOCLEAR_AT, AUTOCLEAR_BITMAPS);
    guint8 *extension = cluster + VMB_QCOW2_HEADER_LENGTH;
    vmb_qcow2_put32(extension, EXTENSION_BITMAPS);
    vmb_qcow2_put32(extension + 4, EXTENSION_LENGTH);
    vmb_qcow2_put32(extension + 8, 1);
    vmb_qcow2_put64(extension + 16, directory_length);
    vmb_qcow2_put64(extension + 24, image->directory * VMB_BLOCK_SIZE);
    return put(image, cluster, VMB_BLOCK_SIZE, 0, error);
}

gboolean
vmb_bitmap_image_finish(VmbBitmapImage *image, GError **error)
{
    g_autofree guint8 *cluster = g_malloc(VMB_BLOCK_SIZE);
    g_return_val_if_fail(strlen(image->name) <= VMB_QCOW2_NAME_MAX, FALSE);
    if (!flush(image, error))
        return FALSE;
    gsize directory_length = make_directory(image, cluster);
    if (!put(image, cluster, VMB_BLOCK_SIZE, image->directory, error) ||
        !put(image, image->entries, vmb_qcow2_table_clusters(image->n_table) * VMB_BLOCK_SIZE,
             image->table, error) ||
        !write_refcounts(image, error))
        return FALSE;
    return write_header(image, cluster, directory_length, error);
}
