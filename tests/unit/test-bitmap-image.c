/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images that only hold a bitmap, as QEMU reads them. */
#include "image/bitmap-image.h"
#include "image/qcow2-format.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/json.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <locale.h>

#define BLOCK ((guint64)VMB_BLOCK_SIZE)
#define PER_CLUSTER (BLOCK * BLOCK * 8) /* bytes of the disk */

typedef struct {
    guint64 offset, length;
} Range;

static char *
run(const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    char *out = NULL;
    int status = 0;
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, NULL, &status, &error);
    g_assert_no_error(error);
    g_assert_true(g_spawn_check_wait_status(status, NULL));
    return out;
}

/* The dirty ranges of the map that a client gets, those that touch as one. */
static GArray *
dirty_ranges(const char *path)
{
    const char *const argv[] = {"nbdinfo", "--map=qemu:dirty-bitmap:since", "--json", "--", "[", "qemu-nbd",
                                "-r", "-f", "qcow2", "-B", "since", path, "]", NULL};
    g_autofree char *text = run(argv);
    VmbJson *map = json_tokener_parse(text);
    GArray *ranges = g_array_new(FALSE, FALSE, sizeof(Range));
    g_assert_nonnull(map);
    for (gsize i = 0; i < json_object_array_length(map); i++) {
        VmbJson *entry = json_object_array_get_idx(map, i);
        VmbJson *offset = json_object_object_get(entry, "offset");
        VmbJson *length = json_object_object_get(entry, "length");
        if (json_object_get_int64(json_object_object_get(entry, "type")) == 0)
            continue;
        Range range = {(guint64)json_object_get_int64(offset), (guint64)json_object_get_int64(length)};
        Range *last = ranges->len > 0 ? &g_array_index(ranges, Range, ranges->len - 1) : NULL;
        if (last != NULL && last->offset + last->length == range.offset)
            last->length += range.length;
        else
            g_array_append_val(ranges, range);
    }
    json_object_put(map);
    return ranges;
}

static void
check(guint64 size, const Range *wanted, guint n)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    g_auto(VmbFd) fd = g_file_open_tmp("vmbackup-test-XXXXXX", &path, NULL);
    g_assert_cmpint(fd, >=, 0);
    g_autoptr(VmbBitmapImage) image = vmb_bitmap_image_new(fd, size, "since", "bitmap");
    for (guint i = 0; i < n; i++)
        g_assert_true(vmb_bitmap_image_set(image, wanted[i].offset, wanted[i].length, &error));
    g_assert_true(vmb_bitmap_image_finish(image, &error));
    g_assert_no_error(error);
    const char *const argv[] = {"qemu-img", "check", "-q", "-f", "qcow2", path, NULL};
    g_free(run(argv));
    g_autoptr(GArray) got = dirty_ranges(path);
    g_assert_cmpuint(got->len, ==, n);
    for (guint i = 0; i < n; i++) {
        g_assert_cmpuint(g_array_index(got, Range, i).offset, ==, wanted[i].offset);
        g_assert_cmpuint(g_array_index(got, Range, i).length, ==, wanted[i].length);
    }
    g_unlink(path);
}

static void
test_edges(void)
{
    const guint64 large = 3 * PER_CLUSTER + 5 * BLOCK + 512;
    const Range all = {0, large}, one = {0, 512}, none = {0, 0};
    const Range some[] = {
        {3 * BLOCK, BLOCK},
        {8 * BLOCK, 8 * BLOCK},
        {17 * BLOCK, 30 * BLOCK},
        {PER_CLUSTER - BLOCK, 2 * BLOCK},             /* over the end of a cluster of the bitmap */
        {3 * PER_CLUSTER - 9 * BLOCK, 9 * BLOCK + BLOCK}, /* the same, and into the last one */
        {large - 512, 512},
    };
    check(large, some, G_N_ELEMENTS(some));
    check(large, &all, 1);
    check(large, &none, 0);
    check(512, &one, 1);
    check(512, &none, 0);
}

static void
test_huge(void)
{
    const guint64 size = G_GUINT64_CONSTANT(64) << 40;
    const Range some[] = {{BLOCK, PER_CLUSTER * 5}, {size / 2, BLOCK}, {size - BLOCK, BLOCK}};
    check(size, some, G_N_ELEMENTS(some));
}

static void
test_random(void)
{
    for (guint round = 0; round < 5; round++) {
        guint64 blocks = (guint64)g_test_rand_int_range(1, 1500000), at = 0;
        g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Range));
        for (;;) {
            at += (guint64)g_test_rand_int_range(1, 1 << g_test_rand_int_range(1, 20));
            guint64 n = (guint64)g_test_rand_int_range(1, 1 << g_test_rand_int_range(1, 20));
            if (at + n >= blocks)
                break;
            Range range = {at * BLOCK, n * BLOCK};
            g_array_append_val(ranges, range);
            at += n;
        }
        check(blocks * BLOCK, (const Range *)(gpointer)ranges->data, ranges->len);
    }
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bitmap-image/edges", test_edges);
    g_test_add_func("/bitmap-image/huge", test_huge);
    g_test_add_func("/bitmap-image/random", test_random);
    return g_test_run();
}
