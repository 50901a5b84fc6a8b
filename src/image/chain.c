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
    part->reader =
        chain->tolerant
            ? vmb_qcow2_reader_open_tolerant(layer->image_fd, layer->size, layer->label, error)
            : vmb_qcow2_reader_open_as(layer->image_fd, layer->header, layer->size, layer->label,
                                       error);
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

static VmbChain *
open_chain(const VmbChainLayer *layers, guint n_layers, gboolean tolerant, GError **error)
{
    g_autoptr(VmbChain) chain = g_new0(VmbChain, 1);
    g_mutex_init(&chain->damage_lock);
    chain->tolerant = tolerant;
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

VmbChain *
vmb_chain_open(const VmbChainLayer *layers, guint n_layers, GError **error)
{
    return open_chain(layers, n_layers, FALSE, error);
}

VmbChain *
vmb_chain_open_tolerant(const VmbChainLayer *layers, guint n_layers, GError **error)
{
    return open_chain(layers, n_layers, TRUE, error);
}

const GError *
vmb_chain_disagreement(VmbChain *chain)
{
    return chain->disagreement;
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
    g_clear_error(&chain->disagreement);
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

/* What the digests have of @block; *@record is NULL if nothing. */
static gboolean
find_record(VmbChainPart *part, guint64 block, const VmbDigestRecord **record, GError **error)
{
    if (!seek_record(part, block, error))
        return FALSE;
    gboolean present = !part->no_record && part->record.offset / VMB_BLOCK_SIZE <= block;
    *record = present ? &part->record : NULL;
    return TRUE;
}

static gboolean
agrees(const VmbChainPart *part, const VmbQcow2Entry *entry, const VmbDigestRecord *record)
{
    gboolean zero = record != NULL && record->zero, data = record != NULL && !record->zero;
    switch (entry->kind) {
    case VMB_BLOCK_ABSENT:
        return record == NULL || (zero && part->is_full);
    case VMB_BLOCK_ZERO:
        return zero;
    case VMB_BLOCK_PLAIN:
        return data && record->check == 0;
    case VMB_BLOCK_COMPRESSED:
        return data;
    }
    return FALSE;
}

static gboolean
disagree(const VmbChainPart *part, guint64 block, const VmbQcow2Entry *entry,
         const VmbDigestRecord *record, GError **error)
{
    return vmb_error_set(
        error, VMB_ERROR_DAMAGE,
        "%s: image and digests disagree on the block at disk offset %" G_GUINT64_FORMAT
        ": the image has %s, the digests have %s",
        part->label, block * VMB_BLOCK_SIZE,
        describe(entry->kind != VMB_BLOCK_ABSENT, entry->kind == VMB_BLOCK_ZERO),
        describe(record != NULL, record != NULL && record->zero));
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

/* One table of a layer that is being added to the window. */
typedef struct {
    guint layer;
    guint64 first;    /* block of the disk */
    gboolean any;     /* there is a table */
    guint n_blocks;   /* of it inside the layer's disk */
    gboolean digests; /* are compared with */
    GError *damage;   /* the table cannot be read; owned */
} Table;

/* Decodes the entry of the table's block @i and compares it with its record, @record (NULL: none). */
static gboolean
read_entry(VmbChain *chain, const Table *table, guint i, const VmbDigestRecord *record,
           VmbQcow2Entry *entry, GError **error)
{
    const VmbChainPart *part = &chain->parts[table->layer];
    guint64 raw = table->any && i < table->n_blocks ? GUINT64_FROM_BE(part->reader->l2[i]) : 0;
    if (table->damage != NULL) {
        g_propagate_error(error, g_error_copy(table->damage));
        return FALSE;
    }
    if (!vmb_qcow2_reader_entry(part->reader, raw, entry))
        return vmb_qcow2_reader_bad_entry(part->reader, table->first + i, raw, error);
    return !table->digests || agrees(part, entry, record) ||
           disagree(part, table->first + i, entry, record, error);
}

/* The entry of a block says nothing of use. Zeroes and nothing need no place in the image, so that the
 * digests are as good. */
static void
tolerate(VmbChain *chain, const Table *table, const VmbDigestRecord *record, VmbBlock *block,
         GError *error)
{
    if (chain->disagreement == NULL)
        chain->disagreement = error;
    else
        g_error_free(error);
    if (table->digests && record == NULL)
        return;
    block->kind = VMB_BLOCK_ZERO;
    block->layer = table->layer;
    block->loss = table->digests && record->zero ? VMB_LOSS_NONE : VMB_LOSS_TABLES;
}

static gboolean
add_block(VmbChain *chain, const Table *table, guint i, GError **error)
{
    VmbChainPart *part = &chain->parts[table->layer];
    VmbBlock *block = &chain->window.blocks[i];
    const VmbDigestRecord *record = NULL;
    VmbQcow2Entry entry;
    GError *damage = NULL;
    if (table->digests && !find_record(part, table->first + i, &record, error))
        return FALSE;
    if (!read_entry(chain, table, i, record, &entry, &damage)) {
        if (chain->tolerant)
            tolerate(chain, table, record, block, damage);
        else
            g_propagate_error(error, damage);
        return chain->tolerant;
    }
    if (record != NULL && !record->zero) {
        block->check = record->check;
        memcpy(block->digest, record->digest, VMB_DIGEST_SIZE);
    }
    block->kind = entry.kind;
    block->layer = table->layer;
    block->host_offset = entry.host_offset;
    block->stored_length = entry.length;
    return TRUE;
}

/* Fills in what the table has of the window's first @limit blocks where newer layers have nothing. */
static gboolean
add_table(VmbChain *chain, const Table *table, guint limit, GError **error)
{
    const guint64 *l2 = chain->parts[table->layer].reader->l2;
    gboolean all = table->digests || table->damage != NULL;
    chain->window_used = TRUE;
    for (guint i = 0; i < limit; i++) {
        gboolean nothing = !all && (!table->any || i >= table->n_blocks || l2[i] == 0);
        /* Otherwise it is hidden by a newer layer. */
        if (!nothing && chain->window.blocks[i].kind == VMB_BLOCK_ABSENT &&
            !add_block(chain, table, i, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
add_layer(VmbChain *chain, guint layer, guint64 index, guint limit, gboolean digests,
          GError **error)
{
    VmbChainPart *part = &chain->parts[layer];
    g_autoptr(GError) damage = NULL;
    Table table = {.layer = layer,
                   .first = index * VMB_QCOW2_L2_ENTRIES,
                   .digests = digests && part->digests != NULL};
    gboolean empty = FALSE;
    if (!vmb_qcow2_reader_load(part->reader, index, &table.n_blocks, &table.any, &damage)) {
        if (!chain->tolerant) {
            g_propagate_error(error, g_steal_pointer(&damage));
            return FALSE;
        }
        table.any = TRUE;
        table.damage = damage;
    }
    if (!is_empty(part, table.first, limit, table.any, table.digests, &empty, error))
        return FALSE;
    return empty || add_table(chain, &table, limit, error);
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
