/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: reading and checking one qcow2 image. */
#include "image.h"
#include "image/qcow2-reader.h"
#include "image/zstd-frame.h"

#include <zstd.h>

/* Input: u8 which image; u8 whose virtual size is expected (0: the manifest's, else what the header
 * says by then); then changes, see image.h. */

#define MAX_TABLES 32u

static FuzzLayers layers;

void
fuzz_set_up(void)
{
    static const FuzzLayerPlan plans[] = {
        {12 * VMB_BLOCK_SIZE + 1536, TRUE, fuzz_fill_mixed},
        {3 * VMB_QCOW2_L2_SPAN + 5 * VMB_BLOCK_SIZE, TRUE, fuzz_fill_zero},
        {9 * VMB_BLOCK_SIZE + 7, FALSE, fuzz_fill_mixed},
        {40 * VMB_BLOCK_SIZE, TRUE, fuzz_fill_sparse},
    };
    fuzz_layers_make(&layers, plans, G_N_ELEMENTS(plans));
}

/* TRUE if byte @offset of the image, as it was written, belongs to a stored block. */
static gboolean
is_data(const FuzzBase *base, guint64 offset)
{
    guint64 first = fuzz_base_l2(base, 0), table = first;
    for (guint t = 1; table != 0; table = fuzz_base_l2(base, t++)) {
        if (t > 1 && table == first)
            return FALSE;
        for (guint i = 0; i < VMB_QCOW2_L2_ENTRIES; i++) {
            guint64 entry = vmb_qcow2_get64(base->base + table + 8 * i), host, length;
            if (entry <= VMB_QCOW2_ZERO)
                continue;
            if (entry & VMB_QCOW2_COMPRESSED) {
                host = entry & VMB_QCOW2_FRAME_OFFSET_MASK;
                length = ZSTD_findFrameCompressedSize(base->base + host, base->length - host);
            } else {
                host = entry & VMB_QCOW2_OFFSET_MASK;
                length = VMB_BLOCK_SIZE;
            }
            if (offset >= host && offset < host + length)
                return TRUE;
        }
    }
    return FALSE;
}

static int
compare_offsets(gconstpointer a, gconstpointer b)
{
    guint64 x = ((const FuzzChange *)a)->offset, y = ((const FuzzChange *)b)->offset;
    return x < y ? -1 : x > y;
}

/* What the check has accepted: no two blocks share a byte of the file. */
static void
check_overlaps(GArray *places)
{
    g_array_sort(places, compare_offsets);
    for (guint i = 1; i < places->len; i++) {
        const FuzzChange *a = &g_array_index(places, FuzzChange, i - 1);
        FUZZ_CHECK(a->offset + a->length <= g_array_index(places, FuzzChange, i).offset);
    }
}

/* All tables; with @places (the check was passed) where their blocks lie. */
static void
read_tables(VmbQcow2Reader *reader, int fd, GArray *places)
{
    static VmbQcow2Entry entries[VMB_QCOW2_L2_ENTRIES];
    guint n = MIN(vmb_qcow2_l1_entries(vmb_qcow2_reader_size(reader)), MAX_TABLES);
    guint64 file_size = (guint64)lseek(fd, 0, SEEK_END);
    for (guint index = 0; index <= n; index++) {
        g_autoptr(GError) error = NULL;
        gboolean any = FALSE;
        if (!vmb_qcow2_reader_table(reader, index, entries, &any, &error)) {
            fuzz_check_error(error, VMB_ERROR_DAMAGE);
            FUZZ_CHECK(places == NULL);
            return;
        }
        for (guint i = 0; any && i < VMB_QCOW2_L2_ENTRIES; i++) {
            if (entries[i].kind < VMB_BLOCK_PLAIN && entries[i].length == 0)
                continue;
            FuzzChange place = {entries[i].host_offset, entries[i].length};
            guint32 length = 0;
            FUZZ_CHECK(place.offset <= file_size && place.length <= file_size - place.offset);
            FUZZ_CHECK(place.length > 0 && entries[i].kind >= VMB_BLOCK_PLAIN);
            if (places == NULL)
                continue;
            if (entries[i].kind == VMB_BLOCK_COMPRESSED) {
                FUZZ_CHECK(vmb_zstd_frame_length(fd, place.offset, (guint32)place.length, &length,
                                                 "fuzz", NULL));
                place.length = length;
            }
            g_array_append_val(places, place);
        }
    }
    if (places != NULL)
        check_overlaps(places);
}

/* Where length and both digests are right and the rest was accepted, only stored blocks can differ:
 * they have digests of their own. */
static void
check_covered(FuzzBase *base)
{
    g_autoptr(GArray) differences = fuzz_base_differences(base);
    for (guint i = 0; i < differences->len; i++) {
        FuzzChange change = g_array_index(differences, FuzzChange, i);
        for (guint64 k = 0; k < change.length; k++)
            FUZZ_CHECK(is_data(base, change.offset + k));
    }
}

static void
read_image(FuzzBase *base, const ImageLayer *layer, guint64 size)
{
    g_autoptr(GError) error = NULL;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(base->fd, size, "fuzz", &error);
    if (reader == NULL) {
        fuzz_check_error(error, VMB_ERROR_DAMAGE);
        FUZZ_CHECK(fuzz_base_is_changed(base));
        return;
    }
    const char *name = vmb_qcow2_reader_backing_file(reader);
    FUZZ_CHECK(name == NULL || strlen(name) <= VMB_QCOW2_NAME_MAX);
    read_tables(reader, base->fd, NULL);
    if (!vmb_qcow2_reader_check(reader, head, tables, &error)) {
        fuzz_check_error(error, VMB_ERROR_DAMAGE);
        FUZZ_CHECK(fuzz_base_is_changed(base));
        return;
    }
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(FuzzChange));
    read_tables(reader, base->fd, places);
    if ((guint64)lseek(base->fd, 0, SEEK_END) == layer->summary.file_size &&
        memcmp(head, layer->summary.head_digest, sizeof head) == 0 &&
        memcmp(tables, layer->summary.tables_digest, sizeof tables) == 0)
        check_covered(base);
    else
        FUZZ_CHECK(fuzz_base_is_changed(base));
}

void
fuzz_one(const guint8 *data, gsize length)
{
    FuzzInput input = {data, length};
    guint which = (guint)fuzz_take(&input, 1) % layers.files.n_layers;
    gboolean any_size = (fuzz_take(&input, 1) & 1) != 0;
    FuzzBase *base = &layers.image[which];
    const ImageLayer *layer = &layers.files.layers[which];
    guint8 header[VMB_QCOW2_HEADER_LENGTH];
    while (fuzz_poke_image(base, &input))
        ;
    guint64 size = layer->size;
    if (any_size && vmb_fs_pread(base->fd, header, sizeof header, 0, "fuzz", NULL))
        size = vmb_qcow2_get64(header + 24);
    read_image(base, layer, size);
    fuzz_base_restore(base);
}

void
fuzz_seeds(void)
{
    for (guint8 which = 0; which < 4; which++) {
        guint8 good[] = {which, 0};
        g_autofree char *name = g_strdup_printf("good-%u", which);
        fuzz_seed(name, good, sizeof good);
        /* What is left over in a cluster lies at its end. */
        for (guint8 cluster = 0; cluster < 16; cluster++) {
            guint8 end[] = {which, 0, FUZZ_POKE_BYTES, 0xff, 0xff, cluster, 1, 0x5a};
            g_autofree char *padding = g_strdup_printf("end-%u-%u", which, cluster);
            fuzz_seed(padding, end, sizeof end);
        }
        for (guint8 op = 0; op < N_FUZZ_POKES; op++) {
            guint8 change[24] = {which, op & 1, op, 1, 2, 3};
            g_autofree char *changed = g_strdup_printf("change-%u-%u", which, op);
            fuzz_seed(changed, change, sizeof change);
        }
    }
}
