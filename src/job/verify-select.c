/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points a verification reads, and in which order: the longest unverified first. */
#include "job/verify-select.h"
#include "repo/state.h"

#include <string.h>

void
vmb_verify_item_free(VmbVerifyItem *item)
{
    if (item == NULL)
        return;
    g_free(item->uuid);
    g_free(item->id);
    g_free(item);
}

char *
vmb_verify_key(const char *id, const char *disk_id)
{
    return g_strdup_printf("%s/%s", id, disk_id);
}

static gboolean
is_needed(GHashTable *needed, const VmbPoint *point, const VmbManifestDisk *disk)
{
    g_autofree char *key = vmb_verify_key(point->id, disk->id);
    return !point->retired || g_hash_table_contains(needed, key);
}

/* From the newest on, so that what a point needs is known before its parent's turn. */
GHashTable *
vmb_verify_needed(GPtrArray *points)
{
    GHashTable *needed = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
            const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
            if (disk->parent != NULL && is_needed(needed, point, disk))
                g_hash_table_add(needed, vmb_verify_key(disk->parent, disk->id));
        }
    }
    return needed;
}

GPtrArray *
vmb_verify_disks(const VmbPoint *point, GHashTable *needed)
{
    GPtrArray *disks = g_ptr_array_new();
    for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++)
        if (is_needed(needed, point, point->manifest->disks->pdata[d]))
            g_ptr_array_add(disks, point->manifest->disks->pdata[d]);
    return disks;
}

static guint64
bytes_of(const VmbPoint *point, const GPtrArray *disks)
{
    guint64 bytes = 0;
    if (point->manifest != NULL && !point->retired)
        return vmb_manifest_stored(point->manifest);
    for (guint i = 0; i < disks->len; i++) {
        const VmbManifestDisk *disk = disks->pdata[i];
        bytes += disk->image_size + disk->digests_size;
    }
    return bytes;
}

static void
read_times(VmbVerifyItem *item, VmbPoint *point)
{
    g_auto(VmbPointState) state = {0};
    if (vmb_point_state_read(point, &state, NULL))
        item->verified_ns = state.verified_ns;
    else
        item->forgetful = TRUE;
}

void
vmb_verify_list(GPtrArray *points, GHashTable *only, GPtrArray *items)
{
    g_autoptr(GHashTable) needed = vmb_verify_needed(points);
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        g_autoptr(GPtrArray) disks = vmb_verify_disks(point, needed);
        if (only != NULL && !g_hash_table_contains(only, point->id))
            continue;
        if (point->retired && disks->len == 0)
            continue;
        VmbVerifyItem *item = g_new0(VmbVerifyItem, 1);
        item->uuid = g_strdup(point->uuid);
        item->id = g_strdup(point->id);
        item->bytes = bytes_of(point, disks);
        if (point->manifest != NULL) {
            item->sequence = point->manifest->sequence;
            item->made_ns = point->manifest->time_ns;
        }
        read_times(item, point);
        g_ptr_array_add(items, item);
    }
}

static gboolean
is_past(gint64 time_ns, gint64 now_ns)
{
    return time_ns > 0 && time_ns <= now_ns;
}

/* Since when it is not verified; 0: since ever. */
static gint64
since(const VmbVerifyItem *item, gint64 now_ns)
{
    if (is_past(item->verified_ns, now_ns))
        return item->verified_ns;
    return is_past(item->made_ns, now_ns) ? item->made_ns : 0;
}

static int
compare_items(gconstpointer a, gconstpointer b, gpointer user)
{
    const VmbVerifyItem *x = *(const VmbVerifyItem *const *)a;
    const VmbVerifyItem *y = *(const VmbVerifyItem *const *)b;
    const VmbVerifyChoice *choice = user;
    gint64 p = since(x, choice->now_ns), q = since(y, choice->now_ns);
    if (p != q)
        return p < q ? -1 : 1;
    int order = strcmp(x->uuid, y->uuid);
    if (order == 0 && x->sequence != y->sequence)
        return x->sequence < y->sequence ? -1 : 1;
    return order != 0 ? order : strcmp(x->id, y->id);
}

static gboolean
is_due(const VmbVerifyItem *item, const VmbVerifyChoice *choice)
{
    return choice->older_than_ns == 0 || !is_past(item->verified_ns, choice->now_ns) ||
           (guint64)(choice->now_ns - item->verified_ns) > choice->older_than_ns;
}

void
vmb_verify_sort(GPtrArray *items, const VmbVerifyChoice *choice)
{
    for (guint i = items->len; i-- > 0;)
        if (!is_due(items->pdata[i], choice))
            g_ptr_array_remove_index_fast(items, i);
    g_ptr_array_sort_with_data(items, compare_items, (gpointer)choice);
}

guint
vmb_verify_take(const GPtrArray *items, guint first, guint64 total, guint64 done,
                const VmbVerifyChoice *choice)
{
    guint n = 0;
    if (choice->sample >= VMB_VERIFY_ALL)
        return items->len - first;
    /* Rounded up, and in an order that cannot overflow. */
    guint64 target = total / VMB_VERIFY_ALL * choice->sample +
                     (total % VMB_VERIFY_ALL * choice->sample + VMB_VERIFY_ALL - 1) /
                         VMB_VERIFY_ALL;
    while (first + n < items->len && (done < target || (first == 0 && n == 0))) {
        const VmbVerifyItem *item = items->pdata[first + n];
        done += item->forgetful ? 0 : item->bytes;
        n++;
    }
    return n;
}
