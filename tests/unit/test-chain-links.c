/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Chains through manifests: whole ones, and every way in which one can be broken. */
#include "repo-fixture.h"

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    GPtrArray *points;
} Chain;

static void
set_up(Chain *chain, gconstpointer data)
{
    fixture_set_up(&chain->base, NULL);
    chain->repository = fixture_repository(&chain->base);
    chain->domain = fixture_domain(chain->repository, FIXTURE_UUID);
    chain->points = NULL;
}

static void
tear_down(Chain *chain, gconstpointer data)
{
    g_clear_pointer(&chain->points, g_ptr_array_unref);
    vmb_repo_domain_free(chain->domain);
    vmb_repository_free(chain->repository);
    fixture_tear_down(&chain->base, NULL);
}

static void
load(Chain *chain)
{
    g_autoptr(GError) error = NULL;
    g_clear_pointer(&chain->points, g_ptr_array_unref);
    chain->points = vmb_repo_domain_points(chain->domain, &error);
    g_assert_no_error(error);
}

static VmbPoint *
point(Chain *chain, guint n)
{
    g_autofree char *id = fixture_id(n);
    for (guint i = 0; i < chain->points->len; i++)
        if (strcmp(((VmbPoint *)chain->points->pdata[i])->id, id) == 0)
            return chain->points->pdata[i];
    g_assert_not_reached();
}

static void
assert_chain(Chain *chain, guint from, const char *disk, const guint *expected, guint n)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) links = vmb_repo_chain(chain->points, point(chain, from), disk, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(links->len, ==, n);
    for (guint i = 0; i < n; i++) {
        const VmbChainLink *link = &g_array_index(links, VmbChainLink, i);
        g_assert_true(link->point == point(chain, expected[i]));
        g_assert_cmpstr(link->disk->id, ==, disk);
        g_assert_true(vmb_manifest_find_disk(link->point->manifest, disk) == link->disk);
    }
}

static void
assert_broken(Chain *chain, guint from, const char *cause, const char *intact)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_repo_chain(chain->points, point(chain, from), "target:vda", &error));
    assert_error_contains(error, VMB_ERROR_DAMAGE, cause);
    assert_error_contains(error, VMB_ERROR_DAMAGE, "disk vda");
    assert_error_contains(error, VMB_ERROR_DAMAGE, intact);
    assert_error_contains(error, VMB_ERROR_DAMAGE, "vmbackup backup --level full web01");
}

/* Two disks; vdb is left out of point 3, and begins anew in point 4. */
static void
test_whole(Chain *chain, gconstpointer data)
{
    static const guint vda[][3] = {{0, 0, 0}, {1, 0, 0}, {2, 1, 1}, {3, 2, 0}, {4, 3, 0}};
    for (guint n = 1; n <= 4; n++) {
        VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, n);
        fixture_add_disk(manifest, fixture_disk("vda", n, vda[n][1]));
        if (n != 3)
            fixture_add_disk(manifest, fixture_disk("vdb", n, vda[n][2]));
        fixture_store(chain->domain, manifest);
    }
    load(chain);
    assert_chain(chain, 4, "target:vda", (const guint[]){4, 3, 2, 1}, 4);
    assert_chain(chain, 1, "target:vda", (const guint[]){1}, 1);
    assert_chain(chain, 2, "target:vdb", (const guint[]){2, 1}, 2);
    assert_chain(chain, 4, "target:vdb", (const guint[]){4}, 1);
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_repo_chain(chain->points, point(chain, 3), "target:vdb", &error));
    assert_error_contains(error, VMB_ERROR_DOMAIN, "web01/20261121T020003Z holds no disk");
}

/* 1 <- 2 <- 3 <- 4, a new full 5 <- 6. */
static void
store_six(Chain *chain)
{
    static const guint parents[] = {0, 0, 1, 2, 3, 0, 5};
    for (guint n = 1; n <= 6; n++)
        fixture_store_point(chain->domain, "web01", n, parents[n]);
}

static void
test_missing(Chain *chain, gconstpointer data)
{
    store_six(chain);
    g_assert_true(
        vmb_fs_remove_tree(vmb_repo_domain_fd(chain->domain), "points/20261121T020002Z", NULL));
    load(chain);
    assert_broken(chain, 4,
                  "web01/20261121T020003Z disk vda cannot be read: its parent "
                  "20261121T020002Z is missing",
                  "points up to 20261121T020001Z and from the full 20261121T020005Z on");
    assert_chain(chain, 1, "target:vda", (const guint[]){1}, 1);
    assert_chain(chain, 6, "target:vda", (const guint[]){6, 5}, 2);
}

static void
test_damaged(Chain *chain, gconstpointer data)
{
    store_six(chain);
    fixture_store_text(chain->domain, "20261121T020001Z", "{}");
    load(chain);
    assert_broken(chain, 2, "parent 20261121T020001Z is damaged (",
                  "from the full 20261121T020005Z");
    fixture_store_text(chain->domain, "20261121T020005Z", "{}");
    load(chain);
    assert_broken(chain, 6, "parent 20261121T020005Z is damaged", "points up to 20261121T020004Z");
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_repo_chain(chain->points, point(chain, 5), "target:vda", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
test_nothing_intact(Chain *chain, gconstpointer data)
{
    fixture_store_point(chain->domain, "web01", 2, 1);
    load(chain);
    assert_broken(chain, 2, "is missing", "no other point holds this disk without it");
}

static void
test_not_older(Chain *chain, gconstpointer data)
{
    /* Two that need each other, and one with the number of its parent. */
    fixture_store_point(chain->domain, "web01", 1, 2);
    fixture_store_point(chain->domain, "web01", 2, 1);
    VmbManifest *same = fixture_manifest("web01", FIXTURE_UUID, 3);
    same->sequence = 2;
    fixture_add_disk(same, fixture_disk("vda", 3, 2));
    fixture_store(chain->domain, same);
    load(chain);
    assert_broken(chain, 1, "parent 20261121T020002Z is not older", "no other point");
    assert_broken(chain, 2, "parent 20261121T020002Z is not older", "no other point");
    assert_broken(chain, 3, "parent 20261121T020002Z is not older",
                  "points up to 20261121T020001Z");
}

static void
test_other_disk(Chain *chain, gconstpointer data)
{
    VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, 1);
    VmbManifestDisk *disk = fixture_disk("vda", 1, 0);
    g_free(disk->id);
    disk->id = g_strdup("serial:ANOTHER");
    fixture_add_disk(manifest, disk);
    fixture_store(chain->domain, manifest);
    fixture_store_point(chain->domain, "web01", 2, 1);
    load(chain);
    assert_broken(chain, 2, "does not hold the disk 'target:vda'", "no other point");
}

static void
test_other_checkpoint(Chain *chain, gconstpointer data)
{
    for (guint n = 1; n <= 3; n++) {
        VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, n);
        VmbManifestDisk *disk = fixture_disk("vda", n, n - 1);
        if (n == 2)
            g_clear_pointer(&disk->checkpoint, g_free);
        if (n == 2) {
            g_free(disk->base_checkpoint);
            disk->base_checkpoint = fixture_checkpoint(77);
        }
        fixture_add_disk(manifest, disk);
        fixture_store(chain->domain, manifest);
    }
    load(chain);
    assert_broken(chain, 2, "0000004d, but its parent 20261121T020001Z has vmbackup-", "no other");
    assert_broken(chain, 3, "but its parent 20261121T020002Z has none",
                  "points up to 20261121T020001Z");
}

static void
test_long(Chain *chain, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    for (guint n = 1; n <= 200; n++)
        fixture_store_point(chain->domain, "web01", n, n - 1);
    load(chain);
    g_autoptr(GArray) links =
        vmb_repo_chain(chain->points, point(chain, 200), "target:vda", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(links->len, ==, 200);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*function)(Chain *, gconstpointer);
    } tests[] = {
        {"/chain-links/whole", test_whole},
        {"/chain-links/missing", test_missing},
        {"/chain-links/damaged", test_damaged},
        {"/chain-links/nothing-intact", test_nothing_intact},
        {"/chain-links/not-older", test_not_older},
        {"/chain-links/other-disk", test_other_disk},
        {"/chain-links/other-checkpoint", test_other_checkpoint},
        {"/chain-links/long", test_long},
    };
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    for (gsize i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].path, Chain, NULL, set_up, tests[i].function, tear_down);
    return g_test_run();
}
