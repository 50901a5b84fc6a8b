/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Looks into the header of a disk's active image to learn whether it can hold dirty bitmaps. */
#include "virt/image-probe.h"
#include "image/qcow2-format.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* QEMU keeps header extensions within the first cluster; names of data files are at most 1023
 * bytes. */
#define PROBE_BYTES 65536
#define V3_HEADER 104
#define OFFSET_VERSION 4
#define OFFSET_CLUSTER_BITS 20
#define CLUSTER_BITS_MIN 9 /* QEMU's limits */
#define CLUSTER_BITS_MAX 21
#define OFFSET_INCOMPATIBLE 72
#define OFFSET_HEADER_LENGTH 100
#define INCOMPATIBLE_DATA_FILE (G_GUINT64_CONSTANT(1) << 2)
#define EXTENSION_DATA_FILE 0x44415441u

static guint32
get32(const guint8 *bytes)
{
    guint32 value;
    memcpy(&value, bytes, sizeof value);
    return GUINT32_FROM_BE(value);
}

static guint64
get64(const guint8 *bytes)
{
    guint64 value;
    memcpy(&value, bytes, sizeof value);
    return GUINT64_FROM_BE(value);
}

/* The extensions follow the header: type, length, data padded to 8 bytes; type 0 ends them. */
static char *
find_data_file(const guint8 *bytes, gsize length)
{
    gsize at = get32(bytes + OFFSET_HEADER_LENGTH);
    while (at >= V3_HEADER && at <= length - 8) {
        guint32 type = get32(bytes + at), size = get32(bytes + at + 4);
        at += 8;
        if (type == 0 || size > length - at)
            return NULL;
        if (type == EXTENSION_DATA_FILE)
            return g_strndup((const char *)bytes + at, size);
        at += ((gsize)size + 7) & ~(gsize)7;
    }
    return NULL;
}

static char *
beside(const char *image, char *name)
{
    if (name == NULL || g_path_is_absolute(name))
        return name;
    g_autofree char *directory = g_path_get_dirname(image);
    char *path = g_build_filename(directory, name, NULL);
    g_free(name);
    return path;
}

static void
judge(const char *path, const guint8 *bytes, gsize length, VmbImageProbe *probe)
{
    if (length < V3_HEADER || get32(bytes) != VMB_QCOW2_MAGIC) {
        probe->why = g_strdup_printf("%s has no qcow2 header", path);
        return;
    }
    guint32 version = get32(bytes + OFFSET_VERSION);
    guint32 cluster_bits = get32(bytes + OFFSET_CLUSTER_BITS);
    if (cluster_bits < CLUSTER_BITS_MIN || cluster_bits > CLUSTER_BITS_MAX) {
        probe->why = g_strdup_printf("%s has clusters of 2^%u bytes, which qcow2 does not know", path,
                                     cluster_bits);
        return;
    }
    probe->cluster_size = 1u << cluster_bits;
    if (version != 3) {
        probe->why =
            g_strdup_printf("%s is qcow2 version %u, which cannot hold bitmaps; with the VM "
                            "shut off, `qemu-img amend -o compat=1.1 %s` converts it",
                            path, version, path);
        return;
    }
    probe->bitmaps = TRUE;
    if ((get64(bytes + OFFSET_INCOMPATIBLE) & INCOMPATIBLE_DATA_FILE) == 0)
        return;
    probe->data_file = beside(path, find_data_file(bytes, length));
    if (probe->data_file == NULL) {
        probe->bitmaps = FALSE;
        probe->why =
            g_strdup_printf("%s has an external data file that its header does not name", path);
    }
}

void
vmb_image_probe(const char *path, VmbImageProbe *probe)
{
    *probe = (VmbImageProbe){0};
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        probe->why =
            g_strdup_printf("the header of %s cannot be read: %s", path, g_strerror(errno));
        return;
    }
    g_autofree guint8 *bytes = g_malloc(PROBE_BYTES);
    ssize_t got = pread(fd, bytes, PROBE_BYTES, 0);
    if (got < 0) {
        probe->why =
            g_strdup_printf("the header of %s cannot be read: %s", path, g_strerror(errno));
        return;
    }
    judge(path, bytes, (gsize)got, probe);
}
