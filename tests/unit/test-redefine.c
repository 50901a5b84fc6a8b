/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which checkpoints are worth defining again: pure, from points, disks and what libvirt knows. */
#include "repo-fixture.h"
#include "job/redefine.h"

#define OURS "0123456789abcdef0123456789abcdef" /* as fixture_checkpoint() names them */

static GPtrArray *points;
static VmbDomainInfo *info;

static void
set_up(void)
{
    points = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_point_free);
    info = g_new0(VmbDomainInfo, 1);
    info->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_disk_info_free);
}

static void
tear_down(void)
{
    g_clear_pointer(&points, g_ptr_array_unref);
    g_clear_pointer(&info, vmb_domain_info_free);
}

static VmbDiskInfo *
add_disk(const char *target)
{
    VmbDiskInfo *disk = g_new0(VmbDiskInfo, 1);
    disk->target = g_strdup(target);
    disk->id = g_strconcat("target:", target, NULL);
    disk->has_medium = disk->bitmaps = TRUE;
    disk->layers = g_ptr_array_new();
    g_ptr_array_add(info->disks, disk);
    return disk;
}

/* Point number @n with these disks. */
static VmbPoint *
add_point(guint n, const char *first, const char *second)
{
    VmbPoint *point = g_new0(VmbPoint, 1);
    point->manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    point->id = g_strdup(point->manifest->id);
    fixture_add_disk(point->manifest, fixture_disk(first, n, 0));
    if (second != NULL)
        fixture_add_disk(point->manifest, fixture_disk(second, n, 0));
    g_ptr_array_add(points, point);
    return point;
}

/* Fails unless just the checkpoints of the points @first and @second (0: none) are missing. */
static void
assert_missing(const GPtrArray *known, guint first, guint second)
{
    g_autoptr(GPtrArray) missing = vmb_redefine_missing(OURS, info, points, known);
    guint expected[] = {first, second};
    guint n = 0;
    for (gsize i = 0; i < G_N_ELEMENTS(expected); i++) {
        if (expected[i] == 0)
            continue;
        g_autofree char *name = fixture_checkpoint(expected[i]);
        g_assert_true(g_ptr_array_find_with_equal_func(missing, name, g_str_equal, NULL));
        n++;
    }
    g_assert_cmpuint(missing->len, ==, n);
}

static void
test_newest_only(void)
{
    g_autoptr(GPtrArray) known = g_ptr_array_new_with_free_func(g_free);
    set_up();
    assert_missing(known, 0, 0);
    add_disk("vda");
    VmbDiskInfo *second = add_disk("vdb");
    assert_missing(known, 0, 0);
    add_point(1, "vda", "vdb");
    add_point(2, "vda", NULL);
    assert_missing(known, 2, 1);
    /* One that both disks need is named once. */
    add_point(3, "vda", "vdb");
    assert_missing(known, 3, 0);
    second->bitmaps = FALSE;
    assert_missing(known, 3, 0);
    g_ptr_array_add(known, fixture_checkpoint(3));
    assert_missing(known, 0, 0);
    tear_down();
}

static void
test_not_ours(void)
{
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    set_up();
    VmbDiskInfo *disk = add_disk("vda");
    add_point(1, "vda", NULL);
    VmbPoint *newest = add_point(2, "vda", NULL);
    VmbManifestDisk *entry = newest->manifest->disks->pdata[0];
    /* A point of the original of this copy, also if an older one were ours. */
    newest->foreign = TRUE;
    assert_missing(known, 0, 0);
    newest->foreign = FALSE;
    assert_missing(known, 2, 0);
    /* A name of another form, or none. */
    g_free(entry->checkpoint);
    entry->checkpoint = g_strdup("somebody-else");
    assert_missing(known, 0, 0);
    g_clear_pointer(&entry->checkpoint, g_free);
    assert_missing(known, 0, 0);
    entry->checkpoint = fixture_checkpoint(2);
    disk->readonly = TRUE;
    assert_missing(known, 0, 0);
    disk->readonly = FALSE;
    disk->has_medium = FALSE;
    assert_missing(known, 0, 0);
    /* A damaged point says nothing. */
    disk->has_medium = TRUE;
    g_clear_pointer(&newest->manifest, vmb_manifest_free);
    assert_missing(known, 1, 0);
    tear_down();
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/redefine/newest-only", test_newest_only);
    g_test_add_func("/redefine/not-ours", test_not_ours);
    return g_test_run();
}
