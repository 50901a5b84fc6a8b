/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A chain of images with their digests as one disk: where each block lies and what it must hold. */
#include "image/chain-private.h"
#include "image/qcow2-reader-private.h"
#include "util/error.h"

static gboolean
next_record(VmbChainPart *part, GError **error)
{
    return vmb_digest_reader_next(part->digests, &part->record, &part->no_record, error);
}

static gboolean
open_part(VmbChain *chain, guint index, const VmbChainLayer *layer, GError **error)
{
    VmbChainPart *part = &chain->parts[index];
    part->label = g_strdup(layer->label);
    part->image_fd = layer->image_fd;
    part->reader = vmb_qcow2_reader_open_as(layer->image_fd, layer->header, layer->size,
                                            layer->label, error);
    if (part->reader == NULL)
        return FALSE;
    part->is_full = vmb_qcow2_reader_backing_file(part->reader) == NULL;
    part->n_blocks = vmb_round_up(layer->size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE;
    part->visible = index == 0 ? layer->size
                               : MIN(chain->parts[index - 1].visible,
                                     vmb_qcow2_reader_size(chain->parts[index - 1].reader));
    if (part->is_full && index + 1 < chain->n_parts)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the image's header names no backing file, but the point has a "
                             "parent",
                             layer->label);
    if (layer->digests_fd < 0)
        return TRUE;
    part->digests = vmb_digest_reader_open(layer->digests_fd, layer->size, layer->label, error);
    return part->digests != NULL && next_record(part, error);
}

VmbChain *
vmb_chain_open(const VmbChainLayer *layers, guint n_layers, GError **error)
{
    g_autoptr(VmbChain) chain = g_new0(VmbChain, 1);
    g_mutex_init(&chain->damage_lock);
    g_return_val_if_fail(n_layers > 0, NULL);
    chain->n_parts = n_layers;
    chain->parts = g_new0(VmbChainPart, n_layers);
    chain->size = layers[0].size;
    chain->window.blocks = g_new0(VmbBlock, VMB_QCOW2_L2_ENTRIES);
    for (guint i = 0; i < n_layers; i++)
        if (!open_part(chain, i, &layers[i], error))
            return NULL;
    return g_steal_pointer(&chain);
}

void
vmb_chain_free(VmbChain *chain)
{
    if (chain == NULL)
        return;
    for (guint i = 0; i < chain->n_parts; i++) {
        g_free(chain->parts[i].label);
        vmb_qcow2_reader_free(chain->parts[i].reader);
        vmb_digest_reader_free(chain->parts[i].digests);
    }
    g_free(chain->parts);
    g_free(chain->window.blocks);
    g_mutex_clear(&chain->damage_lock);
    g_free(chain);
}

guint64
vmb_chain_size(VmbChain *chain)
{
    return chain->size;
}

/* Moves the cursor to the first record that ends behind @block. */
static gboolean
seek_record(VmbChainPart *part, guint64 block, GError **error)
{
    while (!part->no_record &&
           part->record.offset / VMB_BLOCK_SIZE + part->record.n_blocks <= block)
        if (!next_record(part, error))
            return FALSE;
    return TRUE;
}

static const char *
describe(gboolean present, gboolean zero)
{
    if (!present)
        return "nothing";
    return zero ? "zeroes" : "data";
}

/* Compares the entry of @block with its digest record, and takes that over into @out. */
static gboolean
match_record(VmbChainPart *part, guint64 block, const VmbQcow2Entry *entry, VmbBlock *out,
             GError **error)
{
    const VmbDigestRecord *record = &part->record;
    if (!seek_record(part, block, error))
        return FALSE;
    gboolean present = !part->no_record && record->offset / VMB_BLOCK_SIZE <= block;
    gboolean zero = present && record->zero, data = present && !record->zero, ok = FALSE;
    switch (entry->kind) {
    case VMB_BLOCK_ABSENT:
        ok = !present || (zero && part->is_full);
        break;
    case VMB_BLOCK_ZERO:
        ok = zero;
        break;
    case VMB_BLOCK_PLAIN:
        ok = data && record->check == 0;
        break;
    case VMB_BLOCK_COMPRESSED:
        ok = data;
        break;
    }
    if (!ok)
        return vmb_error_set(
            error, VMB_ERROR_DAMAGE,
            "%s: image and digests disagree on the block at disk offset %" G_GUINT64_FORMAT
            ": the image has %s, the digests have %s",
            part->label, block * VMB_BLOCK_SIZE,
            describe(entry->kind != VMB_BLOCK_ABSENT, entry->kind == VMB_BLOCK_ZERO),
            describe(present, zero));
    if (data) {
        out->check = record->check;
        memcpy(out->digest, record->digest, VMB_DIGEST_SIZE);
    }
    return TRUE;
}

/* TRUE if @part has neither a table nor a record in the @n blocks from @first on. */
static gboolean
is_empty(VmbChainPart *part, guint64 first, guint n, gboolean any, gboolean digests,
         gboolean *empty, GError **error)
{
    if (digests && !seek_record(part, first, error))
        return FALSE;
    *empty =
        !any && (!digests || part->no_record || part->record.offset / VMB_BLOCK_SIZE >= first + n);
    return TRUE;
}

/* Fills in what layer @layer has of the window's first @limit blocks where newer layers have
 * nothing. */
static gboolean
add_layer(VmbChain *chain, guint layer, guint64 index, guint limit, gboolean digests,
          GError **error)
{
    VmbChainPart *part = &chain->parts[layer];
    VmbQcow2Reader *reader = part->reader;
    guint64 first = index * VMB_QCOW2_L2_ENTRIES;
    gboolean any, empty;
    guint n_blocks = 0;
    digests = digests && part->digests != NULL;
    if (!vmb_qcow2_reader_load(reader, index, &n_blocks, &any, error) ||
        !is_empty(part, first, limit, any, digests, &empty, error))
        return FALSE;
    if (empty)
        return TRUE;
    chain->window_used = TRUE;
    for (guint i = 0; i < limit; i++) {
        guint64 raw = any && i < n_blocks ? GUINT64_FROM_BE(reader->l2[i]) : 0;
        VmbBlock *block = &chain->window.blocks[i];
        VmbQcow2Entry entry;
        if ((raw == 0 && !digests) || block->kind != VMB_BLOCK_ABSENT)
            continue; /* nothing there, or hidden by a newer layer */
        if (!vmb_qcow2_reader_entry(reader, raw, &entry))
            return vmb_qcow2_reader_bad_entry(reader, first + i, raw, error);
        if (digests && !match_record(part, first + i, &entry, block, error))
            return FALSE;
        block->kind = entry.kind;
        block->layer = layer;
        block->host_offset = entry.host_offset;
        block->stored_length = entry.length;
    }
    return TRUE;
}

static gboolean
fill_window(VmbChain *chain, guint64 index, gboolean digests, const VmbChainWindow **window,
            GError **error)
{
    guint64 first = index * VMB_QCOW2_L2_ENTRIES;
    guint64 n_blocks = chain->parts[0].n_blocks;
    if (index >= vmb_qcow2_l1_entries(chain->size))
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: window %" G_GUINT64_FORMAT " lies beyond the end of the disk",
                             chain->parts[0].label, index);
    if (chain->window_used)
        memset(chain->window.blocks, 0, VMB_QCOW2_L2_ENTRIES * sizeof(VmbBlock));
    chain->window_used = FALSE;
    chain->window.offset = index * VMB_QCOW2_L2_SPAN;
    chain->window.n_blocks = (guint)MIN(n_blocks - first, VMB_QCOW2_L2_ENTRIES);
    guint limit = chain->window.n_blocks;
    for (guint i = 0; i < chain->n_parts; i++) {
        guint64 own = chain->parts[i].n_blocks;
        /* What lies beyond the end of a layer is zero, whatever the layers below it hold. */
        limit = own <= first ? 0 : (guint)MIN(limit, own - first);
        if (limit == 0)
            break;
        if (!add_layer(chain, i, index, limit, digests, error))
            return FALSE;
    }
    chain->window.empty = !chain->window_used;
    *window = &chain->window;
    return TRUE;
}

gboolean
vmb_chain_window(VmbChain *chain, guint64 index, const VmbChainWindow **window, GError **error)
{
    if (index < chain->next_window)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: window %" G_GUINT64_FORMAT " has already been passed",
                             chain->parts[0].label, index);
    if (!fill_window(chain, index, TRUE, window, error))
        return FALSE;
    chain->next_window = index + 1;
    return TRUE;
}

gboolean
vmb_chain_map(VmbChain *chain, guint64 index, const VmbChainWindow **window, GError **error)
{
    return fill_window(chain, index, FALSE, window, error);
}

gboolean
vmb_chain_is_cut(VmbChain *chain, const VmbBlock *block, guint64 offset)
{
    const VmbChainPart *part = &chain->parts[block->layer];
    /* Behind its own layer's end it is zero in any case. */
    guint64 end = MIN(offset + VMB_BLOCK_SIZE, vmb_qcow2_reader_size(part->reader));
    return block->kind != VMB_BLOCK_ABSENT && block->layer > 0 && part->visible < end;
}

gboolean
vmb_chain_digests_end(VmbChain *chain, guint layer, guint8 digest[VMB_DIGEST_SIZE], GError **error)
{
    VmbChainPart *part = &chain->parts[layer];
    if (part->digests == NULL)
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: is read without digests", part->label);
    while (!part->no_record)
        if (!next_record(part, error))
            return FALSE;
    vmb_digest_reader_digest(part->digests, digest);
    return TRUE;
}
