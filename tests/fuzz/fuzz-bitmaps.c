/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: bitmaps in a guest's image, as its two readers see them; and whether it has changed.
 */
#include "fuzz.h"
#include "image/qcow2-format.h"
#include "virt/bitmap-state.h"
#include "virt/image-bitmaps.h"
#include "virt/image-evidence.h"
#include "virt/image-header.h"

/* Input: the image. With clusters of 512 bytes a whole one is small. */

#define NAME "b0"

static int fd;
static char *path;

void
fuzz_set_up(void)
{
    fd = fuzz_file_new();
    path = g_strdup_printf("/proc/self/fd/%d", fd);
}

static void
check_text(const char *text, gsize limit)
{
    FUZZ_CHECK(text == NULL || (text[0] != '\0' && strlen(text) <= limit));
}

static void
try_header(const guint8 *data, gsize length)
{
    g_auto(VmbImageHeader) header = {0}, read = {0};
    g_autofree char *why = NULL, *why2 = NULL;
    g_autofree guint8 *exact = g_memdup2(data, length);
    gboolean good = vmb_image_header_parse(exact, length, &header, &why);
    FUZZ_CHECK(good == (why == NULL));
    gboolean good2 = vmb_image_header_read(fd, &read, &why2);
    FUZZ_CHECK(good2 == (why2 == NULL));
    if (!good)
        return;
    FUZZ_CHECK(header.version == 2 || header.version == 3);
    FUZZ_CHECK(header.cluster_bits >= 9 && header.cluster_bits <= 21);
    check_text(header.backing_file, 1023);
    check_text(header.backing_format, 15);
    check_text(header.data_file, 1023);
}

/* A bitmap that can be relied upon is there for the other reader too, and in order. */
static void
try_bitmaps(void)
{
    g_autoptr(GError) error = NULL;
    VmbBitmapState state;
    vmb_bitmap_state_read(path, NAME, &state);
    FUZZ_CHECK(state.usable == (state.why == NULL));
    FUZZ_CHECK(!state.usable || state.present);
    FUZZ_CHECK(!state.clean || state.usable);
    g_free(state.why);
    g_autoptr(GPtrArray) bitmaps = vmb_image_bitmaps_read(path, &error);
    if (bitmaps == NULL)
        fuzz_check_error(error, -1);
    if (state.usable) {
        FUZZ_CHECK(bitmaps != NULL && vmb_image_bitmaps_have(bitmaps, NAME));
        for (guint i = 0; i < bitmaps->len; i++) {
            const VmbImageBitmap *bitmap = bitmaps->pdata[i];
            FUZZ_CHECK(strcmp(bitmap->name, NAME) != 0 || !bitmap->in_use);
        }
    }
}

static void
try_evidence(const guint8 *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbImageEvidence) evidence = vmb_image_evidence_new(path, length % 2 == 0, &error);
    FUZZ_CHECK(evidence != NULL);
    FUZZ_CHECK(vmb_image_evidence_check(evidence, -1, &error));
    FUZZ_CHECK(vmb_image_evidence_check(evidence, fd, &error));
    if (length == 0)
        return;
    guint8 other = data[0] ^ 1;
    FUZZ_CHECK(vmb_fs_pwrite(fd, &other, 1, 0, "fuzz", &error));
    FUZZ_CHECK(!vmb_image_evidence_check(evidence, fd, &error));
    fuzz_check_error(error, VMB_ERROR_FAILED);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    fuzz_file_set(fd, data, length);
    try_header(data, length);
    try_bitmaps();
    try_evidence(data, length);
}

/* An entry of the directory; gives its length. */
static gsize
put_entry(guint8 *at, const char *name, guint64 table, guint32 flags)
{
    gsize length = strlen(name);
    vmb_qcow2_put64(at, table);
    vmb_qcow2_put32(at + 8, 1); /* entries of the table */
    vmb_qcow2_put32(at + 12, flags);
    at[16] = 1;  /* dirty tracking */
    at[17] = 16; /* granularity */
    at[19] = (guint8)length;
    memcpy(at + 24, name, length);
    return vmb_round_up(24 + length, 8);
}

void
fuzz_seeds(void)
{
    guint8 image[2560] = {0};
    vmb_qcow2_put32(image, VMB_QCOW2_MAGIC);
    vmb_qcow2_put32(image + 4, 3);
    vmb_qcow2_put32(image + 20, 9);
    vmb_qcow2_put64(image + 24, VMB_MIB);
    image[95] = 1; /* bitmaps are in order */
    vmb_qcow2_put32(image + 96, 4);
    vmb_qcow2_put32(image + 100, 104);
    fuzz_seed("none", image, 512);
    vmb_qcow2_put32(image + 104, 0x23852875u);
    vmb_qcow2_put32(image + 108, 24);
    vmb_qcow2_put32(image + 112, 2);
    gsize length = put_entry(image + 1024, NAME, 1536, 2);
    length += put_entry(image + 1024 + length, "other", 2048, 3);
    vmb_qcow2_put64(image + 120, length);
    vmb_qcow2_put64(image + 128, 1024);
    fuzz_seed("clean", image, sizeof image);
    VmbBitmapState state;
    fuzz_file_set(fd, image, sizeof image);
    vmb_bitmap_state_read(path, NAME, &state);
    g_assert(state.usable && state.clean); /* or nothing would be reached from here */
    vmb_qcow2_put64(image + 1536, 512);
    fuzz_seed("dirty", image, sizeof image);
    vmb_qcow2_put64(image + 1536, 1);
    fuzz_seed("all-ones", image, sizeof image);
    image[95] = 0;
    fuzz_seed("not-in-order", image, sizeof image);
    image[95] = 1;
    image[1024 + 15] = 3;
    fuzz_seed("in-use", image, sizeof image);
    vmb_qcow2_put64(image + 8, 200); /* a backing file */
    vmb_qcow2_put32(image + 16, 4);
    memcpy(image + 200, "base", 4);
    fuzz_seed("backing", image, sizeof image);
}
