/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The digests of an image into which another one was folded: those of both, the newer ones first. */
#include "image/fold-digests.h"
#include "image/digest-file.h"
#include "util/error.h"
#include "util/units.h"

/* One of the two files, and the first of its records that is still needed. */
typedef struct {
    VmbDigestReader *reader;
    VmbDigestRecord record;
    guint64 first, end; /* blocks of it that are still to come; none: first == end */
    gboolean over;
} Source;

typedef struct {
    Source parent, child;
    guint64 parent_blocks, blocks; /* of the disks */
    gboolean full;
    VmbDigestWriter *writer;
    guint64 next; /* block: all before it are written */
} Merge;

static gboolean
advance(Source *source, GError **error)
{
    gboolean end = FALSE;
    if (source->over || source->first < source->end)
        return TRUE;
    if (!vmb_digest_reader_next(source->reader, &source->record, &end, error))
        return FALSE;
    source->over = end;
    source->first = end ? G_MAXUINT64 : source->record.offset / VMB_BLOCK_SIZE;
    source->end = end ? G_MAXUINT64 : source->first + source->record.n_blocks;
    return TRUE;
}

static gboolean
put(Merge *merge, const VmbDigestRecord *record, guint64 first, guint64 end, GError **error)
{
    guint64 offset = first * VMB_BLOCK_SIZE;
    merge->next = end;
    if (!record->zero)
        return vmb_digest_writer_data(merge->writer, offset, record->digest, record->check, error);
    return merge->full ||
           vmb_digest_writer_zero(merge->writer, offset, (end - first) * VMB_BLOCK_SIZE, error);
}

/* What neither file has, from merge->next to @end: behind the parent's end it reads as zero, whatever lies below.
 */
static gboolean
put_gap(Merge *merge, guint64 end, GError **error)
{
    const VmbDigestRecord zero = {.zero = TRUE};
    guint64 first = MAX(merge->next, merge->parent_blocks);
    merge->next = end;
    return first >= end || put(merge, &zero, first, end, error);
}

/* The next piece of what the parent has, up to @limit, where the child has something (or the disk ends). */
static gboolean
merge_parent(Merge *merge, guint64 limit, GError **error)
{
    Source *parent = &merge->parent;
    for (;;) {
        if (!advance(parent, error))
            return FALSE;
        if (parent->over || parent->first >= limit)
            return put_gap(merge, limit, error);
        guint64 end = MIN(parent->end, limit);
        if (!put_gap(merge, parent->first, error) ||
            !put(merge, &parent->record, parent->first, end, error))
            return FALSE;
        parent->first = end;
    }
}

/* Drops what the parent has before block @end. */
static gboolean
hide_parent(Merge *merge, guint64 end, GError **error)
{
    Source *parent = &merge->parent;
    for (;;) {
        if (!advance(parent, error))
            return FALSE;
        if (parent->over || parent->first >= end)
            return TRUE;
        parent->first = MIN(parent->end, end);
    }
}

static gboolean
merge_all(Merge *merge, GError **error)
{
    Source *child = &merge->child;
    for (;;) {
        if (!advance(child, error))
            return FALSE;
        if (child->over)
            return merge_parent(merge, merge->blocks, error) &&
                   hide_parent(merge, G_MAXUINT64, error);
        if (!merge_parent(merge, child->first, error) ||
            !hide_parent(merge, child->end, error) ||
            !put(merge, &child->record, child->first, child->end, error))
            return FALSE;
        child->first = child->end;
    }
}

gboolean
vmb_fold_digests(const VmbFoldOptions *options, gboolean full, VmbFoldResult *result,
                 GError **error)
{
    const VmbFoldImage *parent = &options->parent, *child = &options->child;
    g_autoptr(VmbDigestReader) old =
        vmb_digest_reader_open(parent->digests_fd, parent->size, parent->label, error);
    g_autoptr(VmbDigestReader) new =
        old == NULL ? NULL
                    : vmb_digest_reader_open(child->digests_fd, child->size, child->label, error);
    g_autoptr(VmbDigestWriter) writer =
        new == NULL ? NULL
                    : vmb_digest_writer_new(options->digests_out, child->size, child->label, error);
    if (writer == NULL)
        return FALSE;
    Merge merge = {.parent.reader = old,
                   .child.reader = new,
                   .parent_blocks = vmb_round_up(parent->size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE,
                   .blocks = vmb_round_up(child->size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE,
                   .full = full,
                   .writer = writer};
    if (!merge_all(&merge, error) ||
        !vmb_digest_writer_finish(writer, &result->digests_size, result->digests_digest, error))
        return FALSE;
    vmb_digest_reader_digest(old, result->parent_digests_digest);
    vmb_digest_reader_digest(new, result->child_digests_digest);
    return TRUE;
}
