/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Damage in a chain: what is known of it, and what a backup learns. */
#include "job/damage.h"
#include "image/qcow2-format.h"
#include "repo/state.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>

GArray *
vmb_damage_known(const GArray *links, const char *id)
{
    GArray *ranges = g_array_new(FALSE, FALSE, sizeof(VmbDamagedRange));
    for (guint i = 0; i < links->len; i++) {
        g_auto(VmbPointState) state = {0};
        if (!vmb_point_state_read(g_array_index(links, VmbChainLink, i).point, &state, NULL))
            continue;
        for (guint d = 0; state.damage != NULL && d < state.damage->len; d++) {
            const VmbDamage *damage = state.damage->pdata[d];
            VmbDamagedRange range = {i, damage->offset, damage->length};
            if (g_strcmp0(damage->disk, id) == 0)
                g_array_append_val(ranges, range);
        }
    }
    return ranges;
}

static gboolean
overlaps(const VmbDamagedRange *range, guint64 offset, guint64 end)
{
    return range->offset < end && offset < range->offset + range->length;
}

GArray *
vmb_damage_within(const GArray *ranges, guint64 offset, guint64 end)
{
    GArray *within = NULL;
    for (guint i = 0; ranges != NULL && i < ranges->len; i++) {
        const VmbDamagedRange *range = &g_array_index(ranges, VmbDamagedRange, i);
        if (!overlaps(range, offset, end))
            continue;
        if (within == NULL)
            within = g_array_new(FALSE, FALSE, sizeof(VmbDamagedRange));
        g_array_append_val(within, *range);
    }
    return within;
}

gboolean
vmb_damage_covers(const GArray *ranges, guint64 offset, const VmbBlock *block)
{
    if (block->kind != VMB_BLOCK_PLAIN && block->kind != VMB_BLOCK_COMPRESSED)
        return FALSE;
    for (guint i = 0; i < ranges->len; i++) {
        const VmbDamagedRange *range = &g_array_index(ranges, VmbDamagedRange, i);
        if (range->layer == block->layer && overlaps(range, offset, offset + VMB_BLOCK_SIZE))
            return TRUE;
    }
    return FALSE;
}

static gboolean
is_seen_in(const GArray *ranges, const VmbChainWindow *window)
{
    for (guint b = 0; b < window->n_blocks; b++)
        if (vmb_damage_covers(ranges, window->offset + (guint64)b * VMB_BLOCK_SIZE,
                              &window->blocks[b]))
            return TRUE;
    return FALSE;
}

gboolean
vmb_damage_is_seen(const GArray *ranges, VmbChain *chain, gboolean *seen, GError **error)
{
    guint64 windows = vmb_qcow2_l1_entries(vmb_chain_size(chain));
    *seen = FALSE;
    for (guint64 index = 0; index < windows && !*seen; index++) {
        guint64 offset = index * VMB_QCOW2_L2_SPAN;
        const VmbChainWindow *window = NULL;
        g_autoptr(GArray) within = vmb_damage_within(ranges, offset, offset + VMB_QCOW2_L2_SPAN);
        if (within == NULL)
            continue;
        if (!vmb_chain_map(chain, index, &window, error))
            return FALSE;
        *seen = is_seen_in(within, window);
    }
    return TRUE;
}

static gboolean
contains(const VmbChainWindow *window, guint64 offset)
{
    return window != NULL && offset - window->offset < VMB_QCOW2_L2_SPAN;
}

gboolean
vmb_damage_look(VmbChain *chain, const GArray *offsets, GArray *found, GError **error)
{
    g_autoptr(VmbDecoder) decoder = vmb_decoder_new(chain);
    g_autoptr(GArray) damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    g_autofree guint8 *data = g_malloc(VMB_BLOCK_SIZE), *output = g_malloc(VMB_BLOCK_SIZE);
    const VmbChainWindow *window = NULL;
    for (guint i = 0; i < offsets->len; i++) {
        guint known = damage->len;
        VmbChunk chunk = {.offset = g_array_index(offsets, guint64, i),
                          .length = VMB_BLOCK_SIZE,
                          .data = data,
                          .output = output,
                          .n_blocks = 1};
        if (chunk.offset >= vmb_chain_size(chain))
            break;
        if (!contains(window, chunk.offset) &&
            !vmb_chain_window(chain, chunk.offset / VMB_QCOW2_L2_SPAN, &window, error))
            return FALSE;
        chunk.blocks[0] = window->blocks[(chunk.offset - window->offset) / VMB_BLOCK_SIZE];
        if (!vmb_decoder_chunk(decoder, &chunk, damage, error))
            return FALSE;
        VmbDamagedRange range = {chunk.blocks[0].layer, chunk.offset, VMB_BLOCK_SIZE};
        if (damage->len > known)
            g_array_append_val(found, range);
    }
    return TRUE;
}

/* ---- noting it ---- */

typedef struct {
    const GArray *found; /* in order */
    guint layer;
    const char *id;
    guint64 size; /* of the disk in that layer, bytes */
} Note;

static gboolean
is_noted(const VmbPointState *state, const char *id, guint64 offset, guint64 length)
{
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++) {
        const VmbDamage *damage = state->damage->pdata[i];
        if (strcmp(damage->disk, id) == 0 && damage->offset <= offset &&
            damage->offset + damage->length >= offset + length)
            return TRUE;
    }
    return FALSE;
}

static void
add_found(VmbPointState *state, gpointer user)
{
    const Note *note = user;
    for (guint i = 0; i < note->found->len; i++) {
        const VmbDamagedRange *range = &g_array_index(note->found, VmbDamagedRange, i);
        if (range->layer != note->layer || range->offset >= note->size)
            continue;
        guint64 length = MIN(range->length, note->size - range->offset);
        if (!is_noted(state, note->id, range->offset, length))
            vmb_point_state_add_damage(state, note->id, range->offset, length);
    }
    g_free(state->verify_result);
    state->verify_result = g_strdup("damaged");
    state->checked_ns = vmb_units_now();
}

static gboolean
has_layer(const GArray *found, guint layer)
{
    for (guint i = 0; i < found->len; i++)
        if (g_array_index(found, VmbDamagedRange, i).layer == layer)
            return TRUE;
    return FALSE;
}

static int
compare_ranges(gconstpointer a, gconstpointer b)
{
    guint64 x = ((const VmbDamagedRange *)a)->offset, y = ((const VmbDamagedRange *)b)->offset;
    return x < y ? -1 : x > y;
}

void
vmb_damage_note(const GArray *links, const char *id, const GArray *found)
{
    g_autoptr(GArray) sorted = g_array_copy((GArray *)found);
    g_array_sort(sorted, compare_ranges);
    for (guint layer = 0; layer < links->len; layer++) {
        const VmbChainLink *link = &g_array_index(links, VmbChainLink, layer);
        Note note = {sorted, layer, id, link->disk->size};
        g_autoptr(GError) error = NULL;
        if (has_layer(sorted, layer) &&
            !vmb_point_state_change(link->point, add_found, &note, &error))
            vmb_warning("what was found damaged in %s could not be noted there: %s",
                        link->point->id, error->message);
    }
}
