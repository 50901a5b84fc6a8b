/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Appends clusters, packed frames and tables to an image and counts their references. */
#include "image/qcow2-alloc.h"
#include "block/digest.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/stall.h"

#include <fcntl.h>

/* Packed clusters that follow each other are collected up to this many bytes before they are
 * written, so that frames cost few system calls; the last of them may still have room. */
#define RUN_CLUSTERS 16u
#define RUN_CAPACITY (RUN_CLUSTERS * VMB_BLOCK_SIZE)

/* Write-back of finished bytes is started whenever so many have gathered, so that the disk works
 * while we read and the last fsync is short. */
#define WRITEBACK_STEP (16 * VMB_MIB)

struct VmbQcow2Alloc {
    int fd;
    char *label;
    guint64 next;       /* end of the file so far; the next cluster to be used */
    guint64 segment;    /* 2 GiB of file whose refcounts are in memory */
    guint16 *refcounts; /* of that segment, native */
    guint64 *reftable;  /* big-endian */
    guint64 reftable_entries;
    VmbDigest *tables;
    guint8 *run;          /* RUN_CAPACITY bytes */
    guint64 run_start;    /* offset of the run in the file */
    guint32 run_used;     /* bytes; 0: no run is open */
    guint64 written_back; /* write-back has been started up to here */
};

VmbQcow2Alloc *
vmb_qcow2_alloc_new(int fd, guint64 front_clusters, guint64 reftable_clusters, const char *label)
{
    VmbQcow2Alloc *alloc = g_new0(VmbQcow2Alloc, 1);
    alloc->fd = fd;
    alloc->label = g_strdup(label);
    alloc->refcounts = g_new0(guint16, VMB_QCOW2_REFBLOCK_ENTRIES);
    alloc->reftable_entries = reftable_clusters * VMB_QCOW2_TABLE_ENTRIES;
    alloc->reftable = g_new0(guint64, alloc->reftable_entries);
    alloc->tables = vmb_digest_new();
    alloc->run = g_malloc(RUN_CAPACITY);
    alloc->next = front_clusters * VMB_BLOCK_SIZE;
    alloc->written_back = alloc->next;
    for (guint64 i = 0; i < front_clusters; i++)
        alloc->refcounts[i] = 1;
    return alloc;
}

void
vmb_qcow2_alloc_free(VmbQcow2Alloc *alloc)
{
    if (alloc == NULL)
        return;
    g_free(alloc->label);
    g_free(alloc->refcounts);
    g_free(alloc->reftable);
    vmb_digest_free(alloc->tables);
    g_free(alloc->run);
    g_free(alloc);
}

static guint16 *
refcount_at(VmbQcow2Alloc *alloc, guint64 host)
{
    return &alloc->refcounts[host / VMB_BLOCK_SIZE % VMB_QCOW2_REFBLOCK_ENTRIES];
}

static gboolean
write_at(VmbQcow2Alloc *alloc, const void *data, gsize length, guint64 host, GError **error)
{
    if (!vmb_fs_pwrite(alloc->fd, data, length, host, alloc->label, error))
        return FALSE;
    if (host + length >= alloc->written_back + WRITEBACK_STEP) {
        g_auto(VmbIoMark) mark = vmb_io_mark();
        /* Only a hint: a filesystem that cannot do it does it at the fsync. */
        (void)sync_file_range(alloc->fd, (off_t)alloc->written_back,
                              (off_t)(host + length - alloc->written_back), SYNC_FILE_RANGE_WRITE);
        alloc->written_back = host + length;
    }
    return TRUE;
}

static gboolean
write_table(VmbQcow2Alloc *alloc, const void *table, guint64 host, GError **error)
{
    vmb_digest_update(alloc->tables, table, VMB_BLOCK_SIZE);
    return write_at(alloc, table, VMB_BLOCK_SIZE, host, error);
}

/* Pads the open run to a whole cluster and writes it. */
static gboolean
close_run(VmbQcow2Alloc *alloc, GError **error)
{
    guint32 length = (guint32)vmb_round_up(alloc->run_used, VMB_BLOCK_SIZE);
    if (length == 0)
        return TRUE;
    memset(alloc->run + alloc->run_used, 0, length - alloc->run_used);
    alloc->run_used = 0;
    return write_at(alloc, alloc->run, length, alloc->run_start, error);
}

/* The counts of the current segment are final: writes them at @host. */
static gboolean
write_refblock(VmbQcow2Alloc *alloc, guint64 host, GError **error)
{
    if (alloc->segment >= alloc->reftable_entries)
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: the image outgrows its refcount table",
                             alloc->label);
    for (guint i = 0; i < VMB_QCOW2_REFBLOCK_ENTRIES; i++)
        alloc->refcounts[i] = GUINT16_TO_BE(alloc->refcounts[i]);
    alloc->reftable[alloc->segment] = GUINT64_TO_BE(host);
    return write_table(alloc, alloc->refcounts, host, error);
}

/* Takes the next cluster, with refcount 0. The first one of a segment becomes the refcount block of
 * the segment before, whose last packed cluster is closed for it. */
static gboolean
take_cluster(VmbQcow2Alloc *alloc, guint64 *host, GError **error)
{
    if (alloc->next / VMB_QCOW2_REFBLOCK_SPAN != alloc->segment) {
        if (!close_run(alloc, error) || !write_refblock(alloc, alloc->next, error))
            return FALSE;
        memset(alloc->refcounts, 0, VMB_BLOCK_SIZE);
        alloc->segment++;
        *refcount_at(alloc, alloc->next) = 1;
        alloc->next += VMB_BLOCK_SIZE;
    }
    *host = alloc->next;
    alloc->next += VMB_BLOCK_SIZE;
    return TRUE;
}

gboolean
vmb_qcow2_alloc_plain(VmbQcow2Alloc *alloc, const guint8 *block, guint64 *host, GError **error)
{
    if (!take_cluster(alloc, host, error))
        return FALSE;
    *refcount_at(alloc, *host) = 1;
    return write_at(alloc, block, VMB_BLOCK_SIZE, *host, error);
}

gboolean
vmb_qcow2_alloc_table(VmbQcow2Alloc *alloc, const void *table, guint64 *host, GError **error)
{
    if (!take_cluster(alloc, host, error))
        return FALSE;
    *refcount_at(alloc, *host) = 1;
    return write_table(alloc, table, *host, error);
}

gboolean
vmb_qcow2_alloc_share(VmbQcow2Alloc *alloc, guint64 host)
{
    guint16 *refcount = refcount_at(alloc, host);
    if (host / VMB_QCOW2_REFBLOCK_SPAN != alloc->segment || *refcount == VMB_QCOW2_REFCOUNT_MAX)
        return FALSE;
    ++*refcount;
    return TRUE;
}

/* Writes the whole clusters of a full run and goes on with its last one at the buffer's start. */
static gboolean
shift_run(VmbQcow2Alloc *alloc, GError **error)
{
    guint32 whole = RUN_CAPACITY - VMB_BLOCK_SIZE;
    if (!write_at(alloc, alloc->run, whole, alloc->run_start, error))
        return FALSE;
    alloc->run_used -= whole;
    alloc->run_start += whole;
    memcpy(alloc->run, alloc->run + whole, alloc->run_used);
    return TRUE;
}

/* Makes room for @length more bytes: in the open cluster, in the one right behind it, or in a new
 * run. */
static gboolean
reserve_run(VmbQcow2Alloc *alloc, guint32 length, GError **error)
{
    guint64 host, end = alloc->run_start + alloc->run_used;
    guint64 clusters_end = vmb_round_up(end, VMB_BLOCK_SIZE);
    if (alloc->run_used > 0) {
        gboolean full = end < clusters_end && *refcount_at(alloc, end) == VMB_QCOW2_REFCOUNT_MAX;
        if (!full && length <= clusters_end - end)
            return TRUE;
        if (!full && clusters_end == alloc->next &&
            alloc->next / VMB_QCOW2_REFBLOCK_SPAN == alloc->segment) {
            if (alloc->run_used > RUN_CAPACITY - VMB_BLOCK_SIZE && !shift_run(alloc, error))
                return FALSE;
            return take_cluster(alloc, &host, error);
        }
        if (!close_run(alloc, error))
            return FALSE;
    }
    return take_cluster(alloc, &alloc->run_start, error);
}

gboolean
vmb_qcow2_alloc_frame(VmbQcow2Alloc *alloc, const guint8 *frame, guint32 length, guint64 *host,
                      GError **error)
{
    if (!reserve_run(alloc, length, error))
        return FALSE;
    guint64 start = alloc->run_start + alloc->run_used;
    guint64 last = start + length - 1;
    memcpy(alloc->run + alloc->run_used, frame, length);
    alloc->run_used += length;
    ++*refcount_at(alloc, start);
    if (last / VMB_BLOCK_SIZE != start / VMB_BLOCK_SIZE)
        ++*refcount_at(alloc, last);
    *host = start;
    return TRUE;
}

gboolean
vmb_qcow2_alloc_finish(VmbQcow2Alloc *alloc, guint64 *file_size,
                       guint8 tables_digest[VMB_DIGEST_SIZE], const guint64 **reftable,
                       GError **error)
{
    guint64 host;
    if (!close_run(alloc, error) || !take_cluster(alloc, &host, error))
        return FALSE;
    *refcount_at(alloc, host) = 1;
    if (!write_refblock(alloc, host, error))
        return FALSE;
    vmb_digest_finish(alloc->tables, tables_digest);
    *file_size = alloc->next;
    *reftable = alloc->reftable;
    return TRUE;
}
