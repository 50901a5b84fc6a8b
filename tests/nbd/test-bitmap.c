/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty bitmaps of real qcow2 images through qemu-nbd, against what was written and qemu-img map.
 */
#include "server.h"

#include <json-c/json.h>
#include <string.h>

#define BLOCK 65536u
#define SIZE (40u * 1024 * 1024 + 1536) /* the last block is partial */
#define N_BLOCKS ((SIZE + BLOCK - 1) / BLOCK)

typedef struct {
    char *directory, *image;
    guint8 dirty[N_BLOCKS];
} Disk;

static void
disk_clear(Disk *disk)
{
    g_free(disk->image);
    server_directory_free(disk->directory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Disk, disk_clear)

static void
disk_write(Disk *disk, const char *what, guint64 offset, guint64 length)
{
    g_autofree char *command =
        g_strdup_printf("%s %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, what, offset, length);
    g_free(server_run("qemu-io", "-f", "qcow2", "-d", "unmap", "-c", command, disk->image, NULL));
    for (guint64 i = offset / BLOCK; i * BLOCK < offset + length; i++)
        disk->dirty[i] = 1;
}

static void
disk_create(Disk *disk)
{
    g_autofree char *size = g_strdup_printf("%u", SIZE);
    memset(disk->dirty, 0, sizeof disk->dirty);
    disk->directory = server_directory_new();
    disk->image = g_build_filename(disk->directory, "vda.qcow2", NULL);
    g_free(server_run("qemu-img", "create", "-q", "-f", "qcow2", disk->image, size, NULL));
    disk_write(disk, "write -P 0x11", 0, 1024 * 1024);
    disk_write(disk, "write -P 0x22", 4 * 1024 * 1024, 2 * 1024 * 1024);
    disk_write(disk, "write -P 0x33", SIZE - 100 * BLOCK, 100 * BLOCK);
    g_free(server_run("qemu-img", "bitmap", "--add", "-g", "64K", disk->image, "c0", NULL));
    memset(disk->dirty, 0, sizeof disk->dirty);
}

static VmbNbdReader *
disk_open(const Server *server, const char *context)
{
    g_autoptr(GError) error = NULL;
    VmbNbdOptions options = server_options(server);
    options.export_name = "vda";
    options.dirty_context = context;
    VmbNbdReader *reader = vmb_nbd_reader_open(&options, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(vmb_nbd_reader_size(reader), ==, SIZE);
    return reader;
}

static Server *
disk_serve(const Disk *disk)
{
    return server_qemu_nbd(disk->directory, "-f", "qcow2", "-B", "c0", "-x", "vda", "-e", "8",
                           disk->image, NULL);
}

/* One byte per byte of the disk would do; one per sector is enough for QEMU. */
static guint8 *
zero_map(const Disk *disk)
{
    guint8 *zero = g_malloc0(SIZE / 512);
    g_autofree char *text =
        server_run("qemu-img", "map", "--output=json", "-f", "qcow2", disk->image, NULL);
    struct json_object *map = json_tokener_parse(text);
    g_assert_nonnull(map);
    guint64 end = 0;
    for (size_t i = 0; i < json_object_array_length(map); i++) {
        struct json_object *entry = json_object_array_get_idx(map, i);
        guint64 start = json_object_get_uint64(json_object_object_get(entry, "start"));
        guint64 length = json_object_get_uint64(json_object_object_get(entry, "length"));
        g_assert_cmpuint(start, ==, end);
        end = start + length;
        if (json_object_get_boolean(json_object_object_get(entry, "zero")))
            memset(zero + start / 512, 1, length / 512);
    }
    g_assert_cmpuint(end, ==, SIZE);
    json_object_put(map);
    return zero;
}

static void
check_extents(const Disk *disk, const guint8 *zero, const GArray *extents, guint64 offset,
              guint64 length)
{
    guint64 end = offset + length;
    for (guint i = 0; i < extents->len; i++) {
        const VmbNbdExtent *e = &g_array_index(extents, VmbNbdExtent, i);
        g_assert_cmpuint(e->offset, ==, offset);
        for (; offset < e->offset + e->length; offset += 512) {
            g_assert_cmpint(e->dirty, ==, disk->dirty[offset / BLOCK]);
            g_assert_cmpint(e->zero, ==, zero[offset / 512]);
        }
    }
    g_assert_cmpuint(offset, ==, end);
}

static void
check_data(const Disk *disk, VmbNbdReader *reader)
{
    g_autofree char *raw = g_build_filename(disk->directory, "vda.raw", NULL);
    g_autofree char *expected = NULL;
    gsize length = 0;
    g_free(server_run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk->image, raw, NULL));
    g_assert_true(g_file_get_contents(raw, &expected, &length, NULL));
    g_assert_cmpuint(length, ==, SIZE);
    g_autofree guint8 *data = g_malloc(SIZE);
    g_auto(Tally) tally;
    g_assert_true(server_read(reader, data, 0, SIZE, 1024 * 1024, &tally, NULL));
    g_assert_cmpuint(tally.n_failed, ==, 0);
    g_assert_true(memcmp(data, expected, SIZE) == 0);
}

/* Whole, and in windows of random size. */
static void
check_disk(const Disk *disk)
{
    g_autofree guint8 *zero = zero_map(disk);
    g_autoptr(Server) server = disk_serve(disk);
    g_autoptr(VmbNbdReader) reader = disk_open(server, "qemu:dirty-bitmap:c0");
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_autoptr(GError) error = NULL;
    vmb_nbd_reader_extents(reader, 0, SIZE, extents, &error);
    g_assert_no_error(error);
    check_extents(disk, zero, extents, 0, SIZE);
    for (guint64 offset = 0; offset < SIZE;) {
        guint64 length = 512 * (guint64)g_test_rand_int_range(1, 10000);
        length = MIN(length, SIZE - offset);
        g_assert_true(vmb_nbd_reader_extents(reader, offset, length, extents, NULL));
        check_extents(disk, zero, extents, offset, length);
        offset += length;
    }
    check_data(disk, reader);
}

static void
test_known(void)
{
    if (!server_requires("qemu-img", "qemu-io", "qemu-nbd", NULL))
        return;
    g_auto(Disk) disk;
    disk_create(&disk);
    check_disk(&disk); /* nothing dirty yet */
    disk_write(&disk, "write -P 0x44", 1024 * 1024, 2 * BLOCK);
    disk_write(&disk, "write -z", 4 * 1024 * 1024, BLOCK);
    disk_write(&disk, "discard", 5 * 1024 * 1024, BLOCK);
    disk_write(&disk, "write -P 0x55", SIZE - 512, 512);
    check_disk(&disk);
}

static void
test_random(void)
{
    static const char *const kinds[] = {"write -P 0x66", "write -z", "write -z -u", "write -P 0"};
    if (!server_requires("qemu-img", "qemu-io", "qemu-nbd", NULL))
        return;
    g_auto(Disk) disk;
    disk_create(&disk);
    for (int i = 0; i < 25; i++) {
        guint64 offset = 512 * (guint64)g_test_rand_int_range(0, SIZE / 512);
        guint64 length = 512 * (guint64)g_test_rand_int_range(1, 1000);
        disk_write(&disk, kinds[g_test_rand_int_range(0, G_N_ELEMENTS(kinds))], offset,
                   MIN(length, SIZE - offset));
    }
    check_disk(&disk);
}

/* Without a dirty context all is dirty, and the allocation is still told. */
static void
test_no_bitmap(void)
{
    if (!server_requires("qemu-img", "qemu-io", "qemu-nbd", NULL))
        return;
    g_auto(Disk) disk;
    disk_create(&disk);
    memset(disk.dirty, 1, sizeof disk.dirty);
    g_autofree guint8 *zero = zero_map(&disk);
    g_autoptr(Server) server = disk_serve(&disk);
    g_autoptr(VmbNbdReader) reader = disk_open(server, NULL);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(VmbNbdExtent));
    g_assert_true(vmb_nbd_reader_extents(reader, 0, SIZE, extents, NULL));
    check_extents(&disk, zero, extents, 0, SIZE);
}

/* A bitmap or an export of another name is an error, never a silent full. */
static void
test_wrong_names(void)
{
    if (!server_requires("qemu-img", "qemu-io", "qemu-nbd", NULL))
        return;
    g_auto(Disk) disk;
    disk_create(&disk);
    g_autoptr(Server) server = disk_serve(&disk);
    VmbNbdOptions options = server_options(server);
    options.export_name = "vda";
    options.dirty_context = "qemu:dirty-bitmap:c1";
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_nbd_reader_open(&options, &error));
    g_assert_nonnull(strstr(error->message, "qemu:dirty-bitmap:c1"));
    options.export_name = "vdb";
    options.dirty_context = NULL;
    g_clear_error(&error);
    g_assert_null(vmb_nbd_reader_open(&options, &error));
    g_assert_nonnull(strstr(error->message, "vdb"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-bitmap/known", test_known);
    g_test_add_func("/nbd-bitmap/random", test_random);
    g_test_add_func("/nbd-bitmap/no-bitmap", test_no_bitmap);
    g_test_add_func("/nbd-bitmap/wrong-names", test_wrong_names);
    return g_test_run();
}
