/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories that a hostile journal names: nothing is deleted but what a run of ours makes. */
#include "repo-fixture.h"
#include "job/scratch.h"
#include "repo/journal.h"
#include "util/json.h"

#define OURS "vmbackup-0123456789abcdef"

static char *
below(const Fixture *fixture, const char *name)
{
    return g_build_filename(fixture->path, name, NULL);
}

/* A directory with a file in it. */
static char *
make(const Fixture *fixture, const char *name)
{
    char *path = below(fixture, name);
    g_autofree char *file = g_build_filename(path, "file", NULL);
    g_assert_cmpint(g_mkdir_with_parents(path, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, "x", 1, NULL));
    return path;
}

static void
test_ours(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = make(fixture, "scratch/" OURS);
    g_autofree char *beside = make(fixture, "scratch/" OURS "0");
    g_assert_true(vmb_scratch_remove_leftover(path, &error));
    g_assert_no_error(error);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(beside, G_FILE_TEST_IS_DIR));
    /* Once more is no error. */
    g_assert_true(vmb_scratch_remove_leftover(path, &error));
}

static void
test_not_ours(Fixture *fixture, gconstpointer data)
{
    static const char *const names[] = {
        "vmbackup-",
        "vmbackup-0123456789abcde",
        OURS "0",
        "vmbackup-0123456789abcdeg",
        "vmbackup-0123456789abcde.",
        "Vmbackup-0123456789abcdef",
        "vmbackup",
        "home",
        "x/" OURS "/sub",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *path = make(fixture, names[i]);
        g_autofree char *file = g_build_filename(path, "file", NULL);
        g_assert_false(vmb_scratch_remove_leftover(path, &error));
        assert_error_contains(error, VMB_ERROR_DAMAGE, "left alone");
        g_assert_true(g_file_test(file, G_FILE_TEST_IS_REGULAR));
    }
}

/* Nothing relative, and no way out by a link. */
static void
test_paths(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL, error2 = NULL;
    g_autofree char *home = make(fixture, "home");
    g_autofree char *file = g_build_filename(home, "file", NULL);
    g_autofree char *link = below(fixture, OURS);
    g_assert_cmpint(symlink("home", link), ==, 0);
    g_assert_false(vmb_scratch_remove_leftover(OURS, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    g_assert_true(vmb_scratch_remove_leftover(link, &error2));
    g_assert_no_error(error2);
    g_assert_false(g_file_test(link, G_FILE_TEST_IS_SYMLINK));
    g_assert_true(g_file_test(file, G_FILE_TEST_IS_REGULAR));
    /* Nor by one inside. */
    g_autofree char *ours = make(fixture, OURS);
    g_autofree char *inside = g_build_filename(ours, "link", NULL);
    g_assert_cmpint(symlink("../home", inside), ==, 0);
    g_assert_true(vmb_scratch_remove_leftover(ours, &error2));
    g_assert_true(g_file_test(file, G_FILE_TEST_IS_REGULAR));
}

/* What a journal may say at all, one value after the other in each member that names a path. */
static void
test_journal(Fixture *fixture, gconstpointer data)
{
    static const char *const members[] = {"socket", "run_dir", "scratch_dir"};
    static const char *const hostile[] = {
        "/",         "/etc",     "//etc", "///etc/x",    "/etc/",  "/etc/.",
        "/x/../etc", "/./etc/x", "etc/x", "../etc/x",    "",       "~/x",
        "/etc//x",   "/x/..",    "C:\\x", "file:///x/y", "\n/x/y", "/x/\nrm/../y",
    };
    for (gsize m = 0; m < G_N_ELEMENTS(members); m++)
        for (gsize i = 0; i < G_N_ELEMENTS(hostile); i++) {
            VmbJournal before = {.nonce = (char *)"00112233445566778899aabbccddeeff",
                                 .uri = (char *)"qemu:///system"};
            g_autoptr(VmbJournal) journal = NULL;
            g_autoptr(GError) error = NULL;
            g_autofree char *text = NULL;
            gsize length = 0;
            g_assert_true(vmb_journal_write(fixture->fd, &before, NULL));
            g_assert_true(vmb_fs_read_file(fixture->fd, "journal", 65536, &text, &length, NULL));
            g_autoptr(VmbJson) object = vmb_json_parse(text, length, NULL);
            json_object_object_del(object, "digest");
            vmb_json_add_string(object, members[m], hostile[i]);
            g_autofree char *sealed = vmb_json_seal(object);
            fixture_write(fixture->fd, "journal", sealed);
            g_test_message("%s = %s", members[m], hostile[i]);
            g_assert_false(vmb_journal_read(fixture->fd, &journal, &error));
            g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
            g_assert_null(journal);
        }
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    fixture_add("/leftover-dirs/ours", test_ours);
    fixture_add("/leftover-dirs/not-ours", test_not_ours);
    fixture_add("/leftover-dirs/paths", test_paths);
    fixture_add("/leftover-dirs/journal", test_journal);
    return g_test_run();
}
