/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Summaries of points: from the catalog where that is up to date, else from the documents. */
#include "repo/catalog.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/summary-text.h"
#include "util/error.h"
#include "util/log.h"

#include <fcntl.h>
#include <string.h>

void
vmb_summary_free(VmbSummary *summary)
{
    if (summary == NULL)
        return;
    g_clear_error(&summary->damage);
    g_clear_pointer(&summary->text, g_bytes_unref);
    g_free(summary);
}

/* Where summaries come from. */
typedef struct {
    VmbRepoDomain *domain;
    VmbCatalog *catalog; /* may be NULL */
    GPtrArray *ids;      /* of all points, sorted; in the catalog or in @names */
    GPtrArray *names;
    VmbFd points_fd;   /* -1: there are none */
    gboolean no_state; /* what is not in the catalog is needed without its state */
} Source;

static void
source_clear(Source *source)
{
    g_clear_pointer(&source->ids, g_ptr_array_unref);
    g_clear_pointer(&source->names, g_ptr_array_unref);
    g_clear_pointer(&source->catalog, vmb_catalog_free);
    vmb_fd_clear(&source->points_fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Source, source_clear)

/* The ids in the catalog if it names them all. */
static gboolean
take_ids(Source *source, gboolean complain, GError **error)
{
    guint n = 0;
    if (!vmb_catalog_is_complete(source->catalog, source->domain)) {
        source->names = vmb_repo_domain_point_ids(source->domain, complain, error);
        source->ids = source->names != NULL ? g_ptr_array_ref(source->names) : NULL;
        return source->ids != NULL;
    }
    const VmbCatalogRecord *records = vmb_catalog_records(source->catalog, &n);
    source->ids = g_ptr_array_sized_new(n);
    for (guint i = 0; i < n; i++)
        g_ptr_array_add(source->ids, (gpointer)records[i].id);
    return TRUE;
}

static gboolean
source_open(Source *source, VmbRepoDomain *domain, gboolean complain, GError **error)
{
    source->domain = domain;
    source->catalog = vmb_catalog_load(domain);
    if (!take_ids(source, complain, error) || source->ids->len == 0)
        return source->ids != NULL;
    source->points_fd = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS, O_RDONLY | O_DIRECTORY,
                                            0, domain->uuid, error);
    return source->points_fd >= 0;
}

static VmbSummary *
summarise(VmbPoint *point, gboolean no_state)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbPointState) state = {0};
    if (point->manifest == NULL)
        return vmb_summary_new_damaged(point->id, point->retired, g_steal_pointer(&point->damage));
    gboolean known = !no_state && vmb_point_state_read(point, &state, &error);
    if (error != NULL)
        vmb_debug("%s", error->message);
    g_autoptr(GBytes) text = vmb_summary_encode(point, known ? &state : NULL);
    VmbSummary *summary = vmb_summary_decode(text, 0, g_bytes_get_size(text));
    if (summary == NULL)
        summary = vmb_summary_new_damaged(point->id, point->retired,
                                          g_error_new(VMB_ERROR, VMB_ERROR_DAMAGE,
                                                      "%s/%s: a manifest of implausible content",
                                                      point->manifest->domain, point->id));
    return summary;
}

/* NULL without an error if there is no such point (any more). */
static VmbSummary *
read_one(const Source *source, const char *id, VmbSummariesMode mode, GError **error)
{
    const VmbCatalogRecord *record = vmb_catalog_find_record(source->catalog, id);
    VmbSummary *summary = NULL;
    if (record != NULL)
        summary = vmb_catalog_summary(source->catalog, record, source->points_fd, mode);
    if (summary != NULL)
        return summary;
    VmbStamps stamps = vmb_catalog_stamps(source->points_fd, id);
    g_autoptr(VmbPoint) point = vmb_repo_domain_read_point(source->domain, id, error);
    if (point == NULL)
        return NULL;
    summary = summarise(point, source->no_state);
    summary->stamps = stamps;
    return summary;
}

static int
compare_summaries(gconstpointer a, gconstpointer b)
{
    const VmbSummary *p = *(VmbSummary *const *)a, *q = *(VmbSummary *const *)b;
    if ((p->damage != NULL) != (q->damage != NULL))
        return p->damage != NULL ? 1 : -1;
    if (p->sequence != q->sequence)
        return p->sequence < q->sequence ? -1 : 1;
    return strcmp(p->id, q->id);
}

/* While a fold is under way, one point's document does not tell all. */
static GPtrArray *
summarise_all(VmbRepoDomain *domain, GError **error)
{
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, error);
    if (points == NULL)
        return NULL;
    GPtrArray *summaries = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_summary_free);
    for (guint i = 0; i < points->len; i++)
        g_ptr_array_add(summaries, summarise(points->pdata[i], FALSE));
    return summaries;
}

GPtrArray *
vmb_repo_domain_summaries(VmbRepoDomain *domain, VmbSummariesMode mode, GError **error)
{
    if (mode == VMB_SUMMARIES_FRESH || vmb_catalog_is_suspended(domain))
        return summarise_all(domain, error);
    g_auto(Source) source = {.points_fd = -1};
    g_autoptr(GPtrArray) summaries =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_summary_free);
    if (!source_open(&source, domain, TRUE, error))
        return NULL;
    for (guint i = 0; i < source.ids->len; i++) {
        g_autoptr(GError) local = NULL;
        VmbSummary *summary = read_one(&source, source.ids->pdata[i], mode, &local);
        if (local != NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (summary != NULL)
            g_ptr_array_add(summaries, summary);
    }
    g_ptr_array_sort(summaries, compare_summaries);
    return g_steal_pointer(&summaries);
}

/* For each id the highest number that it or one before it has, by the catalog; without a record it
 * is the highest number that was ever given, which is unknown (G_MAXUINT64) if nobody wrote it
 * down. */
static guint64 *
highest_numbers(const Source *source)
{
    guint64 *numbers = g_new(guint64, source->ids->len), highest = 0, given = 0;
    gboolean asked = FALSE;
    for (guint i = 0; i < source->ids->len; i++) {
        const VmbCatalogRecord *record =
            vmb_catalog_find_record(source->catalog, source->ids->pdata[i]);
        gboolean known = record != NULL && record->has_summary;
        if (!known && !asked) {
            asked = TRUE;
            if (!vmb_repo_domain_read_sequence(source->domain, &given, NULL) || given == 0)
                given = G_MAXUINT64;
        }
        highest = MAX(highest, known ? record->sequence : given);
        numbers[i] = highest;
    }
    return numbers;
}

/* Frees what the domain's other summaries are in. */
static VmbSummary *
detach(VmbSummary *summary)
{
    if (summary == NULL || !summary->cached)
        return summary;
    g_autoptr(GBytes) text =
        g_bytes_new((const guint8 *)g_bytes_get_data(summary->text, NULL) + summary->text_offset,
                    summary->text_length);
    VmbSummary *copy = vmb_summary_decode(text, 0, summary->text_length);
    vmb_summary_free(summary);
    return copy;
}

/* From the latest id on, until no earlier one can have a higher number. */
VmbSummary *
vmb_repo_domain_newest(VmbRepoDomain *domain, GError **error)
{
    g_auto(Source) source = {.points_fd = -1, .no_state = TRUE};
    g_autoptr(VmbSummary) newest = NULL;
    if (!source_open(&source, domain, FALSE, error))
        return NULL;
    g_autofree guint64 *highest = highest_numbers(&source);
    for (guint i = source.ids->len; i-- > 0;) {
        g_autoptr(GError) local = NULL;
        if (newest != NULL && newest->sequence >= highest[i])
            break;
        g_autoptr(VmbSummary) summary =
            read_one(&source, source.ids->pdata[i], VMB_SUMMARIES_QUICK, &local);
        if (local != NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (summary == NULL || summary->damage != NULL || summary->retired ||
            (newest != NULL && summary->sequence <= newest->sequence))
            continue;
        vmb_summary_free(newest);
        newest = g_steal_pointer(&summary);
    }
    return detach(g_steal_pointer(&newest));
}

guint64
vmb_summary_stored(const VmbSummary *summary)
{
    guint64 bytes = summary->files_bytes;
    for (guint i = 0; i < summary->n_disks; i++)
        bytes += summary->disks[i].image_size + summary->disks[i].digests_size;
    return bytes;
}

/* What is known of a point while those that build on it are looked for. */
typedef struct {
    const VmbSummary *summary;
    guint64 *frees;
    gboolean *has_child; /* per disk */
} Frees;

static void
frees_free(gpointer data)
{
    Frees *of = data;
    g_free(of->has_child);
    g_free(of);
}

static void
add_known(guint64 *sum, guint64 bytes)
{
    if (*sum != VMB_BYTES_UNKNOWN)
        *sum = bytes != VMB_BYTES_UNKNOWN ? *sum + bytes : bytes;
}

/* @disk of the point @child builds on that of @of. */
static void
add_child(Frees *of, const char *child, const VmbSummaryDisk *disk)
{
    for (guint i = 0; i < of->summary->n_disks; i++) {
        const VmbSummaryDisk *own = &of->summary->disks[i];
        if (strcmp(own->id, disk->id) != 0)
            continue;
        guint64 hidden = disk->replaced_bytes;
        if (g_strcmp0(own->replaced_by, child) == 0)
            hidden = own->replaced_by_bytes;
        if (hidden != VMB_BYTES_UNKNOWN)
            hidden = MIN(hidden, own->image_size);
        /* Of two children each may need what the other one hides. */
        add_known(of->frees, of->has_child[i] ? VMB_BYTES_UNKNOWN : hidden);
        of->has_child[i] = TRUE;
    }
}

static void
add_childless(Frees *of, gboolean may_have_unread)
{
    for (guint i = 0; i < of->summary->n_disks; i++) {
        const VmbSummaryDisk *disk = &of->summary->disks[i];
        if (!of->has_child[i])
            add_known(of->frees,
                      may_have_unread ? VMB_BYTES_UNKNOWN : disk->image_size + disk->digests_size);
    }
}

void
vmb_summaries_frees(const GPtrArray *summaries, guint64 *frees)
{
    g_autoptr(GHashTable) by_id = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, frees_free);
    gboolean any_damaged = FALSE;
    for (guint i = 0; i < summaries->len; i++) {
        const VmbSummary *summary = summaries->pdata[i];
        Frees *of = g_new0(Frees, 1);
        *of = (Frees){summary, &frees[i], g_new0(gboolean, summary->n_disks)};
        frees[i] = summary->damage != NULL ? VMB_BYTES_UNKNOWN : summary->files_bytes;
        any_damaged |= summary->damage != NULL;
        g_hash_table_insert(by_id, (gpointer)summary->id, of);
    }
    for (guint i = 0; i < summaries->len; i++) {
        const VmbSummary *summary = summaries->pdata[i];
        for (guint d = 0; d < summary->n_disks; d++) {
            const VmbSummaryDisk *disk = &summary->disks[d];
            Frees *parent = disk->parent != NULL ? g_hash_table_lookup(by_id, disk->parent) : NULL;
            if (parent != NULL)
                add_child(parent, summary->id, disk);
        }
    }
    for (guint i = 0; i < summaries->len; i++)
        add_childless(g_hash_table_lookup(by_id, ((VmbSummary *)summaries->pdata[i])->id),
                      any_damaged);
}
