/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The cache of what a domain's points are: it may be stale, broken or hostile, what is told is
 * true. */
#include "block/digest.h"
#include "repo-fixture.h"
#include "repo/catalog.h"
#include "repo/summary-text.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    int fd; /* of the domain */
} Catalog;

static void
set_up(Catalog *catalog, gconstpointer data)
{
    fixture_set_up(&catalog->base, NULL);
    catalog->repository = fixture_repository(&catalog->base);
    catalog->domain = fixture_domain(catalog->repository, FIXTURE_UUID);
    catalog->fd = vmb_repo_domain_fd(catalog->domain);
}

static void
tear_down(Catalog *catalog, gconstpointer data)
{
    vmb_repo_domain_free(catalog->domain);
    vmb_repository_free(catalog->repository);
    fixture_tear_down(&catalog->base, NULL);
}

#define catalog_add(path, function) g_test_add(path, Catalog, NULL, set_up, function, tear_down)

/* A point with all that a summary has. */
static void
store(Catalog *catalog, guint n, guint parent)
{
    VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    VmbManifestFile *file = g_new0(VmbManifestFile, 1);
    VmbManifestDisk *disk = fixture_disk("vda", n, parent);
    file->name = g_strdup("domain.xml");
    file->role = g_strdup("inactive-xml");
    file->size = 1000 + n;
    g_ptr_array_add(manifest->files, file);
    disk->folded = n;
    if (parent != 0) {
        disk->replaced_bytes = 500 + n;
        disk->replaced_by = fixture_id(n + 1);
        disk->replaced_by_bytes = 300;
    } else {
        disk->synthetic_from = fixture_id(99);
    }
    fixture_add_disk(manifest, disk);
    fixture_add_disk(manifest, fixture_disk("vdb", n, 0));
    fixture_store(catalog->domain, manifest);
}

static void
mark_state(VmbPointState *state, gpointer user)
{
    state->verified_ns = FIXTURE_TIME + 1;
    state->checked_ns = FIXTURE_TIME + 2;
    g_free(state->verify_result);
    state->verify_result = g_strdup("damaged");
    state->is_protected = TRUE;
    state->metadata_damaged = TRUE;
    vmb_point_state_add_tag(state, "yearly");
    vmb_point_state_add_tag(state, "audit");
    vmb_point_state_add_damage(state, "target:vdb", 0, 65536);
}

static VmbPoint *
find(GPtrArray *points, const char *id)
{
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, id) == 0)
            return points->pdata[i];
    return NULL;
}

static GPtrArray *
read_points(Catalog *catalog)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *points = vmb_repo_domain_points(catalog->domain, &error);
    g_assert_no_error(error);
    return points;
}

static void
mark(Catalog *catalog, guint n)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *id = fixture_id(n);
    g_autoptr(GPtrArray) points = read_points(catalog);
    vmb_point_state_change(find(points, id), mark_state, NULL, &error);
    g_assert_no_error(error);
}

static char *
file_of(guint n, const char *name)
{
    g_autofree char *id = fixture_id(n);
    return g_build_filename(VMB_LAYOUT_POINTS, id, name, NULL);
}

static void
retire(Catalog *catalog, guint n)
{
    g_autofree char *path = file_of(n, VMB_LAYOUT_RETIRED);
    g_auto(VmbFd) fd = openat(catalog->fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
}

/* Flips a bit where the file is. */
static void
damage_in_place(Catalog *catalog, const char *path, gint64 offset)
{
    char byte = 0;
    g_auto(VmbFd) fd = openat(catalog->fd, path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, &byte, 1, offset), ==, 1);
    byte ^= 4;
    g_assert_cmpint(pwrite(fd, &byte, 1, offset), ==, 1);
}

static void
assert_disk(const VmbSummaryDisk *disk, const VmbManifestDisk *expected, const VmbPointState *state)
{
    gboolean damaged = FALSE;
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++)
        damaged |= strcmp(((VmbDamage *)state->damage->pdata[i])->disk, expected->id) == 0;
    g_assert_cmpstr(disk->target, ==, expected->target);
    g_assert_cmpstr(disk->id, ==, expected->id);
    g_assert_cmpuint(disk->size, ==, expected->size);
    g_assert_cmpint(disk->level, ==, expected->level);
    g_assert_cmpint(disk->method, ==, expected->method);
    g_assert_cmpint(disk->reason, ==, expected->reason);
    g_assert_cmpstr(disk->parent, ==, expected->parent);
    g_assert_cmpuint(disk->image_size, ==, expected->image_size);
    g_assert_cmpuint(disk->digests_size, ==, expected->digests_size);
    g_assert_cmpuint(disk->data_blocks, ==, expected->data_blocks);
    g_assert_cmpuint(disk->zero_blocks, ==, expected->zero_blocks);
    g_assert_cmpuint(disk->stored_bytes, ==, expected->stored_bytes);
    g_assert_cmpuint(disk->replaced_bytes, ==, expected->replaced_bytes);
    g_assert_cmpuint(disk->replaced_by_bytes, ==, expected->replaced_by_bytes);
    g_assert_cmpuint(disk->folded, ==, expected->folded);
    g_assert_cmpstr(disk->replaced_by, ==, expected->replaced_by);
    g_assert_cmpstr(disk->synthetic_from, ==, expected->synthetic_from);
    g_assert_cmpint(disk->damaged, ==, damaged);
}

static void
assert_summary(const VmbSummary *summary, VmbPoint *point)
{
    g_auto(VmbPointState) state = {0};
    const VmbManifest *manifest = point->manifest;
    g_assert_cmpstr(summary->id, ==, point->id);
    g_assert_cmpint(summary->retired, ==, point->retired);
    g_assert_cmpint(summary->damage != NULL, ==, manifest == NULL);
    if (manifest == NULL) {
        g_assert_cmpstr(summary->damage->message, ==, point->damage->message);
        return;
    }
    gboolean known = vmb_point_state_read(point, &state, NULL);
    g_assert_cmpint(summary->state_unreadable, ==, !known);
    g_assert_cmpstr(summary->domain, ==, manifest->domain);
    g_assert_cmpuint(summary->sequence, ==, manifest->sequence);
    g_assert_cmpint(summary->time_ns, ==, manifest->time_ns);
    g_assert_cmpint(summary->level, ==, manifest->level);
    g_assert_cmpint(summary->consistency, ==, manifest->consistency);
    g_assert_cmpuint(vmb_summary_stored(summary), ==, vmb_manifest_stored(manifest));
    g_assert_cmpint(summary->is_protected, ==, state.is_protected);
    g_assert_cmpint(summary->metadata_damaged, ==, state.metadata_damaged);
    g_assert_cmpint(summary->verified_ns, ==, state.verified_ns);
    g_assert_cmpint(summary->checked_ns, ==, state.checked_ns);
    g_assert_cmpstr(summary->verify_result, ==, state.verify_result);
    g_assert_cmpuint(g_strv_length((char **)summary->tags), ==,
                     state.tags != NULL ? state.tags->len : 0);
    for (guint i = 0; summary->tags[i] != NULL; i++)
        g_assert_cmpstr(summary->tags[i], ==, state.tags->pdata[i]);
    g_assert_cmpuint(summary->n_disks, ==, manifest->disks->len);
    for (guint i = 0; i < summary->n_disks; i++)
        assert_disk(&summary->disks[i], manifest->disks->pdata[i], &state);
}

/* What is told is what the documents say. Returns how many of the points came from the catalog. */
static guint
assert_true_in(Catalog *catalog, VmbSummariesMode mode)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = read_points(catalog);
    g_autoptr(GPtrArray) summaries = vmb_repo_domain_summaries(catalog->domain, mode, &error);
    guint n_cached = 0;
    g_assert_no_error(error);
    g_assert_cmpuint(summaries->len, ==, points->len);
    for (guint i = 0; i < points->len; i++) {
        const VmbSummary *summary = summaries->pdata[i];
        assert_summary(summary, points->pdata[i]);
        n_cached += summary->cached;
    }
    return n_cached;
}

static guint
assert_true(Catalog *catalog)
{
    g_assert_cmpuint(assert_true_in(catalog, VMB_SUMMARIES_QUICK), ==,
                     assert_true_in(catalog, VMB_SUMMARIES_CHECKED));
    return assert_true_in(catalog, VMB_SUMMARIES_CHECKED);
}

/* Three points; all of them in the catalog. */
static void
fill(Catalog *catalog)
{
    store(catalog, 1, 0);
    store(catalog, 2, 1);
    store(catalog, 3, 2);
    mark(catalog, 2);
    retire(catalog, 1);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 3);
}

static void
test_content(Catalog *catalog, gconstpointer data)
{
    struct stat st;
    g_assert_cmpuint(assert_true(catalog), ==, 0); /* nothing at all */
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 0);
    store(catalog, 1, 0);
    g_assert_cmpuint(assert_true(catalog), ==, 0);
    fill(catalog);
    g_assert_cmpint(fstatat(catalog->fd, VMB_LAYOUT_CATALOG, &st, 0), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    /* Nothing has changed: it stays as it is. */
    vmb_catalog_refresh(catalog->domain);
    struct stat again;
    g_assert_cmpint(fstatat(catalog->fd, VMB_LAYOUT_CATALOG, &again, 0), ==, 0);
    g_assert_cmpuint(again.st_ino, ==, st.st_ino);
}

static void
test_stale(Catalog *catalog, gconstpointer data)
{
    fill(catalog);
    mark(catalog, 3);
    g_assert_cmpuint(assert_true(catalog), ==, 2);
    store(catalog, 4, 3);
    g_assert_cmpuint(assert_true(catalog), ==, 2);
    retire(catalog, 2);
    g_assert_cmpuint(assert_true(catalog), ==, 1);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 4);
    g_autofree char *manifest = file_of(4, VMB_LAYOUT_MANIFEST), *first = file_of(1, NULL);
    store(catalog, 4, 1); /* as a fold does: replaced by another one */
    g_assert_cmpuint(assert_true(catalog), ==, 3);
    g_assert_true(vmb_fs_remove_tree(catalog->fd, first, NULL));
    g_assert_cmpuint(assert_true(catalog), ==, 2);
    g_assert_cmpint(unlinkat(catalog->fd, manifest, 0), ==, 0);
    g_assert_cmpuint(assert_true(catalog), ==, 2);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 2); /* damaged ones are looked at each time */
}

/* Not by vmbackup: seen where both documents are asked for. */
static void
test_in_place(Catalog *catalog, gconstpointer data)
{
    g_autofree char *manifest = file_of(3, VMB_LAYOUT_MANIFEST);
    g_autofree char *state = file_of(2, VMB_LAYOUT_STATE);
    fill(catalog);
    damage_in_place(catalog, manifest, 100);
    g_assert_cmpuint(assert_true_in(catalog, VMB_SUMMARIES_CHECKED), ==, 2);
    damage_in_place(catalog, state, 20);
    g_assert_cmpuint(assert_true_in(catalog, VMB_SUMMARIES_CHECKED), ==, 1);
    g_autoptr(GPtrArray) quick =
        vmb_repo_domain_summaries(catalog->domain, VMB_SUMMARIES_QUICK, NULL);
    for (guint i = 0; i < quick->len; i++)
        g_assert_true(((VmbSummary *)quick->pdata[i])->cached);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 1);
}

/* What changed within the last tick, or at a time that is still to come, may change again unseen.
 */
static void
test_racy(Catalog *catalog, gconstpointer data)
{
    struct timespec future[2] = {{0, UTIME_OMIT}, {.tv_sec = 4000000000, .tv_nsec = 5}};
    g_autofree char *state = file_of(2, VMB_LAYOUT_STATE), *directory = file_of(3, NULL);
    fill(catalog);
    g_assert_cmpint(utimensat(catalog->fd, state, future, 0), ==, 0);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true_in(catalog, VMB_SUMMARIES_CHECKED), ==, 2);
    g_assert_cmpint(utimensat(catalog->fd, directory, future, 0), ==, 0);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 1);
    g_assert_cmpint(utimensat(catalog->fd, VMB_LAYOUT_POINTS, future, 0), ==, 0);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 1);
    store(catalog, 4, 3);
    g_assert_cmpint(utimensat(catalog->fd, VMB_LAYOUT_POINTS, future, 0), ==, 0);
    g_assert_cmpuint(assert_true(catalog), ==, 1);
}

static void
read_catalog(Catalog *catalog, char **bytes, gsize *length)
{
    g_autoptr(GError) error = NULL;
    vmb_fs_read_file(catalog->fd, VMB_LAYOUT_CATALOG, VMB_MIB, bytes, length, &error);
    g_assert_no_error(error);
}

/* Without the syncs that nobody needs here. */
static void
write_catalog(Catalog *catalog, const char *bytes, gsize length)
{
    g_auto(VmbFd) fd =
        openat(catalog->fd, VMB_LAYOUT_CATALOG, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, bytes, length), ==, (gssize)length);
}

static void
test_broken(Catalog *catalog, gconstpointer data)
{
    g_autofree char *bytes = NULL;
    gsize length = 0;
    fill(catalog);
    read_catalog(catalog, &bytes, &length);
    for (gsize i = 0; i < length; i += 7) {
        bytes[i] ^= 16;
        write_catalog(catalog, bytes, length);
        g_assert_cmpuint(assert_true(catalog), ==, 0);
        bytes[i] ^= 16;
        write_catalog(catalog, bytes, i);
        g_assert_cmpuint(assert_true(catalog), ==, 0);
    }
    write_catalog(catalog, bytes, length);
    g_assert_cmpuint(assert_true(catalog), ==, 3);
    g_assert_cmpint(unlinkat(catalog->fd, VMB_LAYOUT_CATALOG, 0), ==, 0);
    g_assert_cmpint(symlinkat("/dev/zero", catalog->fd, VMB_LAYOUT_CATALOG), ==, 0);
    g_assert_cmpuint(assert_true(catalog), ==, 0);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 3);
    g_assert_cmpint(unlinkat(catalog->fd, VMB_LAYOUT_CATALOG, 0), ==, 0);
    g_assert_cmpint(mkdirat(catalog->fd, VMB_LAYOUT_CATALOG, 0700), ==, 0);
    vmb_catalog_refresh(catalog->domain); /* in vain */
    g_assert_cmpuint(assert_true(catalog), ==, 0);
}

static void
seal(char *bytes, gsize length)
{
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    vmb_digest_block(digest, bytes, length - VMB_DIGEST_SIZE,
                     (guint8 *)bytes + length - VMB_DIGEST_SIZE);
}

static guint
seed_of_test(void)
{
    const char *text = g_getenv("VMBACKUP_TEST_SEED");
    guint seed = text != NULL ? (guint)strtoul(text, NULL, 10) : g_random_int();
    printf("# VMBACKUP_TEST_SEED=%u\n", seed);
    return seed;
}

/* Somebody has made one with a right digest: nothing out of bounds comes of it. */
static void
test_hostile(Catalog *catalog, gconstpointer data)
{
    g_autofree char *good = NULL;
    gsize length = 0;
    guint n_used = 0;
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of_test());
    fill(catalog);
    read_catalog(catalog, &good, &length);
    for (guint i = 0; i < 800; i++) {
        g_autofree char *bytes = g_memdup2(good, length);
        for (gint k = g_rand_int_range(rand, 1, 4); k > 0; k--) {
            gsize at = (gsize)g_rand_int_range(rand, 8, (gint)(length - VMB_DIGEST_SIZE));
            bytes[at] = (char)(g_rand_boolean(rand) ? 0xff : g_rand_int_range(rand, 0, 256));
        }
        seal(bytes, length);
        write_catalog(catalog, bytes, length);
        g_autoptr(GPtrArray) summaries =
            vmb_repo_domain_summaries(catalog->domain, VMB_SUMMARIES_QUICK, NULL);
        g_assert_nonnull(summaries);
        g_autofree guint64 *frees = g_new(guint64, summaries->len);
        vmb_summaries_frees(summaries, frees);
        for (guint n = 0; n < summaries->len; n++) {
            const VmbSummary *summary = summaries->pdata[n];
            g_assert_true(vmb_layout_is_point_id(summary->id));
            n_used += summary->cached;
            if (frees[n] != VMB_BYTES_UNKNOWN)
                g_assert_cmpuint(frees[n], <=, vmb_summary_stored(summary));
        }
        g_autoptr(VmbSummary) newest = vmb_repo_domain_newest(catalog->domain, NULL);
        g_assert_true(newest == NULL || newest->domain[0] != '\0');
    }
    g_assert_cmpuint(n_used, >, 0);
}

static void
test_fold(Catalog *catalog, gconstpointer data)
{
    fill(catalog);
    g_auto(VmbFd) fd = openat(catalog->fd, VMB_LAYOUT_FOLD, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_true(vmb_catalog_is_suspended(catalog->domain));
    g_assert_null(vmb_catalog_load(catalog->domain));
    g_assert_cmpint(unlinkat(catalog->fd, VMB_LAYOUT_CATALOG, 0), ==, 0);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpint(faccessat(catalog->fd, VMB_LAYOUT_CATALOG, F_OK, 0), <, 0);
    g_assert_cmpint(unlinkat(catalog->fd, VMB_LAYOUT_FOLD, 0), ==, 0);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 3);
}

/* What a killed process has left goes; what another one is writing stays. */
static void
test_leftovers(Catalog *catalog, gconstpointer data)
{
    static const char *const names[] = {".catalog-0123456789abcdef0123456789abcdef",
                                        ".catalog-0123456789abcdef0123456789abcdee", ".catalog-x"};
    struct timespec past[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++)
        fixture_write(catalog->fd, names[i], "x");
    g_assert_cmpint(utimensat(catalog->fd, names[0], past, 0), ==, 0);
    g_assert_cmpint(utimensat(catalog->fd, names[2], past, 0), ==, 0);
    fill(catalog);
    g_assert_cmpint(faccessat(catalog->fd, names[0], F_OK, 0), <, 0);
    g_assert_cmpint(faccessat(catalog->fd, names[1], F_OK, 0), ==, 0);
    g_assert_cmpint(faccessat(catalog->fd, names[2], F_OK, 0), ==, 0);
}

static void
test_other_entries(Catalog *catalog, gconstpointer data)
{
    fill(catalog);
    g_auto(VmbFd) fd =
        openat(catalog->fd, VMB_LAYOUT_POINTS "/notes.txt", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    vmb_catalog_refresh(catalog->domain);
    g_autoptr(VmbCatalog) loaded = vmb_catalog_load(catalog->domain);
    g_assert_nonnull(loaded);
    g_assert_false(vmb_catalog_is_complete(loaded, catalog->domain)); /* it is to be told of */
    g_assert_cmpint(unlinkat(catalog->fd, VMB_LAYOUT_POINTS "/notes.txt", 0), ==, 0);
    g_assert_cmpuint(assert_true(catalog), ==, 3);
}

static void
test_read_only(Catalog *catalog, gconstpointer data)
{
    fill(catalog);
    mark(catalog, 3);
    g_assert_cmpint(fchmod(catalog->fd, 0500), ==, 0);
    fixture_as_nobody(&catalog->base);
    vmb_catalog_refresh(catalog->domain);
    fixture_as_root();
    g_assert_cmpint(fchmod(catalog->fd, 0700), ==, 0);
    g_assert_cmpuint(assert_true(catalog), ==, 2);
}

static gpointer
refresh_often(gpointer data)
{
    Catalog *catalog = data;
    g_autoptr(VmbRepoDomain) domain = fixture_domain(catalog->repository, FIXTURE_UUID);
    for (guint i = 0; i < 8; i++)
        vmb_catalog_refresh(domain);
    return NULL;
}

static void
test_at_the_same_time(Catalog *catalog, gconstpointer data)
{
    GThread *threads[4];
    fill(catalog);
    for (gsize i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("refresh", refresh_often, catalog);
    for (guint n = 4; n < 12; n++) {
        store(catalog, n, n - 1);
        assert_true_in(catalog, VMB_SUMMARIES_QUICK);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    vmb_catalog_refresh(catalog->domain);
    g_assert_cmpuint(assert_true(catalog), ==, 11);
    g_autoptr(GDir) dir = NULL;
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", catalog->fd);
    dir = g_dir_open(path, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;)
        g_assert_false(vmb_layout_is_catalog_new(name));
}

#define MAX_ID 20

static void
assert_newest(Catalog *catalog)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = read_points(catalog);
    g_autoptr(VmbSummary) newest = vmb_repo_domain_newest(catalog->domain, &error);
    const VmbPoint *expected = NULL;
    g_assert_no_error(error);
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL && !point->retired)
            expected = point;
    }
    g_assert_cmpstr(newest != NULL ? newest->id : NULL, ==, expected != NULL ? expected->id : NULL);
    if (newest != NULL)
        g_assert_cmpstr(newest->domain, ==, expected->manifest->domain);
}

/* Points whose order is not that of their ids. */
static void
store_somewhere(Catalog *catalog, guint n, guint64 sequence)
{
    VmbManifest *manifest = fixture_manifest(n % 3 == 0 ? "old" : "new", FIXTURE_UUID, n);
    manifest->sequence = sequence;
    fixture_add_disk(manifest, fixture_disk("vda", n, 0));
    fixture_store(catalog->domain, manifest);
}

/* @used: ids that were ever given; none is given twice. */
static void
step(Catalog *catalog, GRand *rand, gboolean *used, guint64 *sequence)
{
    guint n = (guint)g_rand_int_range(rand, 1, MAX_ID);
    g_autofree char *directory = file_of(n, NULL), *manifest = file_of(n, VMB_LAYOUT_MANIFEST);
    gboolean is_there = faccessat(catalog->fd, manifest, F_OK, 0) == 0;
    switch (g_rand_int_range(rand, 0, 6)) {
    case 0:
        vmb_catalog_refresh(catalog->domain);
        break;
    case 1:
        if (is_there)
            retire(catalog, n);
        break;
    case 2:
        vmb_fs_remove_tree(catalog->fd, directory, NULL);
        break;
    case 3:
        if (is_there && g_rand_int_range(rand, 0, 3) == 0)
            g_assert_cmpint(unlinkat(catalog->fd, manifest, 0), ==, 0);
        break;
    default:
        if (!used[n]) {
            used[n] = TRUE;
            g_assert_true(vmb_repo_domain_next_sequence(catalog->domain, sequence, NULL));
            store_somewhere(catalog, n, *sequence);
        }
    }
}

static void
test_newest(Catalog *catalog, gconstpointer data)
{
    guint64 sequence = 0;
    gboolean used[MAX_ID] = {FALSE};
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of_test());
    assert_newest(catalog);
    for (guint i = 0; i < 150; i++) {
        step(catalog, rand, used, &sequence);
        assert_newest(catalog);
        assert_true_in(catalog, VMB_SUMMARIES_QUICK);
    }
    g_assert_cmpint(unlinkat(catalog->fd, VMB_LAYOUT_SEQUENCE, 0), ==, 0);
    assert_newest(catalog);
}

/* One disk each, stored in 329680 bytes and 256 bytes of digests; and 10 bytes of another file. */
static VmbManifest *
chain_point(guint n, guint parent, guint64 replaced)
{
    VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    VmbManifestFile *file = g_new0(VmbManifestFile, 1);
    VmbManifestDisk *disk = fixture_disk("vda", n, parent);
    file->name = g_strdup("domain.xml");
    file->role = g_strdup("inactive-xml");
    file->size = 10;
    g_ptr_array_add(manifest->files, file);
    disk->replaced_bytes = replaced;
    fixture_add_disk(manifest, disk);
    return manifest;
}

static void
assert_frees(Catalog *catalog, const guint64 *expected, guint n)
{
    guint64 frees[8] = {0};
    g_autoptr(GPtrArray) summaries =
        vmb_repo_domain_summaries(catalog->domain, VMB_SUMMARIES_CHECKED, NULL);
    g_assert_cmpuint(summaries->len, ==, n);
    vmb_summaries_frees(summaries, frees);
    for (guint i = 0; i < n; i++)
        g_assert_cmpuint(frees[i], ==, expected[i]);
}

static void
test_frees(Catalog *catalog, gconstpointer data)
{
    const guint64 own = 5 * VMB_BLOCK_SIZE + 1000, digests = 64 + 48 * 4,
                  unknown = VMB_BYTES_UNKNOWN;
    fixture_store(catalog->domain, chain_point(1, 0, unknown));
    fixture_store(catalog->domain, chain_point(2, 1, 700));
    fixture_store(catalog->domain, chain_point(3, 2, unknown));
    const guint64 chain[] = {710, unknown, own + digests + 10};
    assert_frees(catalog, chain, 3);
    /* A fold knows better than the child, which was made before it. */
    VmbManifest *folded = chain_point(2, 1, 700);
    VmbManifestDisk *disk = folded->disks->pdata[0];
    disk->replaced_by = fixture_id(3);
    disk->replaced_by_bytes = 900;
    fixture_store(catalog->domain, folded);
    /* No more than there is. */
    fixture_store(catalog->domain, chain_point(4, 3, 1000 * own));
    const guint64 longer[] = {710, 910, own + 10, own + digests + 10};
    assert_frees(catalog, longer, 4);
    /* Two that build on one, and one that may build on any. */
    fixture_store(catalog->domain, chain_point(5, 2, 1));
    const guint64 forked[] = {710, unknown, own + 10, own + digests + 10, own + digests + 10};
    assert_frees(catalog, forked, 5);
    g_autofree char *id = fixture_id(6);
    fixture_store_text(catalog->domain, id, "{}");
    const guint64 damaged[] = {710, unknown, own + 10, unknown, unknown, unknown};
    assert_frees(catalog, damaged, 6);
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    catalog_add("/catalog/content", test_content);
    catalog_add("/catalog/stale", test_stale);
    catalog_add("/catalog/in-place", test_in_place);
    catalog_add("/catalog/racy", test_racy);
    catalog_add("/catalog/broken", test_broken);
    catalog_add("/catalog/hostile", test_hostile);
    catalog_add("/catalog/fold", test_fold);
    catalog_add("/catalog/leftovers", test_leftovers);
    catalog_add("/catalog/other-entries", test_other_entries);
    catalog_add("/catalog/read-only", test_read_only);
    catalog_add("/catalog/at-the-same-time", test_at_the_same_time);
    catalog_add("/catalog/newest", test_newest);
    catalog_add("/catalog/frees", test_frees);
    return g_test_run();
}
