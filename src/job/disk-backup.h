/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hot path: one disk of a running job becomes an image and its digests. */
#pragma once
#include <gio/gio.h>
#include "image/chain.h"
#include "job/damage.h"
#include "util/progress.h"

typedef struct {
    const char *label;          /* "web01 disk vda" */
    const char *socket, *export_name;
    const char *dirty_context;  /* NULL: a full, or compare */
    VmbChain *parent;           /* the parent's chain; NULL for a full */
    gboolean synthetic;         /* a full: what has not changed is copied from the parent, which was opened
                                 * with digests; backing_file is NULL */
    gboolean parent_frames;     /* synthetic: some of the chain's images hold zstd frames */
    const GArray *damaged;      /* VmbDamagedRange of the parent: counts as changed; NULL: none is known */
    /* With a parent; filled also on failure: */
    GArray *found;              /* VmbDamagedRange that was found damaged, added to what is there */
    GArray *differing;          /* guint64 offsets of blocks that the bitmap calls clean, and that differ from the
                                 * parent; ascending */
    gboolean compare;           /* everything is read, and what differs from the parent is stored; the
                                 * parent was opened with digests, otherwise without */
    guint64 parent_size;        /* bytes */
    const char *backing_file;   /* for the header; NULL for a full */
    guint64 unit;               /* bytes, for vmb_disk_backup_survey(); 0: no survey is needed */
    guint64 size;               /* exact bytes of the disk, as libvirt says */
    int image_fd, digests_fd;   /* empty files */
    int compress_level;
    GCancellable *cancel;
    /* Called when the target has taken nothing for a minute, before anything waits for it: ends the
     * job, so that the guest is not held by a dead target. */
    void (*on_stall)(gpointer data);
    gpointer stall_data;
    VmbProgress *progress;      /* may be NULL */
    /* out */
    guint64 read;               /* bytes of the disk that came from the guest, without those of tests */
    guint64 copied;             /* bytes of the disk that were copied from the parent */
    guint64 healed;             /* blocks that were read because they are damaged in the parent */
} VmbDiskBackup;

/* Reads, encodes and writes; fills sizes, counts and digests of @disk. *@contradicted gets the bytes that
 * the bitmap calls clean, that read as zero, and where the parent holds data. No fsync. A disk that
 * contradicts its bitmap, or, as far as the differing blocks go, a parent that is damaged without a sign, is
 * VMB_ERROR_NO_INCREMENTAL; a parent that cannot be read is VMB_ERROR_DAMAGE: if some of it was found damaged, it
 * may be tried again with that. */
gboolean vmb_disk_backup(VmbDiskBackup *backup, VmbManifestDisk *disk, guint64 *contradicted,
                         GError **error);

/* The same for a disk that is known not to have changed: nothing is read, and an empty increment is written.
 * Fills @disk. */
gboolean vmb_disk_backup_nothing(VmbDiskBackup *backup, VmbManifestDisk *disk, GError **error);

/* What to do with each block of a window; pure, for tests. @actions: @n_blocks bytes. @extents: the
 * merged extents of [offset, offset + n_blocks * 64 KiB), clamped to the disk. From @dirty_from on
 * everything counts as dirty; from @suspect_from on what is clean and not zero is read as well.
 * @parent: the same window of the parent, or NULL for a full. Returns FALSE if it is plain at once that
 * all are to be skipped or trusted. */
typedef enum {
    VMB_ACTION_SKIP,     /* it reads as zero, and so it did before */
    VMB_ACTION_ZERO,
    VMB_ACTION_READ,
    VMB_ACTION_VANISHED, /* zero, although the bitmap calls it clean and it held data */
    VMB_ACTION_TRUST,    /* skipped as well, because the bitmap calls it clean: it may hold anything */
} VmbAction;
gboolean vmb_disk_backup_plan(guint64 offset, guint n_blocks, guint64 size, const GArray *extents,
                              guint64 dirty_from, guint64 suspect_from,
                              const VmbChainWindow *parent, guint8 *actions,
                              guint64 *contradicted_blocks);

/* Finds where clean blocks may have changed without a sign. Shrinking forgets the dirty bits behind the
 * new end but keeps the bytes up to the end of its cluster, and growing again zeroes these where a
 * backing file would show. Only where clusters, blocks and bits are the same 64 KiB and nothing
 * lies below, that end's block is dirty or holds what it held. All behind that cluster is zero,
 * or dirty, or in a cluster that is dirty in part. So @suspect_from becomes the start of the last unit
 * that is clean throughout and holds data, or else of the first that is clean in part and does; if
 * there is none it is kept (G_MAXUINT64 before the first window). To be called for all windows in their
 * order; pure, for tests. @unit: the larger of cluster and block, bytes. @size: up to where the parent
 * and the disk are compared. */
void vmb_disk_backup_survey(guint64 offset, guint n_blocks, guint64 size, const GArray *extents,
                            guint64 unit, guint64 *suspect_from);
