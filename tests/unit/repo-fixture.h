/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the repository share: a directory of their own, and valid manifests. */
#pragma once
#include "repo/layout.h"
#include "repo/lock.h"
#include "repo/transaction.h"
#include "util/error.h"
#include "util/log.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURE_UUID "5f0c7a52-7d0f-4a57-9b6e-0f3d2c1b0a99"
#define FIXTURE_UUID_2 "6a1d8b63-8e10-4b68-8c7f-104e3d2c1baa"
#define FIXTURE_SECOND G_GINT64_CONSTANT(1000000000)
#define FIXTURE_TIME (G_GINT64_CONSTANT(1795226400) * FIXTURE_SECOND) /* 20261121T020000Z */

/* A directory that is removed at the end of the test. */
typedef struct {
    char *path;
    int fd;
} Fixture;

G_GNUC_UNUSED static void
fixture_set_up(Fixture *fixture, gconstpointer data)
{
    fixture->path = g_dir_make_tmp("vmbackup-test-XXXXXX", NULL);
    g_assert_nonnull(fixture->path);
    fixture->fd = open(fixture->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(fixture->fd, >=, 0);
}

G_GNUC_UNUSED static void
fixture_tear_down(Fixture *fixture, gconstpointer data)
{
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, fixture->path, NULL));
    close(fixture->fd);
    g_free(fixture->path);
}

#define fixture_add(path, function)                                                                \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

/* Fails the test with the message, which plain g_assert_no_error() shows as well; then frees. */
#define assert_error_contains(error, error_code, text)                                             \
    G_STMT_START                                                                                   \
    {                                                                                              \
        g_assert_error(error, VMB_ERROR, (gint)(error_code));                                      \
        if (strstr((error)->message, text) == NULL)                                                \
            g_error("'%s' is not in: %s", text, (error)->message);                                 \
    }                                                                                              \
    G_STMT_END

G_GNUC_UNUSED static char *
fixture_id(guint n)
{
    return vmb_layout_point_id(FIXTURE_TIME + (gint64)n * FIXTURE_SECOND, 0);
}

G_GNUC_UNUSED static char *
fixture_checkpoint(guint n)
{
    return g_strdup_printf("vmbackup-01234567-%032x", n);
}

/* A full of 3 data blocks if @parent is 0, else an incremental on point number @parent. */
G_GNUC_UNUSED static VmbManifestDisk *
fixture_disk(const char *target, guint n, guint parent)
{
    VmbManifestDisk *disk = vmb_manifest_disk_new();
    VmbSourceLayer *layer = g_new0(VmbSourceLayer, 1);
    disk->target = g_strdup(target);
    disk->id = g_strconcat("target:", target, NULL);
    disk->bus = g_strdup("virtio");
    disk->size = 10 * VMB_MIB + 512;
    disk->level = parent == 0 ? VMB_LEVEL_FULL : VMB_LEVEL_INCREMENTAL;
    disk->method = parent == 0 ? VMB_METHOD_FULL : VMB_METHOD_BITMAP;
    disk->reason = parent == 0 ? VMB_REASON_FIRST_BACKUP : VMB_N_REASONS;
    disk->parent = parent == 0 ? NULL : fixture_id(parent);
    disk->base_checkpoint = parent == 0 ? NULL : fixture_checkpoint(parent);
    disk->checkpoint = fixture_checkpoint(n);
    layer->path = g_strdup_printf("/var/lib/images/\xc3\xa4 %s.qcow2", target);
    layer->format = g_strdup("qcow2");
    layer->device = 2049;
    layer->inode = G_MAXUINT64;
    layer->size = 12345678;
    layer->mtime_ns = -5;
    layer->ctime_ns = 1800000000123456789;
    layer->birth_ns = 1700000000123456789;
    layer->header_digest = g_strnfill(64, 'a');
    g_ptr_array_add(disk->layers, layer);
    disk->image = vmb_layout_image(target);
    disk->digests = vmb_layout_digests(target);
    disk->compressed = TRUE;
    disk->data_blocks = 3;
    disk->zero_blocks = parent == 0 ? 0 : 5;
    disk->stored_bytes = 1000;
    disk->image_size = 5 * VMB_BLOCK_SIZE + 1000;
    disk->digests_size = 64 + 48 * 4;
    disk->head_digest[0] = 1;
    disk->tables_digest[31] = 2;
    return disk;
}

/* Point number @n of the domain @name, without files. */
G_GNUC_UNUSED static VmbManifest *
fixture_manifest(const char *name, const char *uuid, guint n)
{
    VmbManifest *manifest = vmb_manifest_new();
    manifest->id = fixture_id(n);
    manifest->sequence = n;
    manifest->repository = g_strnfill(32, 'c');
    manifest->tool = g_strdup("vmbackup test");
    manifest->host = g_strdup("host");
    manifest->domain = g_strdup(name);
    manifest->uuid = g_strdup(uuid);
    manifest->time_ns = FIXTURE_TIME + (gint64)n * FIXTURE_SECOND + 17;
    manifest->duration_ns = 5;
    manifest->consistency = VMB_CONSISTENCY_FILESYSTEM;
    manifest->quiesce = g_strdup("auto");
    manifest->frozen_filesystems = 2;
    manifest->freeze_ns = 90000000;
    return manifest;
}

G_GNUC_UNUSED static void
fixture_add_disk(VmbManifest *manifest, VmbManifestDisk *disk)
{
    if (disk->level == VMB_LEVEL_INCREMENTAL)
        manifest->level = VMB_LEVEL_INCREMENTAL;
    g_ptr_array_add(manifest->disks, disk);
}

/* The file @name below @dir_fd with this content. */
G_GNUC_UNUSED static void
fixture_write(int dir_fd, const char *name, const char *content)
{
    g_autoptr(GError) error = NULL;
    vmb_fs_write_file(dir_fd, name, content, strlen(content), &error);
    g_assert_no_error(error);
}

G_GNUC_UNUSED static VmbRepository *
fixture_repository(const Fixture *fixture)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_build_filename(fixture->path, "repo", NULL);
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        vmb_repository_init(path, &error);
        g_assert_no_error(error);
    }
    VmbRepository *repository = vmb_repository_open(path, &error);
    g_assert_no_error(error);
    return repository;
}

G_GNUC_UNUSED static VmbRepoDomain *
fixture_domain(VmbRepository *repository, const char *uuid)
{
    g_autoptr(GError) error = NULL;
    VmbRepoDomain *domain = vmb_repo_domain_open(repository, uuid, TRUE, &error);
    g_assert_no_error(error);
    return domain;
}

/* points/@id with just a manifest of this text. */
G_GNUC_UNUSED static void
fixture_store_text(VmbRepoDomain *domain, const char *id, const char *text)
{
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, id, NULL);
    int fd = vmb_repo_domain_fd(domain);
    g_assert_true(mkdirat(fd, path, 0700) == 0 || errno == EEXIST);
    g_auto(VmbFd) dir = openat(fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(dir, >=, 0);
    fixture_write(dir, VMB_LAYOUT_MANIFEST, text);
}

/* Takes @manifest. */
G_GNUC_UNUSED static void
fixture_store(VmbRepoDomain *domain, VmbManifest *manifest)
{
    g_autofree char *text = vmb_manifest_serialise(manifest);
    fixture_store_text(domain, manifest->id, text);
    vmb_manifest_free(manifest);
}

/* Point number @n of one disk, as an incremental on @parent (0: a full). */
G_GNUC_UNUSED static void
fixture_store_point(VmbRepoDomain *domain, const char *name, guint n, guint parent)
{
    VmbManifest *manifest = fixture_manifest(name, vmb_repo_domain_uuid(domain), n);
    fixture_add_disk(manifest, fixture_disk("vda", n, parent));
    fixture_store(domain, manifest);
}

/* A process that is root becomes somebody else until fixture_as_root(). */
G_GNUC_UNUSED static void
fixture_as_nobody(const Fixture *fixture)
{
    if (geteuid() == 0) {
        g_assert_cmpint(chmod(fixture->path, 0711), ==, 0);
        g_assert_cmpint(seteuid(65534), ==, 0);
    }
}

G_GNUC_UNUSED static void
fixture_as_root(void)
{
    if (getuid() == 0)
        g_assert_cmpint(seteuid(0), ==, 0);
}

/* Runs the test @path of this program with one more variable; it must succeed. */
G_GNUC_UNUSED static void
fixture_run_with_fault(const char *path, const char *fault)
{
    g_setenv("VMBACKUP_TEST_FAIL_AT", fault, TRUE);
    g_test_trap_subprocess(path, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_unsetenv("VMBACKUP_TEST_FAIL_AT");
}
