/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the header of a guest's image, which anybody may have written. */
#include "fuzz.h"
#include "image/qcow2-format.h"
#include "virt/image-probe.h"

/* Input: the beginning of the image. */

static int fd;
static char *path;

void
fuzz_set_up(void)
{
    fd = fuzz_file_new();
    path = g_strdup_printf("/proc/self/fd/%d", fd);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    VmbImageProbe probe;
    fuzz_file_set(fd, data, length);
    vmb_image_probe(path, &probe);
    FUZZ_CHECK(probe.bitmaps == (probe.why == NULL));
    FUZZ_CHECK(!probe.bitmaps || probe.cluster_size != 0);
    if (probe.cluster_size != 0) {
        FUZZ_CHECK(probe.cluster_size >= 512 && probe.cluster_size <= 2 * VMB_MIB);
        FUZZ_CHECK((probe.cluster_size & (probe.cluster_size - 1)) == 0);
        FUZZ_CHECK(length >= 104 && vmb_qcow2_get32(data) == VMB_QCOW2_MAGIC);
    }
    if (probe.data_file != NULL)
        FUZZ_CHECK(g_path_is_absolute(probe.data_file) && strlen(probe.data_file) < length + 64);
    g_free(probe.why);
    g_free(probe.data_file);
}

void
fuzz_seeds(void)
{
    guint8 header[512] = {0};
    vmb_qcow2_put32(header, VMB_QCOW2_MAGIC);
    vmb_qcow2_put32(header + 4, 3);
    vmb_qcow2_put32(header + 20, 16);
    vmb_qcow2_put32(header + 100, 112);
    fuzz_seed("version-3", header, sizeof header);
    header[79] = 4; /* an external data file */
    fuzz_seed("no-name", header, sizeof header);
    vmb_qcow2_put32(header + 112, VMB_QCOW2_EXTENSION_BACKING);
    vmb_qcow2_put32(header + 116, 5);
    memcpy(header + 120, "qcow2", 5);
    vmb_qcow2_put32(header + 128, 0x44415441u);
    vmb_qcow2_put32(header + 132, 8);
    memcpy(header + 136, "data.raw", 8);
    fuzz_seed("data-file", header, sizeof header);
    memcpy(header + 136, "/x/y.raw", 8);
    fuzz_seed("absolute", header, 200);
    header[7] = 2;
    fuzz_seed("version-2", header, 104);
}
