/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Good images in memory, and small programs (the fuzzer's input) that change single fields. */
#include "image.h"
#include "image/digest-format.h"

#define MAX_FILE (48 * VMB_MIB) /* what is read whole must stay quick */

void
fuzz_base_load(FuzzBase *base, const char *path)
{
    char *content = NULL;
    if (!g_file_get_contents(path, &content, &base->length, NULL))
        g_error("cannot read %s", path);
    base->base = (guint8 *)content;
    base->fd = fuzz_file_new();
    base->changes = g_array_new(FALSE, FALSE, sizeof(FuzzChange));
    fuzz_file_set(base->fd, base->base, base->length);
}

void
fuzz_base_write(FuzzBase *base, guint64 offset, const void *bytes, gsize length)
{
    FuzzChange change = {offset, length};
    if (length == 0 || offset > MAX_FILE)
        return;
    if (!vmb_fs_pwrite(base->fd, bytes, length, offset, "fuzz", NULL))
        g_error("cannot change a file in memory");
    g_array_append_val(base->changes, change);
}

void
fuzz_base_resize(FuzzBase *base, guint64 length)
{
    length = MIN(length, MAX_FILE);
    if (ftruncate(base->fd, (off_t)length) < 0)
        g_error("cannot resize a file in memory");
    base->resized = TRUE;
}

void
fuzz_base_restore(FuzzBase *base)
{
    /* Cutting first makes what lies beyond the end zero again. */
    if (ftruncate(base->fd, (off_t)base->length) < 0)
        g_error("cannot resize a file in memory");
    if (base->resized) {
        fuzz_file_set(base->fd, base->base, base->length);
    } else {
        for (guint i = 0; i < base->changes->len; i++) {
            FuzzChange change = g_array_index(base->changes, FuzzChange, i);
            if (change.offset < base->length)
                vmb_fs_pwrite(base->fd, base->base + change.offset,
                              (gsize)MIN(change.length, base->length - change.offset),
                              change.offset, "fuzz", NULL);
        }
    }
    g_array_set_size(base->changes, 0);
    base->resized = FALSE;
}

static void
add_difference(GArray *found, guint64 offset, guint64 length)
{
    FuzzChange change = {offset, length};
    if (length > 0)
        g_array_append_val(found, change);
}

GArray *
fuzz_base_differences(FuzzBase *base)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(FuzzChange));
    gint64 size = lseek(base->fd, 0, SEEK_END);
    g_assert(size >= 0);
    guint64 common = MIN((guint64)size, base->length);
    add_difference(found, common, MAX((guint64)size, base->length) - common);
    FuzzChange whole = {0, common};
    for (guint i = 0; i < (base->resized ? 1 : base->changes->len); i++) {
        FuzzChange change = base->resized ? whole : g_array_index(base->changes, FuzzChange, i);
        if (change.offset >= common)
            continue;
        change.length = MIN(change.length, common - change.offset);
        g_autofree guint8 *now = g_malloc((gsize)change.length);
        vmb_fs_pread(base->fd, now, (gsize)change.length, change.offset, "fuzz", NULL);
        const guint8 *before = base->base + change.offset;
        for (guint64 k = 0, run = 0; k < change.length; k += run) {
            for (run = 0; k + run < change.length && now[k + run] != before[k + run]; run++)
                ;
            add_difference(found, change.offset + k, run);
            run += run == 0;
        }
    }
    return found;
}

gboolean
fuzz_base_is_changed(FuzzBase *base)
{
    g_autoptr(GArray) found = fuzz_base_differences(base);
    return found->len > 0;
}

static guint64
get64(const FuzzBase *base, guint64 offset)
{
    return offset + 8 <= base->length ? vmb_qcow2_get64(base->base + offset) : 0;
}

static void
put64(FuzzBase *base, guint64 offset, guint64 value)
{
    guint8 bytes[8];
    vmb_qcow2_put64(bytes, value);
    fuzz_base_write(base, offset, bytes, sizeof bytes);
}

guint64
fuzz_base_l2(const FuzzBase *base, guint index)
{
    guint64 l1 = get64(base, 40), hosts[64];
    guint entries = vmb_qcow2_get32(base->base + 36), n = 0;
    for (guint i = 0; i < entries && n < G_N_ELEMENTS(hosts); i++) {
        guint64 host = get64(base, l1 + 8 * (guint64)i) & VMB_QCOW2_OFFSET_MASK;
        if (host != 0)
            hosts[n++] = host;
    }
    return n > 0 ? hosts[index % n] : 0;
}

static void
poke_header(FuzzBase *base, FuzzInput *input)
{
    static const struct {
        guint8 at, width;
    } fields[] = {{0, 4},  {4, 4},   {8, 8},   {16, 4},  {20, 4},  {24, 8},  {32, 4},  {36, 4},
                  {40, 8}, {48, 8},  {56, 4},  {60, 4},  {64, 8},  {72, 8},  {80, 8},  {88, 8},
                  {96, 4}, {100, 4}, {104, 1}, {105, 1}, {112, 4}, {116, 4}, {120, 8}, {136, 8}};
    guint i = (guint)fuzz_take(input, 1) % G_N_ELEMENTS(fields);
    guint8 bytes[8];
    vmb_qcow2_put64(bytes, fuzz_take(input, 8));
    fuzz_base_write(base, fields[i].at, bytes + 8 - fields[i].width, fields[i].width);
}

static void
poke_l1(FuzzBase *base, FuzzInput *input)
{
    guint64 index = fuzz_take(input, 1), cluster = fuzz_take(input, 2);
    guint64 high = fuzz_take(input, 1), low = fuzz_take(input, 1);
    put64(base, get64(base, 40) + 8 * index, high << 56 | cluster << VMB_BLOCK_BITS | low);
}

/* Values that are nearly right come from few bits, any others from all of them. */
static guint64
l2_value(guint kind, guint64 value)
{
    guint64 cluster = (value & 0xffff) << VMB_BLOCK_BITS, within = value >> 16 & 0xffff;
    switch (kind % 6) {
    case 0:
        return value;
    case 1:
        return value & 1;
    case 2:
        return VMB_QCOW2_COPIED | cluster;
    case 3:
        return cluster | (value >> 16 & 0xff) << 56;
    case 4:
        return VMB_QCOW2_COMPRESSED | cluster | within |
               (value >> 32 & 0xff) << VMB_QCOW2_FRAME_OFFSET_BITS;
    default:
        return vmb_qcow2_frame_entry(cluster | within, 1 + (value >> 32 & 0xffff));
    }
}

static void
poke_l2(FuzzBase *base, FuzzInput *input)
{
    guint64 table = fuzz_base_l2(base, (guint)fuzz_take(input, 1));
    guint64 index = fuzz_take(input, 2) % VMB_QCOW2_L2_ENTRIES;
    guint kind = (guint)fuzz_take(input, 1);
    guint64 value = l2_value(kind, fuzz_take(input, 8));
    if (table != 0)
        put64(base, table + 8 * index, value);
}

static void
poke_reftable(FuzzBase *base, FuzzInput *input)
{
    guint64 index = fuzz_take(input, 1), cluster = fuzz_take(input, 2), low = fuzz_take(input, 1);
    put64(base, get64(base, 48) + 8 * index, cluster << VMB_BLOCK_BITS | low);
}

static void
poke_refcount(FuzzBase *base, FuzzInput *input)
{
    guint64 block = get64(base, get64(base, 48)), cluster = fuzz_take(input, 2);
    guint16 count = GUINT16_TO_BE((guint16)fuzz_take(input, 2));
    fuzz_base_write(base, block + 2 * (cluster % VMB_QCOW2_REFBLOCK_ENTRIES), &count, sizeof count);
}

static void
poke_bytes(FuzzBase *base, FuzzInput *input)
{
    guint8 bytes[255];
    guint64 offset = fuzz_take(input, 3) % (base->length + VMB_BLOCK_SIZE);
    gsize length = (gsize)fuzz_take(input, 1);
    fuzz_base_write(base, offset, bytes, fuzz_take_bytes(input, bytes, length));
}

static void
poke_copy(FuzzBase *base, FuzzInput *input)
{
    guint64 from = fuzz_base_l2(base, (guint)fuzz_take(input, 1));
    from += 8 * (fuzz_take(input, 2) % VMB_QCOW2_L2_ENTRIES);
    guint64 to = fuzz_base_l2(base, (guint)fuzz_take(input, 1));
    to += 8 * (fuzz_take(input, 2) % VMB_QCOW2_L2_ENTRIES);
    put64(base, to, get64(base, from));
}

static void
poke_frame(FuzzBase *base, FuzzInput *input)
{
    guint8 bytes[255];
    guint64 entry =
        get64(base, fuzz_base_l2(base, 0) + 8 * (fuzz_take(input, 2) % VMB_QCOW2_L2_ENTRIES));
    guint64 mask =
        entry & VMB_QCOW2_COMPRESSED ? VMB_QCOW2_FRAME_OFFSET_MASK : VMB_QCOW2_OFFSET_MASK;
    guint64 offset = (entry & mask) + fuzz_take(input, 1);
    gsize length = (gsize)fuzz_take(input, 1);
    length = fuzz_take_bytes(input, bytes, length);
    if ((entry & mask) != 0)
        fuzz_base_write(base, offset, bytes, length);
}

gboolean
fuzz_poke_image(FuzzBase *base, FuzzInput *input)
{
    static void (*const pokes[])(FuzzBase * base, FuzzInput * input) = {
        [FUZZ_POKE_HEADER] = poke_header,
        [FUZZ_POKE_L1] = poke_l1,
        [FUZZ_POKE_L2] = poke_l2,
        [FUZZ_POKE_REFTABLE] = poke_reftable,
        [FUZZ_POKE_REFCOUNT] = poke_refcount,
        [FUZZ_POKE_BYTES] = poke_bytes,
        [FUZZ_POKE_COPY] = poke_copy,
        [FUZZ_POKE_FRAME] = poke_frame,
    };
    if (input->left == 0)
        return FALSE;
    guint op = (guint)fuzz_take(input, 1) % N_FUZZ_POKES;
    if (op == FUZZ_POKE_SIZE) {
        guint64 clusters = fuzz_take(input, 2);
        fuzz_base_resize(base, clusters * VMB_BLOCK_SIZE + fuzz_take(input, 2));
    } else {
        pokes[op](base, input);
    }
    return TRUE;
}

gboolean
fuzz_poke_digests(FuzzBase *base, FuzzInput *input)
{
    static const struct {
        guint8 at, width;
    } fields[] = {{0, 8}, {8, 4}, {12, 4}, {16, 8}, {40, 8}};
    if (input->left == 0)
        return FALSE;
    guint record = (guint)fuzz_take(input, 2), field = (guint)fuzz_take(input, 1);
    guint64 value = fuzz_take(input, 8);
    guint8 bytes[8];
    vmb_digest_file_put64(bytes, value);
    if (field >= 128) {
        fuzz_base_resize(base, VMB_DIGEST_FILE_HEADER + record * VMB_DIGEST_FILE_RECORD +
                                   (field == 255 ? value % 64 : 0));
        return TRUE;
    }
    field %= G_N_ELEMENTS(fields);
    /* Record 65535 is the header. */
    guint64 offset =
        record == 65535 ? 0 : VMB_DIGEST_FILE_HEADER + (guint64)record * VMB_DIGEST_FILE_RECORD;
    fuzz_base_write(base, offset + fields[field].at, bytes, fields[field].width);
    return TRUE;
}

void
fuzz_fill_mixed(ImageLayer *layer, guint index)
{
    for (guint64 block = 0; block < layer->n_blocks; block++) {
        layer->states[block] = (guint8)((block + index) % N_STATES);
        layer->seeds[block] = (guint32)(1000 * index + block);
    }
}

void
fuzz_fill_zero(ImageLayer *layer, guint index)
{
    memset(layer->states, STATE_ZERO, layer->n_blocks);
    for (guint64 block = 5; block < layer->n_blocks; block += 20000) {
        layer->states[block] = block % 3 == 0 ? STATE_TEXT : STATE_RANDOM;
        layer->seeds[block] = (guint32)(index + block);
    }
}

void
fuzz_fill_sparse(ImageLayer *layer, guint index)
{
    for (guint64 block = index; block < layer->n_blocks; block += 1 + layer->n_blocks / 5) {
        layer->states[block] = STATE_TEXT;
        layer->seeds[block] = (guint32)(index + block);
    }
}

void
fuzz_layers_make(FuzzLayers *layers, const FuzzLayerPlan *plans, guint n)
{
    image_set_up(&layers->files, NULL);
    for (guint i = 0; i < n; i++) {
        ImageLayer *layer = image_add_layer(&layers->files, plans[i].size, plans[i].compressed);
        plans[i].fill(layer, i);
        image_write(&layers->files, i);
        fuzz_base_load(&layers->image[i], layer->path);
        fuzz_base_load(&layers->digests[i], layer->digests_path);
        /* The files go at once; what the layers are stays known. */
        (void)g_unlink(layer->path);
        (void)g_unlink(layer->digests_path);
    }
    (void)g_rmdir(layers->files.dir);
}

void
fuzz_layers_restore(FuzzLayers *layers)
{
    for (guint i = 0; i < layers->files.n_layers; i++) {
        fuzz_base_restore(&layers->image[i]);
        fuzz_base_restore(&layers->digests[i]);
    }
}
