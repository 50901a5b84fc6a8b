/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checkpoints of points that go: whose names the journal must keep. */
#include "job/fold-orphan.h"
#include "repo-fixture.h"
#include "repo/journal.h"

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    GPtrArray *points;
} Lab;

static void
set_up(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    fixture_set_up(&lab->base, NULL);
    lab->repository = fixture_repository(&lab->base);
    lab->domain = fixture_domain(lab->repository, FIXTURE_UUID);
    /* vda in all three, vdb in the first two. */
    for (guint n = 1; n <= 3; n++) {
        VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, n);
        g_free(manifest->repository);
        manifest->repository = g_strdup(vmb_repository_id(lab->repository));
        fixture_add_disk(manifest, fixture_disk("vda", n, n - 1));
        if (n < 3)
            fixture_add_disk(manifest, fixture_disk("vdb", n, n - 1));
        fixture_store(lab->domain, manifest);
    }
    lab->points = vmb_repo_domain_points(lab->domain, &error);
    g_assert_no_error(error);
}

static void
tear_down(Lab *lab, gconstpointer data)
{
    g_ptr_array_unref(lab->points);
    vmb_repo_domain_free(lab->domain);
    vmb_repository_free(lab->repository);
    fixture_tear_down(&lab->base, NULL);
}

/* @expected: 'y' where the checkpoint of the point with this number may live. */
static void
assert_live(const Lab *lab, const char *expected)
{
    g_autoptr(GHashTable) live = vmb_fold_live_checkpoints(lab->domain, lab->points);
    for (guint n = 1; n <= 3; n++) {
        g_autofree char *name = fixture_checkpoint(n);
        g_assert_cmpint(g_hash_table_contains(live, name), ==, expected[n - 1] == 'y');
    }
}

static void
write_journal(const Lab *lab, const char *point, const char *stale)
{
    g_autoptr(GError) error = NULL;
    char *names[] = {(char *)stale, NULL};
    VmbJournal journal = {.nonce = (char *)"0123456789abcdef0123456789abcdef",
                          .point = (char *)point,
                          .stale = stale != NULL ? names : NULL};
    vmb_journal_write(vmb_repo_domain_fd(lab->domain), &journal, &error);
    g_assert_no_error(error);
}

static void
test_live(Lab *lab, gconstpointer data)
{
    assert_live(lab, "nyy");
    ((VmbPoint *)lab->points->pdata[1])->foreign = TRUE;
    assert_live(lab, "nny");
}

/* A run that was killed before it deleted the checkpoints before its own. */
static void
test_published_run(Lab *lab, gconstpointer data)
{
    write_journal(lab, "20261121T020099Z", NULL);
    assert_live(lab, "nyy");
    write_journal(lab, "20261121T020003Z", NULL);
    assert_live(lab, "yyy");
    fixture_write(vmb_repo_domain_fd(lab->domain), VMB_LAYOUT_JOURNAL, "torn");
    assert_live(lab, "yyy");
}

static void
assert_noted(const Lab *lab, guint place, guint expected)
{
    g_autoptr(GError) error = NULL;
    guint n = 99;
    g_autoptr(GHashTable) live = vmb_fold_live_checkpoints(lab->domain, lab->points);
    vmb_fold_note_orphans(lab->domain, live, lab->points, lab->points->pdata[place], &n, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n, ==, expected);
}

static void
test_noted(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJournal) journal = NULL;
    g_autofree char *second = fixture_checkpoint(2);
    int fd = vmb_repo_domain_fd(lab->domain);
    assert_noted(lab, 0, 0);
    g_assert_true(vmb_journal_read(fd, &journal, &error));
    g_assert_null(journal);
    write_journal(lab, NULL, "vmbackup-other");
    assert_noted(lab, 1, 1);
    assert_noted(lab, 1, 1); /* once more, as after a kill */
    g_assert_true(vmb_journal_read(fd, &journal, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(journal->nonce, ==, "0123456789abcdef0123456789abcdef");
    g_assert_cmpuint(g_strv_length(journal->stale), ==, 2);
    g_assert_true(g_strv_contains((const char *const *)journal->stale, second));
    g_assert_true(g_strv_contains((const char *const *)journal->stale, "vmbackup-other"));
}

static void
test_backup_runs(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint n = 0;
    g_autoptr(GHashTable) live = vmb_fold_live_checkpoints(lab->domain, lab->points);
    g_autoptr(VmbLock) writer = vmb_lock_take(vmb_repo_domain_fd(lab->domain), VMB_LAYOUT_LOCK,
                                              TRUE, 0, "a backup", NULL, &error);
    g_assert_no_error(error);
    g_assert_true(
        vmb_fold_note_orphans(lab->domain, live, lab->points, lab->points->pdata[0], &n, &error));
    g_assert_false(
        vmb_fold_note_orphans(lab->domain, live, lab->points, lab->points->pdata[1], &n, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_LOCKED);
}

#define add(path, function) g_test_add(path, Lab, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    add("/fold-orphan/live", test_live);
    add("/fold-orphan/published-run", test_published_run);
    add("/fold-orphan/noted", test_noted);
    add("/fold-orphan/backup-runs", test_backup_runs);
    return g_test_run();
}
