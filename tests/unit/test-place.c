/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a repository is: what is the same place, what is a copy, and becoming a repository anew. */
#include "repo-fixture.h"
#include "repo/journal.h"
#include "repo/place.h"
#include "util/host.h"

static char *no_hosts[] = {NULL};
static char *host_a[] = {(char *)"aa", NULL};
static char *host_b[] = {(char *)"bb", NULL};
static char *both[] = {(char *)"aa", (char *)"bb", NULL};

/* An ext4 of host A on a disk that is now 254:0. */
static const VmbPlace home = {.path = (char *)"/backup",
                              .filesystem = (char *)"boot1:254:0",
                              .inode = 2,
                              .domains_inode = 12,
                              .birth_ns = 1000,
                              .hosts = host_a};

typedef struct {
    const char *what;
    VmbPlaceVerdict verdict;
    const char *path, *filesystem;
    guint64 inode, domains_inode;
    gint64 birth_ns;
    char **hosts;
} Case;

static void
check(const VmbPlace *recorded, const Case *c)
{
    VmbPlace now = {(char *)c->path,  (char *)c->filesystem, c->inode,
                    c->domains_inode, c->birth_ns,           c->hosts};
    g_test_message("%s", c->what);
    g_assert_cmpint(vmb_place_judge(recorded, &now), ==, c->verdict);
}

static void
test_local(void)
{
    static const Case cases[] = {
        {"untouched", VMB_PLACE_SAME, "/backup", "boot1:254:0", 2, 12, 1000, host_a},
        {"after a boot", VMB_PLACE_SAME, "/backup", "boot2:254:16", 2, 12, 1000, host_a},
        {"moved on its filesystem", VMB_PLACE_SAME, "/b", "boot1:254:0", 2, 12, 1000, host_a},
        {"cp -a beside it", VMB_PLACE_COPY, "/b", "boot1:254:0", 77, 78, 2000, host_a},
        {"rsync over its place", VMB_PLACE_COPY, "/backup", "boot1:254:0", 77, 78, 2000, host_a},
        {"copied to a new disk, mounted at its place: both are root directories", VMB_PLACE_COPY,
         "/backup", "boot1:254:32", 2, 13, 2000, host_a},
        {"the same, and the numbers agree by chance", VMB_PLACE_COPY, "/backup", "boot1:254:32", 2,
         12, 2000, host_a},
        {"a number given out again after a deletion", VMB_PLACE_COPY, "/backup", "boot1:254:0", 2,
         12, 3000, host_a},
        {"a clone of the blocks, elsewhere", VMB_PLACE_COPY, "/clone", "boot1:254:32", 2, 12, 1000,
         host_a},
        {"a clone that has the disk's number after a boot", VMB_PLACE_COPY, "/clone", "boot2:254:0",
         2, 12, 1000, host_a},
        {"a clone on another host", VMB_PLACE_OTHER_HOST, "/backup", "boot9:254:0", 2, 12, 1000,
         host_b},
        {"a clone on another host, elsewhere", VMB_PLACE_COPY, "/clone", "boot9:254:0", 2, 12, 1000,
         host_b},
        {"the filesystem is shared by others", VMB_PLACE_SAME, "/backup", NULL, 2, 12, 0, no_hosts},
        {"a host without an id", VMB_PLACE_SAME, "/backup", "boot1:254:0", 2, 12, 1000, NULL},
        {"on FAT, at its place", VMB_PLACE_COPY, "/backup", NULL, 0, 0, 0, no_hosts},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++)
        check(&home, &cases[i]);
    VmbPlace given = home;
    given.hosts = both;
    const Case b = {"a host that was added", VMB_PLACE_SAME, "/backup", "x", 2, 12, 1000, host_b};
    check(&given, &b);
}

static void
test_shared(void)
{
    static const VmbPlace nfs = {
        .path = (char *)"/backup", .inode = 500, .domains_inode = 501, .hosts = no_hosts};
    static const Case cases[] = {
        {"another host at the same path", VMB_PLACE_SAME, "/backup", NULL, 500, 501, 0, no_hosts},
        {"its server, at the same path", VMB_PLACE_SAME, "/backup", "b:8:1", 500, 501, 7, host_a},
        {"another path", VMB_PLACE_COPY, "/mnt", NULL, 500, 501, 0, no_hosts},
        {"a copy on it", VMB_PLACE_COPY, "/backup", NULL, 600, 601, 0, no_hosts},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++)
        check(&nfs, &cases[i]);
}

static void
test_others(void)
{
    static const VmbPlace btrfs = {.path = (char *)"/backup",
                                   .filesystem = (char *)"0123",
                                   .inode = 256,
                                   .domains_inode = 257,
                                   .birth_ns = 9,
                                   .hosts = host_a};
    static const VmbPlace fat = {.path = (char *)"/media/usb", .hosts = no_hosts};
    static const VmbPlace old = {.path = (char *)"/backup", .inode = 2};
    static const Case on_btrfs[] = {
        {"moved", VMB_PLACE_SAME, "/b", "0123", 256, 257, 9, host_a},
        {"a snapshot", VMB_PLACE_COPY, "/snap", "4567", 256, 257, 9, host_a},
    };
    static const Case on_fat[] = {
        {"at its place", VMB_PLACE_SAME, "/media/usb", NULL, 0, 0, 0, no_hosts},
        {"elsewhere", VMB_PLACE_COPY, "/media/other", NULL, 0, 0, 0, no_hosts},
        {"on ext4", VMB_PLACE_COPY, "/media/usb", "b:8:1", 2, 12, 5, host_a},
    };
    static const Case by_old[] = {
        {"a record without the later members", VMB_PLACE_SAME, "/backup", "b:8:1", 2, 12, 5,
         host_a},
        {"its copy", VMB_PLACE_COPY, "/backup", "b:8:1", 3, 12, 5, host_a},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(on_btrfs); i++)
        check(&btrfs, &on_btrfs[i]);
    for (gsize i = 0; i < G_N_ELEMENTS(on_fat); i++)
        check(&fat, &on_fat[i]);
    for (gsize i = 0; i < G_N_ELEMENTS(by_old); i++)
        check(&old, &by_old[i]);
}

static void
test_outdated(void)
{
    VmbPlace now = home;
    g_assert_false(vmb_place_is_outdated(&home, &now));
    now.filesystem = (char *)"boot2:254:0";
    g_assert_true(vmb_place_is_outdated(&home, &now));
    /* Another host sees it through the network: its record stays. */
    now.filesystem = NULL;
    now.hosts = no_hosts;
    g_assert_false(vmb_place_is_outdated(&home, &now));
    now.path = (char *)"/b";
    g_assert_true(vmb_place_is_outdated(&home, &now));
    VmbPlace old = home;
    old.domains_inode = 0;
    g_assert_true(vmb_place_is_outdated(&old, &home));
}

static void
test_json(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJson) object = json_object_new_object();
    VmbPlace place = home;
    place.inode = G_MAXUINT64;
    place.birth_ns = -1;
    place.hosts = both;
    vmb_place_write(&place, object);
    g_autoptr(VmbPlace) again = vmb_place_read(object, &error);
    g_assert_no_error(error);
    g_assert_cmpint(vmb_place_judge(&place, again), ==, VMB_PLACE_SAME);
    g_assert_cmpstr(again->filesystem, ==, place.filesystem);
    g_assert_cmpuint(again->inode, ==, G_MAXUINT64);
    g_assert_cmpuint(again->domains_inode, ==, 12);
    g_assert_cmpint(again->birth_ns, ==, -1);
    g_assert_cmpuint(g_strv_length(again->hosts), ==, 2);
    g_autoptr(VmbJson) empty = json_object_new_object();
    g_autoptr(VmbPlace) unknown = vmb_place_read(empty, &error);
    g_assert_nonnull(unknown);
    g_assert_null(unknown->path);
    static const char *const bad[][2] = {{"path", "1"},       {"filesystem", "{}"},
                                         {"inode", "-1"},     {"birth_ns", "[]"},
                                         {"hosts", "\"aa\""}, {"hosts", "[1]"}};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbJson) hostile = json_object_new_object();
        vmb_place_write(&home, hostile);
        json_object_object_add(hostile, bad[i][0], json_tokener_parse(bad[i][1]));
        g_assert_null(vmb_place_read(hostile, &local));
        g_assert_error(local, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
}

static void
run(const char *program, const char *first, const char *second, const char *third)
{
    const char *argv[] = {program, first, second, third, NULL};
    int status = 1;
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

static void
assert_copy(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, NULL);
    g_assert_nonnull(repository);
    g_assert_false(vmb_repository_check_writable(repository, &error));
    assert_error_contains(error, VMB_ERROR_NO_REPOSITORY, "init --adopt`");
}

static char *
assert_at_home(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbRepository) repository = vmb_repository_open(path, NULL);
    g_assert_nonnull(repository);
    vmb_repository_check_writable(repository, &error);
    g_assert_no_error(error);
    return g_strdup(vmb_repository_id(repository));
}

/* In /var/tmp or where else the test's directory is: real copies and moves. */
static void
test_copy_and_move(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint dropped = 99;
    g_autofree char *original = g_build_filename(fixture->path, "repo", NULL);
    g_autofree char *copy = g_build_filename(fixture->path, "copy", NULL);
    g_autofree char *moved = g_build_filename(fixture->path, "moved", NULL);
    g_autoptr(VmbRepository) made = fixture_repository(fixture);
    g_autofree char *id = assert_at_home(original);
    run("cp", "-a", original, copy);
    assert_copy(copy);
    /* The original moves, and the copy takes its place. */
    g_assert_cmpint(rename(original, moved), ==, 0);
    g_assert_cmpint(rename(copy, original), ==, 0);
    assert_copy(original);
    g_autofree char *same = assert_at_home(moved);
    g_assert_cmpstr(same, ==, id);
    /* Its new path was recorded. */
    g_autofree char *file = g_build_filename(moved, "repository.json", NULL);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(file, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, moved));
    /* Adopted, it has an id of its own; that can be done once. */
    g_assert_true(vmb_repository_adopt(original, FALSE, &dropped, &error));
    g_assert_cmpuint(dropped, ==, 0);
    g_autofree char *other = assert_at_home(original);
    g_assert_cmpstr(other, !=, id);
    g_assert_false(vmb_repository_adopt(original, FALSE, &dropped, &error));
    assert_error_contains(error, VMB_ERROR_NO_REPOSITORY, "no copy");
    g_clear_error(&error);
    /* A copy that replaces it keeps the id. */
    run("cp", "-a", moved, copy);
    g_assert_true(vmb_repository_adopt(copy, TRUE, &dropped, &error));
    g_autofree char *kept = assert_at_home(copy);
    g_assert_cmpstr(kept, ==, id);
}

static void
test_adopt_drops_runs(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint dropped = 0;
    g_autofree char *original = g_build_filename(fixture->path, "repo", NULL);
    g_autofree char *copy = g_build_filename(fixture->path, "copy", NULL);
    {
        g_autoptr(VmbRepository) repository = fixture_repository(fixture);
        g_autoptr(VmbRepoDomain) domain = fixture_domain(repository, FIXTURE_UUID);
        VmbJournal journal = {.nonce = (char *)"00112233445566778899aabbccddeeff",
                              .checkpoint = (char *)"vmbackup-01234567-0c"};
        fixture_store_point(domain, "web01", 1, 0);
        g_assert_true(vmb_journal_write(vmb_repo_domain_fd(domain), &journal, &error));
        g_assert_true(vmb_journal_set_aside(vmb_repo_domain_fd(domain), &journal, &error));
        g_assert_cmpint(mkdirat(vmb_repo_domain_fd(domain), "staging", 0700), ==, 0);
    }
    run("cp", "-a", original, copy);
    g_assert_true(vmb_repository_adopt(copy, FALSE, &dropped, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(dropped, ==, 2);
    g_autoptr(VmbRepository) repository = vmb_repository_open(copy, &error);
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, FIXTURE_UUID, FALSE, &error);
    VmbJournal *journal = NULL;
    g_assert_true(vmb_journal_read(vmb_repo_domain_fd(domain), &journal, &error));
    g_assert_null(journal);
    g_assert_cmpint(faccessat(vmb_repo_domain_fd(domain), "staging", F_OK, 0), ==, -1);
    /* The point is there, and known to be the original's. */
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, &error);
    g_assert_cmpuint(points->len, ==, 1);
    g_assert_true(((VmbPoint *)points->pdata[0])->foreign);
}

/* Killed at any step, it is done again, or was done. */
static void
test_adopt_fault(void)
{
    if (g_test_subprocess()) {
        g_autoptr(GError) error = NULL;
        guint dropped = 0;
        vmb_repository_adopt(g_getenv("REPO"), FALSE, &dropped, &error);
        return;
    }
    Fixture fixture;
    fixture_set_up(&fixture, NULL);
    g_autofree char *original = g_build_filename(fixture.path, "repo", NULL);
    g_autofree char *copy = g_build_filename(fixture.path, "copy", NULL);
    g_autoptr(VmbRepository) made = fixture_repository(&fixture);
    g_autoptr(VmbRepoDomain) domain = fixture_domain(made, FIXTURE_UUID);
    fixture_store_point(domain, "web01", 1, 0);
    run("cp", "-a", original, copy);
    g_setenv("REPO", copy, TRUE);
    fixture_run_with_fault(NULL, "adopt-journals-dropped=kill");
    g_test_trap_assert_failed();
    assert_copy(copy);
    fixture_run_with_fault(NULL, "adopted=kill");
    g_test_trap_assert_failed();
    g_autofree char *id = assert_at_home(copy);
    g_assert_cmpstr(id, !=, vmb_repository_id(made));
    g_autofree char *same = assert_at_home(original);
    g_assert_cmpstr(same, ==, vmb_repository_id(made));
    fixture_tear_down(&fixture, NULL);
}

static void
test_host(Fixture *fixture, gconstpointer data)
{
    g_autofree char *file = g_build_filename(fixture->path, "machine-id", NULL);
    g_assert_null(vmb_host_id_of(file));
    fixture_write(fixture->fd, "machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n");
    g_autofree char *id = vmb_host_id_of(file);
    g_assert_cmpuint(strlen(id), ==, 32);
    g_assert_null(strstr("3d1219c7c4c5404aaa1f6d2a48adfda4", id));
    fixture_write(fixture->fd, "machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda5\n");
    g_autofree char *other = vmb_host_id_of(file);
    g_assert_cmpstr(id, !=, other);
    static const char *const bad[] = {"", "\n", "uninitialized\n", "3d12\n"};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        fixture_write(fixture->fd, "machine-id", bad[i]);
        g_assert_null(vmb_host_id_of(file));
    }
    g_assert_false(vmb_host_is_other(NULL, NULL));
    g_assert_false(vmb_host_is_other(NULL, g_get_host_name()));
    g_assert_true(vmb_host_is_other(NULL, "another.host"));
    if (vmb_host_id() != NULL) {
        g_assert_false(vmb_host_is_other(vmb_host_id(), "the name it had before"));
        g_assert_true(vmb_host_is_other(id, g_get_host_name()) || strcmp(id, vmb_host_id()) == 0);
    }
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    g_test_add_func("/place/local", test_local);
    g_test_add_func("/place/shared", test_shared);
    g_test_add_func("/place/others", test_others);
    g_test_add_func("/place/outdated", test_outdated);
    g_test_add_func("/place/json", test_json);
    fixture_add("/place/copy-and-move", test_copy_and_move);
    fixture_add("/place/adopt-drops-runs", test_adopt_drops_runs);
    g_test_add_func("/place/adopt-fault", test_adopt_fault);
    fixture_add("/place/host", test_host);
    return g_test_run();
}
