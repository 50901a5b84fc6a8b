/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A repository: making, opening, walking, numbers, and finding points by what users write. */
#include "repo-fixture.h"
#include "util/json.h"

static char *
repo_path(const Fixture *fixture)
{
    return g_build_filename(fixture->path, "repo", NULL);
}

static void
assert_open_fails(const char *path, VmbErrorCode code, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_repository_open(path, &error));
    assert_error_contains(error, code, text);
}

static void
assert_init_fails(const char *path, VmbErrorCode code, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_repository_init(path, &error));
    assert_error_contains(error, code, text);
}

static mode_t
mode_of(const char *path, const char *name)
{
    g_autofree char *full = g_build_filename(path, name, NULL);
    struct stat st;
    g_assert_cmpint(lstat(full, &st), ==, 0);
    return st.st_mode & 07777;
}

static void
test_init(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = repo_path(fixture);
    mode_t old = umask(0277);
    vmb_repository_init(path, &error);
    umask(old);
    g_assert_no_error(error);
    g_assert_cmpint(mode_of(path, ""), ==, 0700);
    g_assert_cmpint(mode_of(path, "domains"), ==, 0700);
    g_assert_cmpint(mode_of(path, "by-name"), ==, 0700);
    g_assert_cmpint(mode_of(path, "repository.json"), ==, 0600);
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(vmb_repository_path(repository), ==, path);
    g_assert_cmpuint(strlen(vmb_repository_id(repository)), ==, 32);
    g_assert_true(vmb_repository_check_writable(repository, &error));
    g_autoptr(GPtrArray) domains = vmb_repository_domains(repository, &error);
    g_assert_cmpuint(domains->len, ==, 0);
    /* Again: refused, and nothing changes. */
    g_autofree char *file = g_build_filename(path, "repository.json", NULL);
    g_autofree char *before = NULL, *after = NULL;
    g_assert_true(g_file_get_contents(file, &before, NULL, NULL));
    assert_init_fails(path, VMB_ERROR_NO_REPOSITORY, "already");
    g_assert_true(g_file_get_contents(file, &after, NULL, NULL));
    g_assert_cmpstr(before, ==, after);
    g_assert_nonnull(strstr(before, path));
}

static void
test_init_places(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = repo_path(fixture);
    g_autofree char *below = g_build_filename(path, "below", NULL);
    g_autofree char *file = g_build_filename(fixture->path, "file", NULL);
    assert_init_fails(below, VMB_ERROR_FAILED, "mkdir -p");
    fixture_write(fixture->fd, "file", "x");
    assert_init_fails(file, VMB_ERROR_NO_REPOSITORY, "no directory");
    /* An existing directory becomes private; one with content is refused and stays as it is. */
    g_assert_cmpint(g_mkdir(path, 0755), ==, 0);
    g_assert_cmpint(g_chmod(path, 0755), ==, 0);
    g_autofree char *content = g_build_filename(path, "content", NULL);
    g_assert_true(g_file_set_contents(content, "x", 1, NULL));
    assert_init_fails(path, VMB_ERROR_NO_REPOSITORY, "holds 'content'");
    g_assert_cmpint(mode_of(path, ""), ==, 0755);
    g_assert_cmpint(g_unlink(content), ==, 0);
    /* A filesystem's root, and what an init that was killed left behind. */
    g_autofree char *lost = g_build_filename(path, "lost+found", NULL);
    g_autofree char *domains = g_build_filename(path, "domains", NULL);
    g_assert_cmpint(g_mkdir(lost, 0700), ==, 0);
    g_assert_cmpint(g_mkdir(domains, 0700), ==, 0);
    g_assert_true(vmb_repository_init(path, &error));
    g_assert_no_error(error);
    g_assert_cmpint(mode_of(path, ""), ==, 0700);
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, &error);
    g_assert_no_error(error);
}

static void
test_init_fault(void)
{
    if (g_test_subprocess()) {
        const char *path = g_getenv("REPO");
        g_autoptr(GError) error = NULL;
        g_assert_false(vmb_repository_init(path, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_NO_SPACE);
        return;
    }
    Fixture fixture;
    fixture_set_up(&fixture, NULL);
    g_autofree char *path = repo_path(&fixture);
    g_setenv("REPO", path, TRUE);
    fixture_run_with_fault(NULL, "init-repository-written=enospc");
    g_test_trap_assert_passed();
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    /* The same in a directory that was there: it stays, empty, with its old mode. */
    g_assert_cmpint(g_mkdir(path, 0750), ==, 0);
    fixture_run_with_fault(NULL, "init-repository-written=enospc");
    g_test_trap_assert_passed();
    g_assert_cmpint(mode_of(path, ""), ==, 0750);
    g_assert_cmpint(g_rmdir(path), ==, 0);
    /* Killed, it leaves a repository that works. */
    fixture_run_with_fault(NULL, "init-repository-written=kill");
    g_test_trap_assert_failed();
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, NULL);
    g_assert_nonnull(repository);
    fixture_tear_down(&fixture, NULL);
}

static void
test_open_errors(Fixture *fixture, gconstpointer data)
{
    g_autofree char *path = repo_path(fixture);
    g_autofree char *file = g_build_filename(fixture->path, "file", NULL);
    assert_open_fails(path, VMB_ERROR_NO_REPOSITORY, "init`");
    fixture_write(fixture->fd, "file", "x");
    assert_open_fails(file, VMB_ERROR_NO_REPOSITORY, "is no directory");
    assert_open_fails(fixture->path, VMB_ERROR_NO_REPOSITORY, "no repository (");
    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    assert_open_fails(path, VMB_ERROR_NO_REPOSITORY, "empty directory");
    g_assert_cmpint(g_chmod(path, 0), ==, 0);
    fixture_as_nobody(fixture);
    assert_open_fails(path, VMB_ERROR_NO_REPOSITORY, "run as its owner");
    fixture_as_root();
    g_assert_cmpint(g_chmod(path, 0700), ==, 0);
}

static void
test_metadata_forbidden(Fixture *fixture, gconstpointer data)
{
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autofree char *path = repo_path(fixture);
    g_autofree char *file = g_build_filename(path, "repository.json", NULL);
    g_assert_cmpint(g_chmod(path, 0755), ==, 0);
    g_assert_cmpint(g_chmod(file, 0), ==, 0);
    fixture_as_nobody(fixture);
    assert_open_fails(path, VMB_ERROR_NO_REPOSITORY, "run as its owner");
    fixture_as_root();
    /* Reading is possible, writing is not. */
    g_autofree char *domains = g_build_filename(path, "domains", NULL);
    g_assert_cmpint(g_chmod(domains, 0555), ==, 0);
    fixture_as_nobody(fixture);
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_repository_check_writable(repository, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, "run as its owner");
    fixture_as_root();
    g_assert_cmpint(g_chmod(domains, 0700), ==, 0);
}

static void
write_sealed(int dir_fd, const char *name, const char *json)
{
    g_autoptr(VmbJson) object = vmb_json_parse(json, strlen(json), NULL);
    g_autofree char *text = vmb_json_seal(object);
    fixture_write(dir_fd, name, text);
}

static void
test_damaged_metadata(Fixture *fixture, gconstpointer data)
{
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autofree char *path = repo_path(fixture);
    g_autofree char *file = g_build_filename(path, "repository.json", NULL);
    g_autofree char *text = NULL;
    gsize length = 0;
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_true(g_file_get_contents(file, &text, &length, NULL));
    for (gsize i = 0; i < length; i += 7) {
        text[i] ^= 4;
        g_assert_true(g_file_set_contents(file, text, (gssize)length, NULL));
        assert_open_fails(path, VMB_ERROR_DAMAGE, "not touched");
        text[i] ^= 4;
    }
    g_assert_true(g_file_set_contents(file, text, (gssize)length / 2, NULL));
    assert_open_fails(path, VMB_ERROR_DAMAGE, "put the file back");
    g_assert_true(g_file_set_contents(file, "", 0, NULL));
    assert_open_fails(path, VMB_ERROR_DAMAGE, "truncated");
    write_sealed(fd, "repository.json", "{\"format\":1,\"id\":\"../x\"}");
    assert_open_fails(path, VMB_ERROR_DAMAGE, "no identity");
    write_sealed(fd, "repository.json", "{\"format\":1}");
    assert_open_fails(path, VMB_ERROR_DAMAGE, "'id' is missing");
    write_sealed(fd, "repository.json", "{\"format\":3,\"something\":\"else\"}");
    assert_open_fails(path, VMB_ERROR_NO_REPOSITORY, "newer version");
    g_assert_cmpint(g_unlink(file), ==, 0);
    g_assert_cmpint(g_mkdir(file, 0700), ==, 0);
    assert_open_fails(path, VMB_ERROR_DAMAGE, "no regular file");
    g_assert_cmpint(g_rmdir(file), ==, 0);
    g_assert_cmpint(symlink("/dev/zero", file), ==, 0);
    assert_open_fails(path, VMB_ERROR_DAMAGE, "repository.json");
}

/* What the error message advises really works. */
static void
test_lost_metadata(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = repo_path(fixture);
    g_autofree char *old = g_build_filename(fixture->path, "old", NULL);
    VmbRepository *lost = fixture_repository(fixture);
    VmbRepoDomain *domain = fixture_domain(lost, FIXTURE_UUID);
    fixture_store_point(domain, "web01", 1, 0);
    vmb_repo_domain_free(domain);
    vmb_repository_free(lost);
    g_autofree char *file = g_build_filename(path, "repository.json", NULL);
    g_assert_cmpint(g_unlink(file), ==, 0);
    assert_open_fails(path, VMB_ERROR_DAMAGE, "has lost its repository.json");
    g_assert_cmpint(g_rename(path, old), ==, 0);
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autofree char *from = g_build_filename(old, "domains", FIXTURE_UUID, NULL);
    g_autofree char *to = g_build_filename(path, "domains", FIXTURE_UUID, NULL);
    g_assert_cmpint(g_rename(from, to), ==, 0);
    g_autoptr(GPtrArray) points = NULL;
    VmbPoint *point = vmb_repository_find_point(repository, "web01", &points, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(point->manifest->sequence, ==, 1);
}

static void
test_domains(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_assert_null(vmb_repo_domain_open(repository, FIXTURE_UUID, FALSE, &error));
    assert_error_contains(error, VMB_ERROR_DOMAIN, "vmbackup list");
    g_clear_error(&error);
    g_assert_null(vmb_repo_domain_open(repository, "../../etc", TRUE, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DOMAIN);
    g_clear_error(&error);
    mode_t old = umask(0277);
    g_autoptr(VmbRepoDomain) second = fixture_domain(repository, FIXTURE_UUID_2);
    umask(old);
    g_autoptr(VmbRepoDomain) first = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbRepoDomain) again = fixture_domain(repository, FIXTURE_UUID);
    g_assert_cmpstr(vmb_repo_domain_uuid(again), ==, FIXTURE_UUID);
    g_autofree char *domains_path = g_build_filename(fixture->path, "repo", "domains", NULL);
    g_assert_cmpint(mode_of(domains_path, FIXTURE_UUID_2), ==, 0700);
    g_assert_cmpint(mode_of(domains_path, FIXTURE_UUID_2 "/points"), ==, 0700);
    /* Neither a file nor a link nor a strange name is a domain. */
    g_auto(VmbFd) fd = open(domains_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fixture_write(fd, "5f0c7a52-7d0f-4a57-9b6e-0f3d2c1b0a11", "x");
    g_assert_cmpint(symlinkat(FIXTURE_UUID, fd, "5f0c7a52-7d0f-4a57-9b6e-0f3d2c1b0a22"), ==, 0);
    g_assert_cmpint(mkdirat(fd, "web01", 0700), ==, 0);
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(repository, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(uuids->len, ==, 2);
    g_assert_cmpstr(uuids->pdata[0], ==, FIXTURE_UUID);
    g_assert_cmpstr(uuids->pdata[1], ==, FIXTURE_UUID_2);
    g_assert_null(
        vmb_repo_domain_open(repository, "5f0c7a52-7d0f-4a57-9b6e-0f3d2c1b0a22", FALSE, &error));
    g_assert_nonnull(error);
}

static void
test_sequence(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint64 sequence = 0;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    int fd = vmb_repo_domain_fd(domain);
    for (guint i = 1; i <= 3; i++) {
        g_assert_true(vmb_repo_domain_next_sequence(domain, &sequence, &error));
        g_assert_cmpuint(sequence, ==, i);
    }
    /* Never lower than any point's, whatever the file says or where it is. */
    fixture_store_point(domain, "web01", 12, 0);
    fixture_store_point(domain, "web01", 11, 0);
    g_assert_true(vmb_repo_domain_next_sequence(domain, &sequence, &error));
    g_assert_cmpuint(sequence, ==, 13);
    g_assert_cmpint(unlinkat(fd, "sequence", 0), ==, 0);
    g_assert_true(vmb_repo_domain_next_sequence(domain, &sequence, &error));
    g_assert_cmpuint(sequence, ==, 13);
    g_assert_true(vmb_repo_domain_next_sequence(domain, &sequence, &error));
    g_assert_cmpuint(sequence, ==, 14);
    static const char *const damaged[] = {"", "17", "{\"format\":1,\"sequence\":99}"};
    for (gsize i = 0; i < G_N_ELEMENTS(damaged); i++) {
        fixture_write(fd, "sequence", damaged[i]);
        g_assert_true(vmb_repo_domain_next_sequence(domain, &sequence, &error));
        g_assert_cmpuint(sequence, ==, 13);
    }
    write_sealed(fd, "sequence", "{\"format\":1,\"sequence\":18446744073709551615}");
    g_assert_true(vmb_repo_domain_next_sequence(domain, &sequence, &error));
    g_assert_cmpuint(sequence, ==, 13);
    write_sealed(fd, "sequence", "{\"format\":9,\"sequence\":20}");
    g_assert_false(vmb_repo_domain_next_sequence(domain, &sequence, &error));
    assert_error_contains(error, VMB_ERROR_NO_REPOSITORY, "newer version");
    g_clear_error(&error);
    write_sealed(fd, "sequence", "{\"format\":1,\"sequence\":9007199254740992}");
    g_assert_false(vmb_repo_domain_next_sequence(domain, &sequence, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
assert_link(const Fixture *fixture, const char *name, const char *uuid)
{
    g_autofree char *path = g_build_filename(fixture->path, "repo", "by-name", name, NULL);
    g_autofree char *target = g_file_read_link(path, NULL);
    g_autofree char *expected = uuid != NULL ? g_strconcat("../domains/", uuid, NULL) : NULL;
    g_assert_cmpstr(target, ==, expected);
}

static void
test_link_name(Fixture *fixture, gconstpointer data)
{
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbRepoDomain) other = fixture_domain(repository, FIXTURE_UUID_2);
    vmb_repo_domain_link_name(domain, "web01");
    vmb_repo_domain_link_name(domain, "web01");
    assert_link(fixture, "web01", FIXTURE_UUID);
    vmb_repo_domain_link_name(other, "../../etc/pass wd");
    assert_link(fixture, "_._.._etc_pass_wd", FIXTURE_UUID_2);
    /* Renamed: the old link goes. Taken over by another domain: the newest wins. */
    vmb_repo_domain_link_name(domain, "web02");
    assert_link(fixture, "web01", NULL);
    assert_link(fixture, "web02", FIXTURE_UUID);
    vmb_repo_domain_link_name(other, "web02");
    assert_link(fixture, "web02", FIXTURE_UUID_2);
    /* Something else in its place, or no by-name/ at all: no more than a warning. */
    g_autofree char *by_name = g_build_filename(fixture->path, "repo", "by-name", NULL);
    g_autofree char *blocked = g_build_filename(by_name, "db", NULL);
    g_assert_cmpint(g_mkdir(blocked, 0700), ==, 0);
    vmb_repo_domain_link_name(domain, "db");
    g_assert_true(g_file_test(blocked, G_FILE_TEST_IS_DIR));
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, by_name, NULL));
    vmb_repo_domain_link_name(domain, "web03");
    assert_link(fixture, "web03", FIXTURE_UUID);
}

static void
test_points(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(GPtrArray) none = vmb_repo_domain_points(domain, &error);
    g_assert_cmpuint(none->len, ==, 0);
    /* Order is by number, not by name. */
    for (guint n = 1; n <= 3; n++) {
        VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, 10 - n);
        manifest->sequence = n;
        fixture_store(domain, manifest);
    }
    fixture_store_text(domain, "20261121T020001Z", "{}"); /* broken */
    VmbManifest *elsewhere = fixture_manifest("web01", FIXTURE_UUID_2, 2);
    g_autofree char *text = vmb_manifest_serialise(elsewhere);
    fixture_store_text(domain, "20261121T020002Z", text);   /* another domain's */
    fixture_store_text(domain, "20261121T020003Z-2", text); /* another point's */
    vmb_manifest_free(elsewhere);
    g_autofree char *path =
        g_build_filename(fixture->path, "repo", "domains", FIXTURE_UUID, "points", NULL);
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(mkdirat(fd, "20261121T020004Z", 0700), ==, 0); /* without a manifest */
    g_assert_cmpint(mkdirat(fd, "not-a-point", 0700), ==, 0);
    fixture_write(fd, "20261121T020005Z", "a file");
    g_assert_cmpint(symlinkat("20261121T020007Z", fd, "20261121T020006Z"), ==, 0);
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(points->len, ==, 7);
    static const char *const ids[] = {"20261121T020009Z", "20261121T020008Z", "20261121T020007Z",
                                      "20261121T020001Z", "20261121T020002Z", "20261121T020003Z-2",
                                      "20261121T020004Z"};
    for (guint i = 0; i < 7; i++) {
        const VmbPoint *point = points->pdata[i];
        g_assert_cmpstr(point->id, ==, ids[i]);
        g_assert_cmpstr(point->uuid, ==, FIXTURE_UUID);
        g_assert_true((point->manifest == NULL) == (i >= 3));
        g_assert_true((point->damage != NULL) == (i >= 3));
        if (i >= 3)
            assert_error_contains(point->damage, VMB_ERROR_DAMAGE, point->id);
    }
    int file = vmb_point_open_file(points->pdata[0], "manifest.json", &error);
    g_assert_cmpint(file, >=, 0);
    close(file);
    g_assert_cmpint(vmb_point_open_file(points->pdata[0], "vda.qcow2", &error), ==, -1);
    assert_error_contains(error, VMB_ERROR_DAMAGE, "web01/20261121T020009Z/vda.qcow2 is missing");
    g_clear_error(&error);
    g_assert_cmpint(vmb_point_open_file(points->pdata[0], "../x", &error), ==, -1);
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

static void
test_points_forbidden(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    fixture_store_point(domain, "web01", 1, 0);
    int fd = vmb_repo_domain_fd(domain);
    g_assert_cmpint(fchmodat(fd, "points/20261121T020001Z", 0, 0), ==, 0);
    fixture_as_nobody(fixture);
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, &error);
    fixture_as_root();
    g_assert_null(points);
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_cmpint(fchmodat(fd, "points/20261121T020001Z", 0700, 0), ==, 0);
}

static void
assert_found(VmbRepository *repository, const char *text, guint64 sequence)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = NULL;
    VmbPoint *point = vmb_repository_find_point(repository, text, &points, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(point->manifest->sequence, ==, sequence);
    g_assert_true(g_ptr_array_find(points, point, NULL));
}

static void
assert_not_found(VmbRepository *repository, const char *text, VmbErrorCode code,
                 const char *message)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *points = NULL;
    g_assert_null(vmb_repository_find_point(repository, text, &points, &error));
    g_assert_null(points);
    assert_error_contains(error, code, message);
}

static void
test_find(Fixture *fixture, gconstpointer data)
{
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    assert_not_found(repository, "web01", VMB_ERROR_DOMAIN, "list`");
    assert_not_found(repository, FIXTURE_UUID, VMB_ERROR_DOMAIN, "makes the first");
    fixture_store_point(domain, "web01", 1, 0);
    fixture_store_point(domain, "web01", 2, 1);
    VmbManifest *second = fixture_manifest("web01", FIXTURE_UUID, 2);
    g_free(second->id);
    second->id = g_strdup("20261121T020002Z-2");
    second->sequence = 3;
    fixture_store(domain, second);
    assert_found(repository, "web01", 3);
    assert_found(repository, "web01/latest", 3);
    assert_found(repository, FIXTURE_UUID "/latest", 3);
    assert_found(repository, "5F0C7A52-7D0F-4A57-9B6E-0F3D2C1B0A99", 3);
    assert_found(repository, "web01/20261121T020002Z", 2); /* exact, though a prefix as well */
    assert_found(repository, "web01/20261121T020001", 1);
    assert_not_found(repository, "web01/2026", VMB_ERROR_DOMAIN,
                     "20261121T020002Z-2, 20261121T020002Z, 20261121T020001Z");
    assert_not_found(repository, "web01/2027", VMB_ERROR_DOMAIN, "vmbackup list web01");
    assert_not_found(repository, "web01/", VMB_ERROR_DOMAIN, "has no point ''");
    assert_not_found(repository, "web02/latest", VMB_ERROR_DOMAIN, "'web02'");
    assert_not_found(repository, "", VMB_ERROR_DOMAIN, "''");
    assert_not_found(repository, "/", VMB_ERROR_DOMAIN, "''");
}

static void
test_find_damaged(Fixture *fixture, gconstpointer data)
{
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    fixture_store_text(domain, "20261121T020005Z", "{}");
    assert_not_found(repository, FIXTURE_UUID, VMB_ERROR_DAMAGE, "every point");
    fixture_store_point(domain, "web01", 1, 0);
    assert_found(repository, "web01/latest", 1);
    assert_not_found(repository, "web01/20261121T020005Z", VMB_ERROR_DAMAGE, "manifest.json");
    assert_not_found(repository, "web01/20261121T020005", VMB_ERROR_DAMAGE, "manifest.json");
}

static void
retire(VmbRepoDomain *domain, const char *id)
{
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, id, VMB_LAYOUT_RETIRED, NULL);
    g_auto(VmbFd) fd = openat(vmb_repo_domain_fd(domain), path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
}

/* Points that were dropped are not found, however many there are. */
static void
test_find_retired(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    fixture_store_point(domain, "web01", 1, 0);
    fixture_store_point(domain, "web01", 2, 1);
    retire(domain, "20261121T020002Z");
    assert_found(repository, "web01/latest", 1);
    assert_not_found(repository, "web01/20261121T020002Z", VMB_ERROR_DOMAIN, "20261121T020001Z");
    retire(domain, "20261121T020001Z");
    assert_not_found(repository, FIXTURE_UUID, VMB_ERROR_DOMAIN, "has no point yet");
    assert_not_found(repository, FIXTURE_UUID "/20261121T020001Z", VMB_ERROR_DOMAIN,
                     "has no point yet");
    assert_not_found(repository, "web01", VMB_ERROR_DOMAIN, "list`");
}

/* Who drops points may name damaged ones. */
static void
test_find_any(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    fixture_store_text(domain, "20261121T020005Z", "{}");
    fixture_store_point(domain, "web01", 1, 0);
    const VmbPoint *point =
        vmb_repository_find_any_point(repository, "web01/20261121T020005", &points, &error);
    g_assert_no_error(error);
    g_assert_null(point->manifest);
    g_assert_true(g_ptr_array_find(points, point, NULL));
}

static void
test_find_names(Fixture *fixture, gconstpointer data)
{
    guint64 sequence = 0;
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) first = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbRepoDomain) second = fixture_domain(repository, FIXTURE_UUID_2);
    /* The first was renamed from "old" to "new"; the second took the name "old" over. */
    fixture_store_point(first, "old", 1, 0);
    fixture_store_point(first, "new", 2, 0);
    fixture_store_point(second, "old", 7, 0);
    assert_found(repository, "new", 2);
    assert_found(repository, "old", 7);
    /* The same with the short cut by the highest number, and without (a run that failed took one).
     */
    for (int i = 0; i < 2; i++) {
        g_assert_true(vmb_repo_domain_next_sequence(first, &sequence, &error));
        assert_found(repository, "new", 2);
        assert_found(repository, "old", 7);
    }
    VmbManifest *earlier = fixture_manifest("newest", FIXTURE_UUID, 0);
    earlier->sequence = 9; /* made while the clock was slow */
    fixture_store(first, earlier);
    assert_found(repository, "newest", 9);
    fixture_store_point(second, "newest", 8, 0);
    g_assert_null(vmb_repository_find_domain(repository, "newest", &error));
    assert_error_contains(error, VMB_ERROR_DOMAIN, FIXTURE_UUID " (newest point ");
    g_assert_nonnull(strstr(error->message, FIXTURE_UUID_2 " (newest point "));
    assert_found(repository, FIXTURE_UUID_2 "/latest", 8);
    g_autoptr(GPtrArray) named = vmb_repository_domains_named(repository, "newest", NULL);
    g_assert_cmpuint(named->len, ==, 2);
    /* A name of older points alone is no domain's any more, but it is known whose it was. */
    g_clear_error(&error);
    g_assert_null(vmb_repository_find_domain(repository, "new", &error));
    assert_error_contains(error, VMB_ERROR_DOMAIN, "any more");
    g_assert_nonnull(strstr(error->message, FIXTURE_UUID " "));
}

static guint
count_descriptors(void)
{
    guint n = 0;
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    g_assert_nonnull(dir);
    while (g_dir_read_name(dir) != NULL)
        n++;
    g_dir_close(dir);
    return n;
}

/* Points are cheap to hold: a repository may have tens of thousands. */
static void
test_many_points(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = fixture_repository(fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
    g_autoptr(VmbManifest) manifest = fixture_manifest("web01", FIXTURE_UUID, 1);
    g_autofree char *points_path =
        g_build_filename(fixture->path, "repo", "domains", FIXTURE_UUID, "points", NULL);
    fixture_add_disk(manifest, fixture_disk("vda", 1, 0));
    for (guint n = 1; n <= 1000; n++) {
        g_free(manifest->id);
        manifest->id = fixture_id(n);
        manifest->sequence = n;
        g_autofree char *text = vmb_manifest_serialise(manifest);
        g_autofree char *path = g_build_filename(points_path, manifest->id, NULL);
        g_autofree char *file = g_build_filename(path, "manifest.json", NULL);
        g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
        g_auto(VmbFd) fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        g_assert_true(vmb_fs_pwrite(fd, text, strlen(text), 0, file, NULL));
    }
    guint before = count_descriptors();
    guint64 start = vmb_units_monotonic();
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, &error);
    g_test_message("1000 points in %.1f ms", (double)(vmb_units_monotonic() - start) / 1e6);
    g_assert_no_error(error);
    g_assert_cmpuint(points->len, ==, 1000);
    g_assert_cmpuint(count_descriptors(), <=, before + 1);
    /* Points stay usable without their domain, until they are removed. */
    g_clear_pointer(&domain, vmb_repo_domain_free);
    int fd = vmb_point_open_file(points->pdata[999], "manifest.json", &error);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_autofree char *last = g_build_filename(points_path, manifest->id, NULL);
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, last, NULL));
    g_assert_cmpint(vmb_point_open_dir(points->pdata[999], &error), ==, -1);
    assert_error_contains(error, VMB_ERROR_DOMAIN, "removed meanwhile");
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    fixture_add("/repository/init", test_init);
    fixture_add("/repository/init-places", test_init_places);
    g_test_add_func("/repository/init-fault", test_init_fault);
    fixture_add("/repository/open-errors", test_open_errors);
    fixture_add("/repository/metadata-forbidden", test_metadata_forbidden);
    fixture_add("/repository/damaged-metadata", test_damaged_metadata);
    fixture_add("/repository/lost-metadata", test_lost_metadata);
    fixture_add("/repository/domains", test_domains);
    fixture_add("/repository/sequence", test_sequence);
    fixture_add("/repository/link-name", test_link_name);
    fixture_add("/repository/points", test_points);
    fixture_add("/repository/points-forbidden", test_points_forbidden);
    fixture_add("/repository/find", test_find);
    fixture_add("/repository/find-damaged", test_find_damaged);
    fixture_add("/repository/find-retired", test_find_retired);
    fixture_add("/repository/find-any", test_find_any);
    fixture_add("/repository/find-names", test_find_names);
    fixture_add("/repository/many-points", test_many_points);
    return g_test_run();
}
