/* SPDX-License-Identifier: GPL-2.0-or-later */
/* domains/<uuid>/catalog: a cache of the summaries of a domain's points, which nothing depends on.
 */
#pragma once
#include "repo/summary.h"

/* The file, all numbers little-endian:
 *   magic "VMBCATLG", u32 VMB_SUMMARY_FORMAT, u32 number of records; the stamp of points/, all zero
 * if it does not count; per point, sorted by id, one record: the stamps of its directory, its
 * manifest.json and its state.json (zero: absent), u32 length of the summary, and that as in
 * summary-text.c; without summary the stamps are zero, and the id (u32 length, bytes, a zero byte)
 * is in its place; at the end SHA-256 of all that. A stamp: u64 inode, u64 size, i64 mtime and i64
 * ctime (ns). A record counts as long as its stamps are true. What vmbackup itself changes of a
 * point's documents, and the mark of a retired point, comes by a name that is made or replaced in
 * the directory, so that already its stamp tells. In the same way that of points/ says that there
 * are these points and no others. Nothing is taken into the file that had changed so shortly before
 * that it could change once more within the same tick of the filesystem's clock. While
 * domains/<uuid>/fold is there, nothing of the catalog counts. */
typedef struct VmbCatalog VmbCatalog;

/* Whether a fold has begun and not ended: what its points are is then only known from the
 * documents. */
gboolean vmb_catalog_is_suspended(VmbRepoDomain *domain);

typedef struct {
    const char *id;
    guint64 sequence;
    gboolean has_summary;
    VmbStamps stamps;
    gsize offset, length; /* of the summary */
} VmbCatalogRecord;

/* NULL if there is none that can be used; why is a debug message. */
VmbCatalog *vmb_catalog_load(VmbRepoDomain *domain);
void vmb_catalog_free(VmbCatalog *catalog);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbCatalog, vmb_catalog_free)

/* The records, by id; their number, 0 if @catalog is NULL. Borrowed. */
const VmbCatalogRecord *vmb_catalog_records(const VmbCatalog *catalog, guint *n);
/* NULL if @catalog has no such record, or is NULL. Borrowed. */
const VmbCatalogRecord *vmb_catalog_find_record(const VmbCatalog *catalog, const char *id);
/* TRUE if the domain has just the points of which there are records. */
gboolean vmb_catalog_is_complete(const VmbCatalog *catalog, VmbRepoDomain *domain);

/* NULL if the record does not count any more. @points_fd: points/. */
VmbSummary *vmb_catalog_summary(const VmbCatalog *catalog, const VmbCatalogRecord *record,
                                int points_fd, VmbSummariesMode mode);

/* The stamps of a point, all zero if it has no directory or no manifest. */
VmbStamps vmb_catalog_stamps(int points_fd, const char *id);

/* Brings the catalog up to date: for verbs that have changed points, at their end. What goes wrong
 * is a debug message. Others may do the same at the same time. */
void vmb_catalog_refresh(VmbRepoDomain *domain);
