/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The cache of a domain's summaries: reading it, without trust in what it says. */
#include "repo/catalog.h"
#include "block/digest.h"
#include "repo/catalog-private.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/summary-text.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
vmb_catalog_free(VmbCatalog *catalog)
{
    if (catalog == NULL)
        return;
    g_bytes_unref(catalog->bytes);
    g_array_unref(catalog->records);
    g_free(catalog);
}

static guint32
get32(const guint8 *at)
{
    guint32 value;
    memcpy(&value, at, sizeof value);
    return GUINT32_FROM_LE(value);
}

static guint64
get64(const guint8 *at)
{
    guint64 value;
    memcpy(&value, at, sizeof value);
    return GUINT64_FROM_LE(value);
}

static VmbStamp
get_stamp(const guint8 *at)
{
    return (VmbStamp){get64(at), get64(at + 8), (gint64)get64(at + 16), (gint64)get64(at + 24)};
}

/* What is in place of a summary. */
static const char *
get_id(const guint8 *at, gsize length)
{
    const char *id = (const char *)at + 4;
    return length > 5 && get32(at) == length - 5 &&
                   memchr(id, '\0', length - 4) == id + length - 5 && vmb_layout_is_point_id(id)
               ? id
               : NULL;
}

static gboolean
read_record(const VmbCatalog *catalog, const guint8 *bytes, gsize at, gsize end,
            VmbCatalogRecord *record)
{
    if (end - at < VMB_CATALOG_RECORD_HEAD)
        return FALSE;
    record->stamps = (VmbStamps){get_stamp(bytes + at), get_stamp(bytes + at + VMB_CATALOG_STAMP),
                                 get_stamp(bytes + at + 2 * VMB_CATALOG_STAMP)};
    record->length = get32(bytes + at + 3 * VMB_CATALOG_STAMP);
    record->has_summary = record->stamps.directory.inode != 0;
    record->offset = at + VMB_CATALOG_RECORD_HEAD;
    if (record->length > end - record->offset)
        return FALSE;
    if (record->has_summary)
        return vmb_summary_peek(catalog->bytes, record->offset, record->length, &record->id,
                                &record->sequence);
    record->id = get_id(bytes + record->offset, record->length);
    return record->id != NULL;
}

/* Appends all records up to @end; FALSE if they do not fill it, or not in order. */
static gboolean
index_records(VmbCatalog *catalog, const guint8 *bytes, gsize end, guint32 n)
{
    gsize at = VMB_CATALOG_HEADER;
    const char *last = "";
    for (guint32 i = 0; i < n; i++) {
        VmbCatalogRecord record = {0};
        if (!read_record(catalog, bytes, at, end, &record) || strcmp(last, record.id) >= 0)
            return FALSE;
        g_array_append_val(catalog->records, record);
        at = record.offset + record.length;
        last = record.id;
    }
    return at == end;
}

static gboolean
check_digest(const guint8 *bytes, gsize length)
{
    guint8 digest[VMB_DIGEST_SIZE];
    g_autoptr(VmbDigest) sum = vmb_digest_new();
    vmb_digest_block(sum, bytes, length, digest);
    return memcmp(digest, bytes + length, sizeof digest) == 0;
}

/* Takes @text. */
static VmbCatalog *
parse(char *text, gsize length)
{
    g_autoptr(VmbCatalog) catalog = g_new0(VmbCatalog, 1);
    const guint8 *bytes = (const guint8 *)text;
    catalog->bytes = g_bytes_new_take(text, length);
    catalog->records = g_array_new(FALSE, FALSE, sizeof(VmbCatalogRecord));
    if (length < VMB_CATALOG_HEADER + VMB_DIGEST_SIZE ||
        memcmp(bytes, VMB_CATALOG_MAGIC, strlen(VMB_CATALOG_MAGIC)) != 0 ||
        get32(bytes + 8) != VMB_SUMMARY_FORMAT || !check_digest(bytes, length - VMB_DIGEST_SIZE) ||
        !index_records(catalog, bytes, length - VMB_DIGEST_SIZE, get32(bytes + 12)))
        return NULL;
    catalog->points = get_stamp(bytes + 16);
    return g_steal_pointer(&catalog);
}

gboolean
vmb_catalog_is_suspended(VmbRepoDomain *domain)
{
    struct stat st;
    return fstatat(domain->fd, VMB_LAYOUT_FOLD, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

VmbCatalog *
vmb_catalog_load(VmbRepoDomain *domain)
{
    g_autoptr(GError) error = NULL;
    char *text = NULL;
    gsize length = 0;
    int err = 0;
    if (vmb_catalog_is_suspended(domain))
        return NULL;
    if (!vmb_directory_read(domain->fd, VMB_LAYOUT_CATALOG, VMB_CATALOG_MAX_FILE, domain->uuid,
                            &text, &length, &err, &error)) {
        if (err != ENOENT)
            vmb_debug("the catalog is not used: %s", error->message);
        return NULL;
    }
    VmbCatalog *catalog = parse(text, length);
    if (catalog == NULL)
        vmb_debug("the catalog of %s is damaged, or another version's: not used", domain->uuid);
    return catalog;
}

const VmbCatalogRecord *
vmb_catalog_records(const VmbCatalog *catalog, guint *n)
{
    *n = catalog != NULL ? catalog->records->len : 0;
    return *n > 0 ? (const VmbCatalogRecord *)(gconstpointer)catalog->records->data : NULL;
}

static int
compare_id(const void *id, const void *record)
{
    return strcmp(id, ((const VmbCatalogRecord *)record)->id);
}

const VmbCatalogRecord *
vmb_catalog_find_record(const VmbCatalog *catalog, const char *id)
{
    guint n = 0;
    const VmbCatalogRecord *records = vmb_catalog_records(catalog, &n);
    return n > 0 ? bsearch(id, records, n, sizeof *records, compare_id) : NULL;
}

/* All zero if there is nothing of that name. */
VmbStamp
vmb_catalog_stamp(int dir_fd, const char *path)
{
    struct stat st;
    if (fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return (VmbStamp){0};
    return (VmbStamp){st.st_ino, (guint64)st.st_size, vmb_catalog_ns(&st.st_mtim),
                      vmb_catalog_ns(&st.st_ctim)};
}

static VmbStamp
stamp_of_document(int points_fd, const char *id, const char *name)
{
    char path[64]; /* an id is shorter than half of that */
    g_snprintf(path, sizeof path, "%s/%s", id, name);
    return vmb_catalog_stamp(points_fd, path);
}

static gboolean
is_same(const VmbStamp *a, const VmbStamp *b)
{
    return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

VmbStamps
vmb_catalog_stamps(int points_fd, const char *id)
{
    VmbStamps stamps = {vmb_catalog_stamp(points_fd, id),
                        stamp_of_document(points_fd, id, VMB_LAYOUT_MANIFEST),
                        stamp_of_document(points_fd, id, VMB_LAYOUT_STATE)};
    return stamps.directory.inode != 0 && stamps.manifest.inode != 0 ? stamps : (VmbStamps){0};
}

static gboolean
is_true(const VmbStamps *stamps, int points_fd, const char *id, VmbSummariesMode mode)
{
    VmbStamp now = vmb_catalog_stamp(points_fd, id);
    if (!is_same(&now, &stamps->directory))
        return FALSE;
    if (mode == VMB_SUMMARIES_QUICK)
        return TRUE;
    now = stamp_of_document(points_fd, id, VMB_LAYOUT_MANIFEST);
    if (!is_same(&now, &stamps->manifest))
        return FALSE;
    now = stamp_of_document(points_fd, id, VMB_LAYOUT_STATE);
    return is_same(&now, &stamps->state);
}

gboolean
vmb_catalog_is_complete(const VmbCatalog *catalog, VmbRepoDomain *domain)
{
    if (catalog == NULL || catalog->points.inode == 0)
        return FALSE;
    VmbStamp now = vmb_catalog_stamp(domain->fd, VMB_LAYOUT_POINTS);
    return is_same(&now, &catalog->points);
}

VmbSummary *
vmb_catalog_summary(const VmbCatalog *catalog, const VmbCatalogRecord *record, int points_fd,
                    VmbSummariesMode mode)
{
    if (!record->has_summary || !is_true(&record->stamps, points_fd, record->id, mode))
        return NULL;
    VmbSummary *summary = vmb_summary_decode(catalog->bytes, record->offset, record->length);
    if (summary != NULL) {
        summary->cached = TRUE;
        summary->stamps = record->stamps;
    }
    return summary;
}
