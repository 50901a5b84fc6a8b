/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A point is whole or it is not there: publishing, rolling back, dying at every step. */
#include "point-fixture.h"
#include "repo/check.h"
#include "util/text.h"

#include <signal.h>
#include <sys/resource.h>

static gboolean
staging_exists(VmbRepoDomain *domain)
{
    return faccessat(vmb_repo_domain_fd(domain), "staging", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void
assert_whole(VmbRepoDomain *domain, guint n_points)
{
    g_autoptr(GPtrArray) points = fixture_points(domain);
    g_autoptr(GPtrArray) findings =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_finding_free);
    g_assert_cmpuint(points->len, ==, n_points);
    for (guint i = 0; i < n_points; i++)
        vmb_check_point(points->pdata[i], NULL, "point", findings);
    for (guint i = 0; i < findings->len; i++)
        g_error("%s", ((VmbFinding *)findings->pdata[i])->message);
}

static void
test_publish(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_DURABLE;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    mode_t old = umask(0277);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_assert_no_error(error);
    g_autoptr(VmbManifest) manifest = fixture_stage(transaction, 1);
    g_assert_true(staging_exists(domain));
    g_assert_true(vmb_transaction_publish(transaction, manifest, &published, &error));
    umask(old);
    g_assert_no_error(error);
    g_assert_cmpint(published, ==, VMB_DURABLE);
    g_assert_false(staging_exists(domain));
    g_clear_pointer(&transaction, vmb_transaction_free);
    assert_whole(domain, 1);
    g_autoptr(GPtrArray) points = fixture_points(domain);
    g_auto(VmbFd) dir = vmb_point_open_dir(points->pdata[0], &error);
    g_assert_no_error(error);
    static const char *const names[] = {"manifest.json", "state.json",  "lock",
                                        "vda.qcow2",     "vda.digests", "domain.xml"};
    struct stat st;
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        g_assert_cmpint(fstatat(dir, names[i], &st, AT_SYMLINK_NOFOLLOW), ==, 0);
        g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    }
    g_assert_cmpint(fstat(dir, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0700);
    fixture_publish(domain, 2);
    assert_whole(domain, 2);
}

/* A point may be marked from its first moment on. */
static void
test_state(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_UNPUBLISHED;
    g_auto(VmbPointState) state = {0};
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_assert_no_error(error);
    g_autoptr(VmbManifest) manifest = fixture_stage(transaction, 1);
    g_assert_true(vmb_point_state_add_tag(vmb_transaction_state(transaction), "upgrade"));
    vmb_transaction_state(transaction)->is_protected = TRUE;
    g_assert_true(vmb_transaction_publish(transaction, manifest, &published, &error));
    g_assert_no_error(error);
    g_autoptr(GPtrArray) points = fixture_points(domain);
    g_assert_true(vmb_point_state_read(points->pdata[0], &state, &error));
    g_assert_no_error(error);
    g_assert_true(state.is_protected);
    g_assert_true(vmb_point_state_has_tag(&state, "upgrade"));
    g_assert_cmpuint(state.tags->len, ==, 1);
}

static void
test_roll_back(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    VmbTransaction *transaction = vmb_transaction_begin(domain, &error);
    vmb_manifest_free(fixture_stage(transaction, 1));
    g_assert_cmpint(mkdirat(vmb_transaction_fd(transaction), "sub", 0700), ==, 0);
    vmb_transaction_free(transaction);
    g_assert_false(staging_exists(domain));
    assert_whole(domain, 0);
    /* What a dead run left is removed at the next beginning, whatever it is. */
    int fd = vmb_repo_domain_fd(domain);
    g_assert_cmpint(mkdirat(fd, "staging", 0700), ==, 0);
    g_assert_cmpint(mkdirat(fd, "staging/old", 0700), ==, 0);
    g_assert_cmpint(symlinkat("/etc", fd, "staging/link"), ==, 0);
    g_autoptr(VmbTransaction) next = vmb_transaction_begin(domain, &error);
    g_assert_no_error(error);
    g_assert_cmpint(faccessat(vmb_transaction_fd(next), "old", F_OK, 0), ==, -1);
    g_assert_cmpint(faccessat(vmb_transaction_fd(next), "link", F_OK, AT_SYMLINK_NOFOLLOW), ==, -1);
}

static void
test_files(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_autoptr(VmbManifest) manifest = fixture_manifest("web01", FIXTURE_UUID, 1);
    static const char *const bad[] = {"../x",          "a/b",        ".x",  "",
                                      "manifest.json", "state.json", "lock"};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_cmpint(vmb_transaction_create(transaction, bad[i], &error), ==, -1);
        g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
        g_clear_error(&error);
    }
    /* A copy of any length, from wherever the descriptor stands; a pipe as well. */
    g_autofree char *content = g_strnfill(600000, 'x');
    g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, content, 600000);
    fixture_write(fixture->fd, "source", content);
    g_auto(VmbFd) source = openat(fixture->fd, "source", O_RDONLY | O_CLOEXEC);
    g_assert_true(vmb_transaction_copy_file(transaction, manifest, "nvram.fd", "nvram", "/a/b",
                                            source, &error));
    const VmbManifestFile *file = manifest->files->pdata[0];
    g_autofree char *hex = vmb_text_hex(file->digest, VMB_DIGEST_SIZE);
    g_assert_cmpstr(hex, ==, digest);
    g_assert_cmpuint(file->size, ==, 600000);
    g_assert_cmpstr(file->origin, ==, "/a/b");
    int pipes[2];
    g_assert_cmpint(pipe(pipes), ==, 0);
    g_assert_cmpint(write(pipes[1], "abc", 3), ==, 3);
    close(pipes[1]);
    g_assert_true(vmb_transaction_copy_file(transaction, manifest, "kernel", "kernel", NULL,
                                            pipes[0], &error));
    close(pipes[0]);
    g_assert_cmpuint(((VmbManifestFile *)manifest->files->pdata[1])->size, ==, 3);
    /* What cannot be read leaves nothing, and the point can go on without it. */
    g_assert_false(vmb_transaction_copy_file(transaction, manifest, "initrd", "initrd", "/dir",
                                             fixture->fd, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, "cannot read /dir");
    g_clear_error(&error);
    g_assert_cmpuint(manifest->files->len, ==, 2);
    /* A name can be used once. */
    g_assert_false(
        vmb_transaction_add_file(transaction, manifest, "kernel", "kernel", NULL, "x", 1, &error));
    g_clear_error(&error);
    g_assert_true(
        vmb_transaction_add_file(transaction, manifest, "empty", "other", NULL, NULL, 0, &error));
    VmbPublished published = VMB_UNPUBLISHED;
    g_assert_true(vmb_transaction_publish(transaction, manifest, &published, &error));
    g_assert_no_error(error);
    assert_whole(domain, 1);
}

static void
test_new_id(Fixture *fixture, gconstpointer data)
{
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    static const char *const expected[] = {"20261121T020000Z", "20261121T020000Z-2",
                                           "20261121T020000Z-3"};
    for (gsize i = 0; i < G_N_ELEMENTS(expected); i++) {
        g_autofree char *id = vmb_transaction_new_id(domain, FIXTURE_TIME + (gint64)i);
        g_assert_cmpstr(id, ==, expected[i]);
        g_assert_true(vmb_layout_is_point_id(id));
        fixture_store_text(domain, id, "{}");
    }
    g_autofree char *later = vmb_transaction_new_id(domain, FIXTURE_TIME + FIXTURE_SECOND);
    g_assert_cmpstr(later, ==, "20261121T020001Z");
}

/* Publishes after @spoil has changed something; must fail, and leave nothing. */
static void
assert_not_published(Fixture *fixture, void (*spoil)(VmbTransaction *, VmbManifest *),
                     const char *message)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_DURABLE;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_autoptr(VmbManifest) manifest = fixture_stage(transaction, 1);
    spoil(transaction, manifest);
    g_assert_false(vmb_transaction_publish(transaction, manifest, &published, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, message);
    g_assert_cmpint(published, ==, VMB_UNPUBLISHED);
    g_clear_pointer(&transaction, vmb_transaction_free);
    g_assert_false(staging_exists(domain));
    g_autoptr(GPtrArray) points = fixture_points(domain);
    g_assert_cmpuint(points->len, ==, 0);
}

static void
spoil_manifest(VmbTransaction *transaction, VmbManifest *manifest)
{
    g_free(manifest->repository);
    manifest->repository = NULL;
}

static void
spoil_uuid(VmbTransaction *transaction, VmbManifest *manifest)
{
    g_free(manifest->uuid);
    manifest->uuid = g_strdup(FIXTURE_UUID_2);
}

static void
spoil_missing(VmbTransaction *transaction, VmbManifest *manifest)
{
    g_assert_cmpint(unlinkat(vmb_transaction_fd(transaction), "vda.digests", 0), ==, 0);
}

static void
spoil_size(VmbTransaction *transaction, VmbManifest *manifest)
{
    ((VmbManifestDisk *)manifest->disks->pdata[0])->image_size++;
}

static void
spoil_extra(VmbTransaction *transaction, VmbManifest *manifest)
{
    g_auto(VmbFd) fd = vmb_transaction_create(transaction, "vdb.qcow2", NULL);
    g_assert_cmpint(fd, >=, 0);
}

static void
spoil_taken(VmbTransaction *transaction, VmbManifest *manifest)
{
    g_assert_cmpint(mkdirat(vmb_transaction_fd(transaction), "../points/20261121T020001Z", 0700),
                    ==, 0);
}

static void
spoil_points(VmbTransaction *transaction, VmbManifest *manifest)
{
    g_assert_cmpint(unlinkat(vmb_transaction_fd(transaction), "../points", AT_REMOVEDIR), ==, 0);
}

static void
test_refused(Fixture *fixture, gconstpointer data)
{
    assert_not_published(fixture, spoil_manifest, "'repository'");
    assert_not_published(fixture, spoil_uuid, "is none of");
    assert_not_published(fixture, spoil_missing, "vda.digests");
    assert_not_published(fixture, spoil_size, "vda.qcow2 has");
    assert_not_published(fixture, spoil_extra, "7 files instead of 6");
    assert_not_published(fixture, spoil_points, "points");
}

static void
test_taken(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_DURABLE;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_autoptr(VmbManifest) manifest = fixture_stage(transaction, 1);
    spoil_taken(transaction, manifest); /* an empty directory, which rename() would replace */
    g_assert_false(vmb_transaction_publish(transaction, manifest, &published, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, "cannot become the point 20261121T020001Z");
    g_assert_cmpint(published, ==, VMB_UNPUBLISHED);
}

/* A file cannot grow: the error comes through, and the point is not there. */
static void
test_write_error(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    struct rlimit old, low;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_autoptr(VmbManifest) manifest = fixture_manifest("web01", FIXTURE_UUID, 1);
    g_autofree char *content = g_strnfill(100000, 'x');
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    low = old;
    low.rlim_cur = 50000;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &low), ==, 0);
    gboolean ok = vmb_transaction_add_file(transaction, manifest, "big", "other", NULL, content,
                                           100000, &error);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    g_assert_false(ok);
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_cmpuint(manifest->files->len, ==, 0);
    g_assert_cmpint(faccessat(vmb_transaction_fd(transaction), "big", F_OK, 0), ==, -1);
}

/* In a child: publishes point 2 of the repository REPO with a fault, tells what became of it. */
static void
publish_with_fault(void)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_UNPUBLISHED;
    g_autoptr(VmbRepository) repository = vmb_repository_open(g_getenv("REPO"), &error);
    g_assert_no_error(error);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    if (transaction != NULL) {
        g_autoptr(VmbManifest) manifest = fixture_stage(transaction, 2);
        vmb_transaction_publish(transaction, manifest, &published, &error);
    }
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "injected"));
    g_print("published=%d\n", (int)published);
}

static void
test_faults(void)
{
    static const struct {
        const char *name, *output;
        gboolean there;
    } steps[] = {
        {"staging-created", "*published=0*", FALSE}, {"manifest-written", "*published=0*", FALSE},
        {"staging-synced", "*published=0*", FALSE},  {"published", "*published=1*", TRUE},
        {"points-synced", "*published=2*", TRUE},
    };
    if (g_test_subprocess()) {
        publish_with_fault();
        return;
    }
    for (gsize i = 0; i < 2 * G_N_ELEMENTS(steps); i++) {
        gboolean killed = i >= G_N_ELEMENTS(steps);
        gsize step = i % G_N_ELEMENTS(steps);
        Fixture fixture;
        fixture_set_up(&fixture, NULL);
        g_autoptr(VmbRepository) repository = fixture_repository(&fixture);
        g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
        g_autofree char *fault =
            g_strdup_printf("%s=%s", steps[step].name, killed ? "kill" : "fail");
        fixture_publish(domain, 1);
        g_setenv("REPO", vmb_repository_path(repository), TRUE);
        fixture_run_with_fault(NULL, fault);
        if (killed)
            g_test_trap_assert_failed();
        else
            g_test_trap_assert_passed();
        if (!killed)
            g_test_trap_assert_stdout(steps[step].output);
        g_assert_true(staging_exists(domain) == (killed && !steps[step].there));
        assert_whole(domain, steps[step].there ? 2 : 1);
        /* The next run goes on as if nothing had been. */
        fixture_publish(domain, 3);
        assert_whole(domain, steps[step].there ? 3 : 2);
        g_assert_false(staging_exists(domain));
        fixture_tear_down(&fixture, NULL);
    }
}

/* More files than threads that bring them to disk. */
static void
test_many_files(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_UNPUBLISHED;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_autoptr(VmbManifest) manifest = fixture_manifest("web01", FIXTURE_UUID, 1);
    for (guint i = 0; i < 64; i++) {
        g_autofree char *target = g_strdup_printf("vd%u", i);
        fixture_add_disk(manifest, fixture_disk(target, 1, 0));
        fixture_stage_disk(transaction, manifest->disks->pdata[i]);
    }
    g_assert_true(vmb_transaction_publish(transaction, manifest, &published, &error));
    g_assert_no_error(error);
    assert_whole(domain, 1);
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    fixture_add("/transaction/publish", test_publish);
    fixture_add("/transaction/state", test_state);
    fixture_add("/transaction/roll-back", test_roll_back);
    fixture_add("/transaction/files", test_files);
    fixture_add("/transaction/new-id", test_new_id);
    fixture_add("/transaction/refused", test_refused);
    fixture_add("/transaction/taken", test_taken);
    fixture_add("/transaction/write-error", test_write_error);
    g_test_add_func("/transaction/faults", test_faults);
    fixture_add("/transaction/many-files", test_many_files);
    return g_test_run();
}
