/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which disk of the domain is which disk of the points: by identity, by image, by target. */
#include "job/bind.h"
#include "job/source-layers.h"
#include "repo-fixture.h"

/* A domain whose disks' images are files of the fixture, and points that know some of them. */
typedef struct {
    Fixture base;
    GPtrArray *points; /* VmbPoint, with nothing but manifests */
    VmbDomainInfo *info;
} World;

static void
layer_free(gpointer data)
{
    VmbDiskLayer *layer = data;
    g_free(layer->path);
    g_free(layer->format);
    g_free(layer);
}

static void
new_domain(World *world)
{
    g_clear_pointer(&world->info, vmb_domain_info_free);
    world->info = vmb_domain_info_from_xml("<domain><devices/></domain>", NULL);
    g_assert_nonnull(world->info);
}

static void
set_up(World *world, gconstpointer data)
{
    fixture_set_up(&world->base, NULL);
    world->points = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_point_free);
    new_domain(world);
}

static void
tear_down(World *world, gconstpointer data)
{
    g_ptr_array_unref(world->points);
    g_clear_pointer(&world->info, vmb_domain_info_free);
    fixture_tear_down(&world->base, NULL);
}

static char *
image_path(World *world, const char *name)
{
    return g_build_filename(world->base.path, name, NULL);
}

/* @id: as the XML alone gives it. @image: a file that is made if it is not there. */
static VmbDiskInfo *
add_disk(World *world, const char *target, const char *id, const char *image)
{
    VmbDiskInfo *disk = g_new0(VmbDiskInfo, 1);
    VmbDiskLayer *layer = g_new0(VmbDiskLayer, 1);
    layer->path = image_path(world, image);
    layer->format = g_strdup("qcow2");
    if (!g_file_test(layer->path, G_FILE_TEST_EXISTS))
        g_assert_true(g_file_set_contents(layer->path, image, -1, NULL));
    disk->target = g_strdup(target);
    disk->id = g_strdup(id);
    disk->source_type = g_strdup("file");
    disk->format = g_strdup("qcow2");
    disk->has_medium = TRUE;
    disk->layers = g_ptr_array_new_with_free_func(layer_free);
    g_ptr_array_add(disk->layers, layer);
    g_ptr_array_add(world->info->disks, disk);
    return disk;
}

/* A point of the domain as it is. */
static void
back_up(World *world)
{
    VmbPoint *point = g_new0(VmbPoint, 1);
    guint n = world->points->len + 1;
    vmb_bind_disks(world->info, world->points);
    point->manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    point->id = g_strdup(point->manifest->id);
    for (guint i = 0; i < world->info->disks->len; i++) {
        const VmbDiskInfo *info = world->info->disks->pdata[i];
        VmbManifestDisk *disk = fixture_disk(info->target, n, 0);
        if (info->device == VMB_DEVICE_CDROM) {
            vmb_manifest_disk_free(disk);
            continue;
        }
        g_free(disk->id);
        disk->id = g_strdup(info->id);
        g_ptr_array_unref(disk->layers);
        disk->layers = vmb_source_layers(info);
        fixture_add_disk(point->manifest, disk);
    }
    g_ptr_array_add(world->points, point);
}

/* Binds twice: the second time changes nothing. @expected: ids in the disks' order, then NULL. */
static void
check(World *world, const char *const *expected)
{
    for (int round = 0; round < 2; round++) {
        vmb_bind_disks(world->info, world->points);
        for (guint i = 0; i < world->info->disks->len; i++)
            g_assert_cmpstr(((VmbDiskInfo *)world->info->disks->pdata[i])->id, ==, expected[i]);
    }
}

#define check_ids(world, ...) check(world, (const char *const[]){__VA_ARGS__, NULL})

static void
test_new(World *world, gconstpointer data)
{
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdb", "serial:two", "b");
    add_disk(world, "vdc", "alias:ua-three", "c");
    check_ids(world, "target:vda", "serial:two", "alias:ua-three");
}

static void
test_swapped(World *world, gconstpointer data)
{
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdb", "target:vdb", "b");
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "target:vda", "b");
    add_disk(world, "vdb", "target:vdb", "a");
    check_ids(world, "target:vdb", "target:vda");
    /* The images are replaced where they are now: each goes on with the disk of that target. */
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "target:vda", "new-b");
    add_disk(world, "vdb", "target:vdb", "new-a");
    check_ids(world, "target:vdb", "target:vda");
}

/* Serials go before images, images before targets. */
static void
test_order_of_rules(World *world, gconstpointer data)
{
    add_disk(world, "vda", "serial:one", "a");
    add_disk(world, "vdb", "serial:two", "b");
    add_disk(world, "vdc", "target:vdc", "c");
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "serial:two", "a");
    add_disk(world, "vdb", "serial:one", "b");
    add_disk(world, "vdd", "target:vdd", "c");
    add_disk(world, "vdc", "target:vdc", "d");
    check_ids(world, "serial:two", "serial:one", "target:vdc", "target:vdc~2");
}

static void
test_serial_comes_and_goes(World *world, gconstpointer data)
{
    add_disk(world, "vda", "target:vda", "a");
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "serial:late", "a");
    check_ids(world, "target:vda");
    back_up(world);
    new_domain(world);
    add_disk(world, "vdb", "alias:ua-x", "a");
    check_ids(world, "target:vda");
    /* With another image nothing is left that speaks for the same disk. */
    new_domain(world);
    add_disk(world, "vda", "serial:late", "z");
    check_ids(world, "serial:late");
}

static void
test_target_stays(World *world, gconstpointer data)
{
    add_disk(world, "vda", "target:vda", "a");
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "target:vda", "replaced");
    check_ids(world, "target:vda");
}

/* An identity is never given to another disk, however many have had the target. */
static void
test_never_used_again(World *world, gconstpointer data)
{
    static const char *const others[] = {"target:vda", "target:vda~2", "target:vda~3"};
    add_disk(world, "vda", "target:vda", "a");
    back_up(world);
    for (guint n = 1; n < 3; n++) {
        g_autofree char *old = g_strdup_printf("old%u", n);
        g_autofree char *image = g_strdup_printf("image%u", n);
        VmbDiskInfo *before = world->info->disks->pdata[world->info->disks->len - 1];
        g_autofree char *path = g_strdup(((VmbDiskLayer *)before->layers->pdata[0])->path);
        g_autofree char *name = g_path_get_basename(path);
        g_autofree char *target = g_strdup_printf("vd%c", 'a' + (char)n);
        new_domain(world);
        /* What had vda moves on, and a new one takes the place. */
        add_disk(world, target, "target:other", name);
        add_disk(world, "vda", "target:vda", image);
        vmb_bind_disks(world->info, world->points);
        g_assert_cmpstr(((VmbDiskInfo *)world->info->disks->pdata[0])->id, ==, others[n - 1]);
        g_assert_cmpstr(((VmbDiskInfo *)world->info->disks->pdata[1])->id, ==, others[n]);
        back_up(world);
    }
}

/* An image that took over the number of one that is gone is no disk that the points know. */
static void
test_number_used_again(World *world, gconstpointer data)
{
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdb", "target:vdb", "b");
    back_up(world);
    VmbManifestDisk *known = ((VmbPoint *)world->points->pdata[0])->manifest->disks->pdata[1];
    VmbSourceLayer *layer = known->layers->pdata[0];
    new_domain(world);
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdc", "target:vdc", "b");
    check_ids(world, "target:vda", "target:vdb");
    if (layer->birth_ns == 0) {
        g_test_message("the filesystem does not tell when files were made");
        layer->inode++;
    } else {
        layer->birth_ns--;
    }
    new_domain(world);
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdc", "target:vdc", "b");
    check_ids(world, "target:vda", "target:vdc");
}

/* A disk that was away for some points: by the same path only, as numbers are used again. */
static void
test_away(World *world, gconstpointer data)
{
    g_autofree char *from = image_path(world, "b"), *to = image_path(world, "moved");
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdb", "target:vdb", "b");
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "target:vda", "a");
    back_up(world);
    new_domain(world);
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdc", "target:vdc", "b");
    check_ids(world, "target:vda", "target:vdb");
    g_assert_cmpint(rename(from, to), ==, 0);
    new_domain(world);
    add_disk(world, "vda", "target:vda", "a");
    add_disk(world, "vdc", "target:vdc", "moved");
    check_ids(world, "target:vda", "target:vdc");
}

static void
test_cdrom(World *world, gconstpointer data)
{
    add_disk(world, "sda", "target:sda", "a");
    add_disk(world, "sdb", "target:sdb", "b");
    back_up(world);
    new_domain(world);
    add_disk(world, "sda", "target:sda", "iso")->device = VMB_DEVICE_CDROM;
    add_disk(world, "sdb", "target:sdb", "b");
    check_ids(world, "target:sda~2", "target:sdb");
}

/* Two disks must not get one identity, whatever the points are like. */
static void
test_random(World *world, gconstpointer data)
{
    guint32 seed = g_test_rand_int() ^ g_random_int();
    g_test_message("seed %u", seed);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    for (int round = 0; round < 200; round++) {
        g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
        new_domain(world);
        guint n = (guint)g_rand_int_range(random, 1, 6);
        g_autofree char *images = g_strdup("abcdefgh");
        for (guint i = 0; i < n; i++) {
            guint pick = (guint)g_rand_int_range(random, (gint32)i, 8);
            char image[2] = {images[pick], 0};
            images[pick] = images[i];
            g_autofree char *target = g_strdup_printf("vd%c", 'a' + (char)i);
            g_autofree char *id =
                g_rand_int_range(random, 0, 3) == 0
                    ? g_strdup_printf("serial:%u", i + 4 * (guint)g_rand_boolean(random))
                    : g_strconcat("target:", target, NULL);
            add_disk(world, target, id, image);
        }
        back_up(world);
        g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
        for (guint i = 0; i < n; i++) {
            VmbDiskInfo *disk = world->info->disks->pdata[i];
            g_assert_true(g_hash_table_add(seen, disk->id));
            g_ptr_array_add(ids, g_strdup(disk->id));
        }
        g_ptr_array_add(ids, NULL);
        check(world, (const char *const *)ids->pdata);
    }
}

#define add(name, function) g_test_add("/bind/" name, World, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("new", test_new);
    add("swapped", test_swapped);
    add("order-of-rules", test_order_of_rules);
    add("serial-comes-and-goes", test_serial_comes_and_goes);
    add("target-stays", test_target_stays);
    add("never-used-again", test_never_used_again);
    add("number-used-again", test_number_used_again);
    add("away", test_away);
    add("cdrom", test_cdrom);
    add("random", test_random);
    return g_test_run();
}
