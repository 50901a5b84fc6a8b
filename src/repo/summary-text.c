/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A summary as bytes: numbers little-endian, strings with their length and a zero at the end. */
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "repo/summary-text.h"
#include "util/text.h"
#include "util/units.h"

#include <string.h>

#define NO_STRING G_MAXUINT32
#define MAX_STRING 65536u
#define MAX_BYTES (4 * VMB_SIZE_MAX) /* of a file: that many of that size can still be added up */
#define MIN_TAG 6u                   /* length, a letter, zero */
#define MIN_DISK 100u                /* less than the least that one takes */

enum { RETIRED = 1, PROTECTED = 2, METADATA_DAMAGED = 4, STATE_UNREADABLE = 8, ALL_FLAGS = 15 };

/* What VMB_SUMMARY_FORMAT stands for. */
G_STATIC_ASSERT(VMB_LEVEL_INCREMENTAL == 1 && VMB_METHOD_COMPARE == 2 && VMB_METHOD_OFFLINE == 3);
G_STATIC_ASSERT(VMB_CONSISTENCY_FILESYSTEM == 2 && VMB_CONSISTENCY_OFFLINE == 4);
static const char *const results[] = {NULL, "ok", "damaged"};

static void
put32(GByteArray *out, guint32 value)
{
    value = GUINT32_TO_LE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static void
put64(GByteArray *out, guint64 value)
{
    value = GUINT64_TO_LE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static void
put_string(GByteArray *out, const char *text)
{
    put32(out, text != NULL ? (guint32)strlen(text) : NO_STRING);
    if (text != NULL)
        g_byte_array_append(out, (const guint8 *)text, (guint)strlen(text) + 1);
}

static guint32
result_number(const VmbPointState *state)
{
    guint32 n = G_N_ELEMENTS(results);
    while (--n > 0)
        if (g_strcmp0(results[n], state->verify_result) == 0)
            break;
    return n;
}

static gboolean
is_damaged(const VmbPointState *state, const char *disk)
{
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++)
        if (strcmp(((const VmbDamage *)state->damage->pdata[i])->disk, disk) == 0)
            return TRUE;
    return FALSE;
}

static void
put_disk(GByteArray *out, const VmbManifestDisk *disk, const VmbPointState *state)
{
    put32(out, disk->level);
    put32(out, disk->method);
    put32(out, is_damaged(state, disk->id));
    put64(out, disk->size);
    put64(out, disk->image_size);
    put64(out, disk->digests_size);
    put64(out, disk->data_blocks);
    put64(out, disk->zero_blocks);
    put64(out, disk->stored_bytes);
    put64(out, disk->replaced_bytes);
    put64(out, disk->replaced_by_bytes);
    put64(out, disk->folded);
    put_string(out, disk->target);
    put_string(out, disk->id);
    put_string(out, disk->reason < VMB_N_REASONS ? vmb_reason_name(disk->reason) : NULL);
    put_string(out, disk->parent);
    put_string(out, disk->replaced_by);
    put_string(out, disk->synthetic_from);
}

GBytes *
vmb_summary_encode(const VmbPoint *point, const VmbPointState *state)
{
    static const VmbPointState nothing;
    const VmbManifest *manifest = point->manifest;
    const VmbPointState *known = state != NULL ? state : &nothing;
    GByteArray *out = g_byte_array_new();
    guint n_tags = known->tags != NULL ? known->tags->len : 0;
    guint64 files = 0;
    for (guint i = 0; i < manifest->files->len; i++)
        files += ((const VmbManifestFile *)manifest->files->pdata[i])->size;
    put32(out, (guint32)((point->retired ? RETIRED : 0) | (known->is_protected ? PROTECTED : 0) |
                         (known->metadata_damaged ? METADATA_DAMAGED : 0) |
                         (state == NULL ? STATE_UNREADABLE : 0)));
    put32(out, manifest->level);
    put32(out, manifest->consistency);
    put32(out, result_number(known));
    put64(out, manifest->sequence);
    put64(out, (guint64)manifest->time_ns);
    put64(out, files);
    put64(out, (guint64)known->verified_ns);
    put64(out, (guint64)known->checked_ns);
    put32(out, n_tags);
    put32(out, manifest->disks->len);
    put_string(out, point->id);
    put_string(out, manifest->domain);
    for (guint i = 0; i < n_tags; i++)
        put_string(out, known->tags->pdata[i]);
    for (guint i = 0; i < manifest->disks->len; i++)
        put_disk(out, manifest->disks->pdata[i], known);
    return g_byte_array_free_to_bytes(out);
}

/* What is left to read; once something was wrong, all that follows is zero. */
typedef struct {
    const guint8 *at;
    gsize left;
    gboolean wrong;
} Cursor;

static const guint8 *
take(Cursor *cursor, gsize length)
{
    static const guint8 zero[8];
    if (cursor->wrong || cursor->left < length) {
        cursor->wrong = TRUE;
        return length <= sizeof zero ? zero : NULL;
    }
    const guint8 *at = cursor->at;
    cursor->at += length;
    cursor->left -= length;
    return at;
}

static guint32
get32(Cursor *cursor, guint32 limit)
{
    guint32 value;
    memcpy(&value, take(cursor, sizeof value), sizeof value);
    value = GUINT32_FROM_LE(value);
    if (value > limit)
        cursor->wrong = TRUE;
    return cursor->wrong ? 0 : value;
}

static guint64
get64(Cursor *cursor, guint64 limit)
{
    guint64 value;
    memcpy(&value, take(cursor, sizeof value), sizeof value);
    value = GUINT64_FROM_LE(value);
    if (value > limit)
        cursor->wrong = TRUE;
    return cursor->wrong ? 0 : value;
}

static gboolean
is_text(const char *text)
{
    return text[0] != '\0';
}

/* A string that @is_valid accepts, or NULL when @optional; after something wrong an empty one. */
static const char *
get_string(Cursor *cursor, gboolean optional, gboolean (*is_valid)(const char *text))
{
    guint32 length = get32(cursor, NO_STRING);
    if (length == NO_STRING && optional && !cursor->wrong)
        return NULL;
    if (length > MAX_STRING)
        cursor->wrong = TRUE;
    const char *text = cursor->wrong ? NULL : (const char *)take(cursor, (gsize)length + 1);
    if (cursor->wrong || memchr(text, '\0', (gsize)length + 1) != text + length ||
        !g_utf8_validate_len(text, length, NULL) || !is_valid(text)) {
        cursor->wrong = TRUE;
        return "";
    }
    return text;
}

static gboolean
is_reason(const char *text)
{
    return vmb_reason_from_name(text) < VMB_N_REASONS;
}

static void
get_disk(Cursor *cursor, VmbSummaryDisk *disk)
{
    disk->level = (VmbLevel)get32(cursor, VMB_LEVEL_INCREMENTAL);
    disk->method = (VmbMethod)get32(cursor, VMB_METHOD_OFFLINE);
    disk->damaged = get32(cursor, 1) == 1;
    disk->size = get64(cursor, VMB_SIZE_MAX);
    disk->image_size = get64(cursor, MAX_BYTES);
    disk->digests_size = get64(cursor, MAX_BYTES);
    disk->data_blocks = get64(cursor, VMB_SIZE_MAX / VMB_BLOCK_SIZE);
    disk->zero_blocks = get64(cursor, VMB_SIZE_MAX / VMB_BLOCK_SIZE);
    disk->stored_bytes = get64(cursor, MAX_BYTES);
    disk->replaced_bytes = get64(cursor, VMB_BYTES_UNKNOWN);
    disk->replaced_by_bytes = get64(cursor, G_MAXUINT64);
    disk->folded = get64(cursor, G_MAXUINT64);
    disk->target = get_string(cursor, FALSE, vmb_text_is_name);
    disk->id = get_string(cursor, FALSE, is_text);
    const char *reason = get_string(cursor, TRUE, is_reason);
    disk->reason = reason != NULL ? vmb_reason_from_name(reason) : VMB_N_REASONS;
    disk->parent = get_string(cursor, TRUE, vmb_layout_is_point_id);
    disk->replaced_by = get_string(cursor, TRUE, vmb_layout_is_point_id);
    disk->synthetic_from = get_string(cursor, TRUE, vmb_layout_is_point_id);
    if (disk->size == 0 || (disk->level == VMB_LEVEL_FULL) != (disk->parent == NULL))
        cursor->wrong = TRUE;
}

static void
get_numbers(Cursor *cursor, VmbSummary *summary)
{
    guint32 flags = get32(cursor, ALL_FLAGS);
    summary->retired = (flags & RETIRED) != 0;
    summary->is_protected = (flags & PROTECTED) != 0;
    summary->metadata_damaged = (flags & METADATA_DAMAGED) != 0;
    summary->state_unreadable = (flags & STATE_UNREADABLE) != 0;
    summary->level = (VmbLevel)get32(cursor, VMB_LEVEL_INCREMENTAL);
    summary->consistency = (VmbConsistency)get32(cursor, VMB_CONSISTENCY_OFFLINE);
    summary->verify_result = results[get32(cursor, G_N_ELEMENTS(results) - 1)];
    summary->sequence = get64(cursor, VMB_SEQUENCE_MAX);
    summary->time_ns = (gint64)get64(cursor, G_MAXINT64);
    summary->files_bytes = get64(cursor, VMB_MANIFEST_MAX_ELEMENTS * VMB_SIZE_MAX);
    summary->verified_ns = (gint64)get64(cursor, G_MAXINT64);
    summary->checked_ns = (gint64)get64(cursor, G_MAXINT64);
    if (summary->sequence == 0)
        cursor->wrong = TRUE;
}

/* One piece of memory with room for the lists. */
static VmbSummary *
summary_new(guint n_tags, guint n_disks)
{
    gsize disks = sizeof(VmbSummary), tags = disks + n_disks * sizeof(VmbSummaryDisk);
    guint8 *memory = g_malloc0(tags + (n_tags + 1) * sizeof(char *));
    VmbSummary *summary = (VmbSummary *)(gpointer)memory;
    summary->disks = (VmbSummaryDisk *)(gpointer)(memory + disks);
    summary->tags = (const char *const *)(gpointer)(memory + tags);
    summary->n_disks = n_disks;
    return summary;
}

/* FALSE if there are not so many bytes. */
static gboolean
cursor_of(GBytes *text, gsize offset, gsize length, Cursor *cursor)
{
    gsize all = 0;
    const guint8 *bytes = g_bytes_get_data(text, &all);
    if (bytes == NULL || offset > all || length > all - offset)
        return FALSE;
    *cursor = (Cursor){bytes + offset, length, FALSE};
    return TRUE;
}

gboolean
vmb_summary_peek(GBytes *text, gsize offset, gsize length, const char **id, guint64 *sequence)
{
    Cursor cursor;
    VmbSummary numbers = {0};
    if (!cursor_of(text, offset, length, &cursor))
        return FALSE;
    get_numbers(&cursor, &numbers);
    *sequence = numbers.sequence;
    take(&cursor, 2 * sizeof(guint32)); /* the lengths of the lists */
    *id = get_string(&cursor, FALSE, vmb_layout_is_point_id);
    return !cursor.wrong;
}

VmbSummary *
vmb_summary_decode(GBytes *text, gsize offset, gsize length)
{
    Cursor cursor;
    VmbSummary numbers = {0};
    if (!cursor_of(text, offset, length, &cursor))
        return NULL;
    get_numbers(&cursor, &numbers);
    guint n_tags = get32(&cursor, VMB_STATE_MAX_TAGS);
    guint n_disks = get32(&cursor, VMB_MANIFEST_MAX_ELEMENTS);
    if (cursor.wrong || n_tags * MIN_TAG + n_disks * MIN_DISK > cursor.left)
        return NULL;
    g_autoptr(VmbSummary) summary = summary_new(n_tags, n_disks);
    numbers.disks = summary->disks;
    numbers.tags = summary->tags;
    numbers.n_disks = n_disks;
    *summary = numbers;
    summary->text = g_bytes_ref(text);
    summary->text_offset = offset;
    summary->text_length = length;
    summary->id = get_string(&cursor, FALSE, vmb_layout_is_point_id);
    summary->domain = get_string(&cursor, FALSE, is_text);
    const char **tags = (const char **)summary->tags;
    for (guint i = 0; i < n_tags; i++)
        tags[i] = get_string(&cursor, FALSE, vmb_text_is_name);
    for (guint i = 0; i < n_disks && !cursor.wrong; i++)
        get_disk(&cursor, &summary->disks[i]);
    return cursor.wrong || cursor.left > 0 ? NULL : g_steal_pointer(&summary);
}

VmbSummary *
vmb_summary_new_damaged(const char *id, gboolean retired, GError *damage)
{
    VmbSummary *summary = summary_new(0, 0);
    summary->text = g_bytes_new(id, strlen(id) + 1);
    summary->id = g_bytes_get_data(summary->text, NULL);
    summary->retired = retired;
    summary->damage = damage;
    summary->state_unreadable = TRUE;
    return summary;
}
