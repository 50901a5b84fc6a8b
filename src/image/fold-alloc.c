/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Free places of an image that has readers, and what its reference counts will be. */
#include "image/fold-alloc.h"
#include "image/fold.h"
#include "util/error.h"
#include "util/fsio.h"

/* Counts are kept for so many stretches of 2 GiB of file at once (64 KiB each). */
#define CACHED_SEGMENTS 128u
#define NOT_LOADED G_MAXUINT64
#define REFTABLE_ENTRIES_MAX (VMB_QCOW2_REFTABLE_CLUSTERS_MAX * VMB_QCOW2_TABLE_ENTRIES)

/* The counts of 2 GiB of file as they will be; native. */
typedef struct {
    guint64 segment;
    guint64 used; /* a clock, for finding the one that was not used for longest */
    guint16 *counts;
} Cached;

struct VmbFoldAlloc {
    VmbQcow2Reader *reader;
    guint64 *before; /* refcount table as it is, native */
    guint64 n_before;
    guint64 *after; /* as it will be: where a segment that has changed is written; native */
    guint8 *changed; /* per segment */
    Cached cache[CACHED_SEGMENTS];
    guint n_cached;
    guint64 clock;
    guint16 *old_counts; /* big-endian, of one segment as it is */
    guint64 old_segment;
    guint64 old_clusters; /* of the file */
    guint64 end;          /* clusters of the file as it will be */
    guint64 next;         /* no single cluster before this one is free */
};

static gboolean
read_table(VmbFoldAlloc *alloc, GError **error)
{
    const VmbQcow2Header *header = &alloc->reader->header;
    alloc->n_before = header->reftable_clusters * (guint64)VMB_QCOW2_TABLE_ENTRIES;
    alloc->before = g_new(guint64, alloc->n_before);
    alloc->after = g_new0(guint64, REFTABLE_ENTRIES_MAX);
    alloc->changed = g_new0(guint8, REFTABLE_ENTRIES_MAX);
    if (!vmb_fs_pread(alloc->reader->fd, alloc->before, alloc->n_before * sizeof(guint64),
                      header->reftable_offset, alloc->reader->label, error))
        return FALSE;
    for (guint64 i = 0; i < alloc->n_before; i++) {
        guint64 host = alloc->before[i] = GUINT64_FROM_BE(alloc->before[i]);
        if (host % VMB_BLOCK_SIZE != 0 || (host != 0 && host < VMB_BLOCK_SIZE) ||
            (host != 0 && host > alloc->reader->file_size - VMB_BLOCK_SIZE))
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: refcount table entry %" G_GUINT64_FORMAT " is not valid",
                                 alloc->reader->label, i);
        alloc->after[i] = host;
    }
    return TRUE;
}

VmbFoldAlloc *
vmb_fold_alloc_new(VmbQcow2Reader *reader, GError **error)
{
    g_autoptr(VmbFoldAlloc) alloc = g_new0(VmbFoldAlloc, 1);
    alloc->reader = reader;
    alloc->old_counts = g_new(guint16, VMB_QCOW2_REFBLOCK_ENTRIES);
    alloc->old_segment = NOT_LOADED;
    if (reader->file_size % VMB_BLOCK_SIZE != 0) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s: the image does not end with a cluster",
                      reader->label);
        return NULL;
    }
    alloc->old_clusters = alloc->end = reader->file_size / VMB_BLOCK_SIZE;
    return read_table(alloc, error) ? g_steal_pointer(&alloc) : NULL;
}

void
vmb_fold_alloc_free(VmbFoldAlloc *alloc)
{
    if (alloc == NULL)
        return;
    for (guint i = 0; i < alloc->n_cached; i++)
        g_free(alloc->cache[i].counts);
    g_free(alloc->before);
    g_free(alloc->after);
    g_free(alloc->changed);
    g_free(alloc->old_counts);
    g_free(alloc);
}

/* ---- counts ---- */

static gboolean
write_segment(VmbFoldAlloc *alloc, Cached *cached, GError **error)
{
    gboolean ok;
    for (guint i = 0; i < VMB_QCOW2_REFBLOCK_ENTRIES; i++)
        cached->counts[i] = GUINT16_TO_BE(cached->counts[i]);
    ok = vmb_fs_pwrite(alloc->reader->fd, cached->counts, VMB_BLOCK_SIZE,
                       alloc->after[cached->segment], alloc->reader->label, error);
    for (guint i = 0; i < VMB_QCOW2_REFBLOCK_ENTRIES; i++)
        cached->counts[i] = GUINT16_FROM_BE(cached->counts[i]);
    return ok;
}

/* A place in the cache; what was there is written if it has changed. */
static Cached *
make_room(VmbFoldAlloc *alloc, GError **error)
{
    Cached *oldest = NULL;
    if (alloc->n_cached < CACHED_SEGMENTS) {
        oldest = &alloc->cache[alloc->n_cached++];
        oldest->counts = g_new(guint16, VMB_QCOW2_REFBLOCK_ENTRIES);
        oldest->segment = NOT_LOADED;
        return oldest;
    }
    for (guint i = 0; i < alloc->n_cached; i++)
        if (oldest == NULL || alloc->cache[i].used < oldest->used)
            oldest = &alloc->cache[i];
    if (oldest->segment != NOT_LOADED && alloc->changed[oldest->segment] &&
        !write_segment(alloc, oldest, error))
        return NULL;
    oldest->segment = NOT_LOADED;
    return oldest;
}

/* The counts of @segment as they will be; valid until the next call. */
static guint16 *
load(VmbFoldAlloc *alloc, guint64 segment, GError **error)
{
    if (segment >= REFTABLE_ENTRIES_MAX) {
        vmb_fold_impossible(error, "%s: the image outgrows its refcount table",
                      alloc->reader->label);
        return NULL;
    }
    for (guint i = 0; i < alloc->n_cached; i++)
        if (alloc->cache[i].segment == segment) {
            alloc->cache[i].used = ++alloc->clock;
            return alloc->cache[i].counts;
        }
    Cached *cached = make_room(alloc, error);
    if (cached == NULL)
        return NULL;
    if (alloc->after[segment] == 0) {
        memset(cached->counts, 0, VMB_BLOCK_SIZE);
    } else {
        if (!vmb_qcow2_reader_cluster(alloc->reader, alloc->after[segment], cached->counts, error))
            return NULL;
        for (guint i = 0; i < VMB_QCOW2_REFBLOCK_ENTRIES; i++)
            cached->counts[i] = GUINT16_FROM_BE(cached->counts[i]);
    }
    cached->segment = segment;
    cached->used = ++alloc->clock;
    return cached->counts;
}

static gboolean change(VmbFoldAlloc *alloc, guint64 cluster, int delta, GError **error);
static gboolean find(VmbFoldAlloc *alloc, guint64 n, guint64 *first, GError **error);

/* A segment's counts are about to change for the first time: its block gets another place, and the old one is
 * free in what will be. That may change another segment for the first time, and so on. */
static gboolean
begin_change(VmbFoldAlloc *alloc, guint64 segment, GError **error)
{
    guint64 before = alloc->after[segment], place = 0;
    if (alloc->changed[segment])
        return TRUE;
    if (!find(alloc, 1, &place, error))
        return FALSE;
    /* Nobody looks before it again, so it is taken before it is counted. */
    alloc->next = place + 1;
    alloc->end = MAX(alloc->end, place + 1);
    /* Loaded from the old place before that is forgotten; it stays in the cache until it is written. */
    if (load(alloc, segment, error) == NULL)
        return FALSE;
    alloc->changed[segment] = TRUE;
    alloc->after[segment] = place * VMB_BLOCK_SIZE;
    return change(alloc, place, 1, error) &&
           (before == 0 || change(alloc, before / VMB_BLOCK_SIZE, -1, error));
}

static gboolean
change(VmbFoldAlloc *alloc, guint64 cluster, int delta, GError **error)
{
    guint64 segment = cluster / VMB_QCOW2_REFBLOCK_ENTRIES;
    if (segment >= REFTABLE_ENTRIES_MAX)
        return vmb_fold_impossible(error, "%s: the image outgrows its refcount table",
                             alloc->reader->label);
    if (!begin_change(alloc, segment, error))
        return FALSE;
    guint16 *counts = load(alloc, segment, error);
    if (counts == NULL)
        return FALSE;
    guint16 *count = &counts[cluster % VMB_QCOW2_REFBLOCK_ENTRIES];
    if (delta < 0 && *count == 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the cluster at offset %" G_GUINT64_FORMAT
                             " of the image is used, but its refcount says otherwise",
                             alloc->reader->label, cluster * VMB_BLOCK_SIZE);
    if (delta > 0 && *count == VMB_QCOW2_REFCOUNT_MAX)
        return vmb_fold_impossible(error,
                             "%s: a cluster of the image has too many users", alloc->reader->label);
    *count = (guint16)(*count + delta);
    return TRUE;
}

gboolean
vmb_fold_alloc_ref(VmbFoldAlloc *alloc, guint64 host, guint64 length, int delta, GError **error)
{
    guint64 last = (host + length - 1) / VMB_BLOCK_SIZE;
    for (guint64 cluster = host / VMB_BLOCK_SIZE; cluster <= last; cluster++)
        if (!change(alloc, cluster, delta, error))
            return FALSE;
    return TRUE;
}

gboolean
vmb_fold_alloc_count(VmbFoldAlloc *alloc, guint64 host, guint16 *count, GError **error)
{
    guint64 cluster = host / VMB_BLOCK_SIZE;
    guint16 *counts = load(alloc, cluster / VMB_QCOW2_REFBLOCK_ENTRIES, error);
    if (counts == NULL)
        return FALSE;
    *count = counts[cluster % VMB_QCOW2_REFBLOCK_ENTRIES];
    return TRUE;
}

/* ---- places ---- */

static gboolean
load_old(VmbFoldAlloc *alloc, guint64 segment, GError **error)
{
    if (alloc->old_segment == segment)
        return TRUE;
    alloc->old_segment = NOT_LOADED;
    if (segment >= alloc->n_before || alloc->before[segment] == 0)
        memset(alloc->old_counts, 0, VMB_BLOCK_SIZE);
    else if (!vmb_qcow2_reader_cluster(alloc->reader, alloc->before[segment], alloc->old_counts,
                                       error))
        return FALSE;
    alloc->old_segment = segment;
    return TRUE;
}

/* The first of @n free clusters, one behind the other, from alloc->next on; at the end of the file at the
 * latest. Free is what is used neither now nor in what will be. */
static gboolean
find(VmbFoldAlloc *alloc, guint64 n, guint64 *first, GError **error)
{
    guint64 run = 0, cluster = alloc->next;
    while (run < n && cluster < alloc->end) {
        guint64 segment = cluster / VMB_QCOW2_REFBLOCK_ENTRIES;
        guint64 stop = MIN(alloc->end, (segment + 1) * VMB_QCOW2_REFBLOCK_ENTRIES);
        const guint16 *counts = load(alloc, segment, error);
        if (counts == NULL || !load_old(alloc, segment, error))
            return FALSE;
        for (; run < n && cluster < stop; cluster++) {
            guint at = (guint)(cluster % VMB_QCOW2_REFBLOCK_ENTRIES);
            gboolean used = counts[at] != 0 ||
                            (cluster < alloc->old_clusters && alloc->old_counts[at] != 0);
            run = used ? 0 : run + 1;
        }
    }
    *first = cluster - run;
    return TRUE;
}

static gboolean
take(VmbFoldAlloc *alloc, guint64 first, guint64 n, guint16 count, GError **error)
{
    alloc->end = MAX(alloc->end, first + n);
    for (guint64 i = 0; i < n; i++)
        for (guint c = 0; c < count; c++)
            if (!change(alloc, first + i, 1, error))
                return FALSE;
    return TRUE;
}

gboolean
vmb_fold_alloc_take(VmbFoldAlloc *alloc, guint64 n, guint16 count, guint64 *host, GError **error)
{
    guint64 first = 0;
    if (!find(alloc, n, &first, error))
        return FALSE;
    /* Nobody looks before it again, so it is taken also before it is counted. */
    alloc->next = first + n;
    *host = first * VMB_BLOCK_SIZE;
    return take(alloc, first, n, count, error);
}

gboolean
vmb_fold_alloc_take_next(VmbFoldAlloc *alloc, guint64 host, gboolean *taken, GError **error)
{
    guint64 cluster = host / VMB_BLOCK_SIZE, first = 0;
    *taken = FALSE;
    if (cluster < alloc->next)
        return TRUE;
    if (cluster > alloc->next || !find(alloc, 1, &first, error))
        return cluster > alloc->next;
    *taken = first == cluster;
    if (*taken) {
        alloc->next = cluster + 1;
        alloc->end = MAX(alloc->end, cluster + 1);
    }
    return TRUE;
}

/* ---- the end ---- */

static gboolean
write_reftable(VmbFoldAlloc *alloc, guint64 host, guint32 clusters, GError **error)
{
    gsize entries = clusters * (gsize)VMB_QCOW2_TABLE_ENTRIES;
    for (gsize i = 0; i < entries; i++)
        alloc->after[i] = GUINT64_TO_BE(alloc->after[i]);
    gboolean ok = vmb_fs_pwrite(alloc->reader->fd, alloc->after, entries * sizeof(guint64), host,
                                alloc->reader->label, error);
    for (gsize i = 0; i < entries; i++)
        alloc->after[i] = GUINT64_FROM_BE(alloc->after[i]);
    return ok;
}

gboolean
vmb_fold_alloc_finish(VmbFoldAlloc *alloc, guint64 *reftable, guint32 *clusters,
                      guint64 *file_size, GError **error)
{
    const VmbQcow2Header *header = &alloc->reader->header;
    /* Places that are taken from here on lie within what one cluster of the table covers. */
    guint64 segments = (alloc->end + 4096) / VMB_QCOW2_REFBLOCK_ENTRIES + 1;
    *clusters = MAX(header->reftable_clusters, (guint32)vmb_qcow2_table_clusters(segments));
    if (*clusters > VMB_QCOW2_REFTABLE_CLUSTERS_MAX)
        return vmb_fold_impossible(error, "%s: the image outgrows its refcount table",
                             alloc->reader->label);
    if (!vmb_fold_alloc_ref(alloc, header->reftable_offset,
                            header->reftable_clusters * (guint64)VMB_BLOCK_SIZE, -1, error) ||
        !vmb_fold_alloc_take(alloc, *clusters, 1, reftable, error))
        return FALSE;
    for (guint i = 0; i < alloc->n_cached; i++)
        if (alloc->cache[i].segment != NOT_LOADED && alloc->changed[alloc->cache[i].segment] &&
            !write_segment(alloc, &alloc->cache[i], error))
            return FALSE;
    *file_size = alloc->end * VMB_BLOCK_SIZE;
    return write_reftable(alloc, *reftable, *clusters, error);
}
