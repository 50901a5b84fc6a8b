/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fills a repository with points that have all metadata but no data, to see how it scales:
 * make-scale REPO DOMAINS POINTS: domains vm0000, vm0001..., a point a day, a full first. In the first domain
 * there are images as well, as long as the manifests say, with nothing in them. */
#include "../unit/repo-fixture.h"
#include "repo/catalog.h"
#include "repo/state-json.h"
#include "util/parallel.h"

#define DAY (24 * 3600 * FIXTURE_SECOND)
#define FIRST (G_GINT64_CONSTANT(1767225600) * FIXTURE_SECOND) /* 20260101T000000Z */
#define THREADS 4

typedef struct {
    VmbRepository *repository;
    guint n_points;
} Scale;

static void
put(int dir_fd, const char *name, const char *text)
{
    g_auto(VmbFd) fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, text, strlen(text)), ==, (gssize)strlen(text));
}

static void
grow(int dir_fd, const char *name, guint64 size)
{
    g_auto(VmbFd) fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
}

static VmbManifest *
manifest_of(VmbRepository *repository, VmbRepoDomain *domain, const char *name, guint n)
{
    gint64 time_ns = FIRST + (gint64)(n - 1) * DAY;
    VmbManifest *manifest = fixture_manifest(name, vmb_repo_domain_uuid(domain), n);
    g_free(manifest->id);
    g_free(manifest->repository);
    manifest->id = vmb_layout_point_id(time_ns, 0);
    manifest->repository = g_strdup(vmb_repository_id(repository));
    manifest->time_ns = time_ns;
    for (guint d = 0; d < 2; d++) {
        VmbManifestDisk *disk = fixture_disk(d == 0 ? "vda" : "vdb", n, n - 1);
        disk->replaced_bytes = n > 1 ? 400 : VMB_BYTES_UNKNOWN;
        if (n > 1) {
            g_free(disk->parent);
            disk->parent = vmb_layout_point_id(time_ns - DAY, 0);
        }
        fixture_add_disk(manifest, disk);
    }
    return manifest;
}

static void
make_files(int dir_fd, const VmbManifest *manifest)
{
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        grow(dir_fd, disk->image, disk->image_size);
        grow(dir_fd, disk->digests, disk->digests_size);
    }
}

static void
make_point(VmbRepository *repository, VmbRepoDomain *domain, const char *name, guint n,
           gboolean with_files)
{
    VmbPointState state = {0};
    g_autoptr(VmbManifest) manifest = manifest_of(repository, domain, name, n);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, manifest->id, NULL);
    g_assert_cmpint(mkdirat(vmb_repo_domain_fd(domain), path, 0700), ==, 0);
    g_auto(VmbFd) dir =
        openat(vmb_repo_domain_fd(domain), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(dir, >=, 0);
    g_autofree char *text = vmb_manifest_serialise(manifest);
    g_autofree char *state_text = vmb_point_state_text(NULL, &state);
    put(dir, VMB_LAYOUT_MANIFEST, text);
    put(dir, VMB_LAYOUT_STATE, state_text);
    put(dir, VMB_LAYOUT_LOCK, "");
    if (with_files)
        make_files(dir, manifest);
}

static VmbRepoDomain *
open_domain(VmbRepository *repository, guint number)
{
    g_autofree char *uuid = g_strdup_printf("0d1a6b4c-0000-4000-8000-%012u", number);
    return fixture_domain(repository, uuid);
}

static void
make_domain(gpointer item, gpointer user)
{
    const Scale *scale = user;
    guint number = GPOINTER_TO_UINT(item);
    g_autofree char *name = g_strdup_printf("vm%04u", number);
    g_autoptr(VmbRepoDomain) domain = open_domain(scale->repository, number);
    for (guint n = 1; n <= scale->n_points; n++)
        make_point(scale->repository, domain, name, n, number == 0);
}

/* After all are made: what has just changed would not be taken into the catalog at once. */
static void
refresh_domain(gpointer item, gpointer user)
{
    const Scale *scale = user;
    g_autoptr(VmbRepoDomain) domain = open_domain(scale->repository, GPOINTER_TO_UINT(item));
    vmb_catalog_refresh(domain);
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(argc, ==, 4);
    g_autoptr(VmbRepository) repository = vmb_repository_open(argv[1], &error);
    g_assert_no_error(error);
    Scale scale = {repository, (guint)atoi(argv[3])};
    g_autoptr(GPtrArray) numbers = g_ptr_array_new();
    for (guint i = 0; i < (guint)atoi(argv[2]); i++)
        g_ptr_array_add(numbers, GUINT_TO_POINTER(i));
    vmb_parallel_run(numbers, THREADS, make_domain, &scale);
    vmb_parallel_run(numbers, THREADS, refresh_domain, &scale);
    return 0;
}
