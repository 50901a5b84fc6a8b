/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The journal: what is written comes back, and damage is told, never acted on. */
#include "repo-fixture.h"
#include "repo/journal.h"
#include "util/host.h"
#include "util/json.h"

static VmbJournal
sample(void)
{
    static char *stale[] = {(char *)"vmbackup-01234567-0a", (char *)"vmbackup-01234567-0b", NULL};
    return (VmbJournal){
        .nonce = (char *)"00112233445566778899aabbccddeeff",
        .uri = (char *)"qemu:///system",
        .checkpoint = (char *)"vmbackup-01234567-0c",
        .socket = (char *)"/run/vmbackup/x/nbd.sock",
        .run_dir = (char *)"/run/vmbackup/x",
        .scratch_dir = (char *)"/var/tmp/scr\xc3\xa4tch",
        .may_freeze = TRUE,
        .time_ns = 1234567890123456789,
        .pid = 4711,
        .point = (char *)"20261121T020000Z-3",
        .stale = stale,
    };
}

static VmbJournal *
read_journal(const Fixture *fixture)
{
    g_autoptr(GError) error = NULL;
    VmbJournal *journal = NULL;
    vmb_journal_read(fixture->fd, &journal, &error);
    g_assert_no_error(error);
    return journal;
}

static void
test_round_trip(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbJournal before = sample();
    g_assert_null(read_journal(fixture));
    g_assert_true(vmb_journal_clear(fixture->fd, &error));
    g_assert_true(vmb_journal_write(fixture->fd, &before, &error));
    g_assert_no_error(error);
    g_autoptr(VmbJournal) journal = read_journal(fixture);
    g_assert_cmpstr(journal->nonce, ==, before.nonce);
    g_assert_cmpstr(journal->uri, ==, before.uri);
    g_assert_cmpstr(journal->checkpoint, ==, before.checkpoint);
    g_assert_cmpstr(journal->socket, ==, before.socket);
    g_assert_cmpstr(journal->run_dir, ==, before.run_dir);
    g_assert_cmpstr(journal->scratch_dir, ==, before.scratch_dir);
    g_assert_cmpstr(journal->point, ==, before.point);
    g_assert_true(journal->may_freeze);
    g_assert_false(journal->may_pause || journal->was_running || journal->io_paused);
    g_assert_cmpint(journal->time_ns, ==, before.time_ns);
    g_assert_cmpint(journal->pid, ==, 4711);
    g_assert_true(
        g_strv_equal((const char *const *)journal->stale, (const char *const *)before.stale));
    /* The next one replaces it. */
    before.may_pause = before.was_running = before.io_paused = TRUE;
    g_assert_true(vmb_journal_write(fixture->fd, &before, &error));
    g_autoptr(VmbJournal) second = read_journal(fixture);
    g_assert_true(second->may_pause && second->was_running && second->io_paused);
    g_assert_true(vmb_journal_clear(fixture->fd, &error));
    g_assert_null(read_journal(fixture));
}

static void
test_rest(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbJournal rest = {.stale = sample().stale};
    g_assert_true(vmb_journal_write(fixture->fd, &rest, &error));
    g_autoptr(VmbJournal) journal = read_journal(fixture);
    g_assert_null(journal->nonce);
    g_assert_null(journal->run_dir);
    g_assert_cmpuint(g_strv_length(journal->stale), ==, 2);
    VmbJournal nothing = {0};
    g_assert_true(vmb_journal_write(fixture->fd, &nothing, &error));
    g_autoptr(VmbJournal) empty = read_journal(fixture);
    g_assert_null(empty->stale);
}

/* The writer puts its host in; a journal without one is of nobody else. */
static void
test_hosts(Fixture *fixture, gconstpointer data)
{
    VmbJournal before = sample();
    g_assert_true(vmb_journal_write(fixture->fd, &before, NULL));
    g_autoptr(VmbJournal) own = read_journal(fixture);
    g_assert_cmpstr(own->host, ==, g_get_host_name());
    g_assert_cmpstr(own->host_id, ==, vmb_host_id());
    g_assert_false(vmb_journal_is_elsewhere(own));
    VmbJournal rest = {.stale = before.stale};
    g_assert_true(vmb_journal_write(fixture->fd, &rest, NULL));
    g_autoptr(VmbJournal) names = read_journal(fixture);
    g_assert_null(names->host);
    g_assert_false(vmb_journal_is_elsewhere(names));
    VmbJournal unknown = sample();
    g_assert_false(vmb_journal_is_elsewhere(&unknown));
}

static void
test_aside(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbJournal before = sample();
    before.host = (char *)"another.host";
    before.host_id = (char *)"ffeeddccbbaa99887766554433221100";
    g_assert_true(vmb_journal_write(fixture->fd, &before, &error));
    g_autoptr(VmbJournal) journal = read_journal(fixture);
    g_assert_true(vmb_journal_is_elsewhere(journal));
    g_assert_true(vmb_journal_set_aside(fixture->fd, journal, &error));
    /* Later it is there once more, with less in it. */
    VmbJournal shortened = before;
    shortened.scratch_dir = NULL;
    g_assert_true(vmb_journal_write(fixture->fd, &shortened, &error));
    g_assert_true(vmb_journal_set_aside(fixture->fd, &shortened, &error));
    g_assert_true(vmb_journal_clear(fixture->fd, &error));
    fixture_write(fixture->fd, "journal-00000000000000000000000000000000", "damaged");
    fixture_write(fixture->fd, "journal-x", "no journal");
    g_autoptr(GPtrArray) aside = vmb_journal_list_aside(fixture->fd, &error);
    g_assert_cmpuint(aside->len, ==, 1);
    const VmbJournal *found = aside->pdata[0];
    g_assert_cmpstr(found->scratch_dir, ==, before.scratch_dir);
    g_assert_cmpstr(found->host, ==, "another.host");
    g_assert_true(vmb_journal_clear_aside(fixture->fd, found, &error));
    g_autoptr(GPtrArray) rest = vmb_journal_list_aside(fixture->fd, &error);
    g_assert_cmpuint(rest->len, ==, 0);
    /* A journal that holds nothing but paths is its host's, too. */
    static char *paths[] = {(char *)"/var/tmp/vmbackup-x", NULL};
    VmbJournal left = {.stale = paths, .host = before.host, .host_id = before.host_id};
    g_assert_true(vmb_journal_write(fixture->fd, &left, &error));
    g_autoptr(VmbJournal) only_paths = read_journal(fixture);
    g_assert_true(vmb_journal_is_elsewhere(only_paths));
    g_assert_true(vmb_journal_set_aside(fixture->fd, only_paths, &error));
    g_autoptr(GPtrArray) with_paths = vmb_journal_list_aside(fixture->fd, &error);
    g_assert_cmpuint(with_paths->len, ==, 1);
    g_assert_true(vmb_journal_clear_aside(fixture->fd, with_paths->pdata[0], &error));
    guint n = 0;
    g_assert_true(vmb_journal_write(fixture->fd, &before, &error));
    g_assert_true(vmb_journal_drop_all(fixture->fd, &n, &error));
    g_assert_cmpuint(n, ==, 2);
    g_assert_null(read_journal(fixture));
}

static void
assert_damaged(const Fixture *fixture)
{
    g_autoptr(GError) error = NULL;
    VmbJournal *journal = NULL;
    g_assert_false(vmb_journal_read(fixture->fd, &journal, &error));
    g_assert_null(journal);
    assert_error_contains(error, VMB_ERROR_DAMAGE, "vmbackup doctor");
}

static void
test_damaged(Fixture *fixture, gconstpointer data)
{
    VmbJournal before = sample();
    g_autofree char *text = NULL;
    gsize length = 0;
    g_assert_true(vmb_journal_write(fixture->fd, &before, NULL));
    g_assert_true(vmb_fs_read_file(fixture->fd, "journal", 65536, &text, &length, NULL));
    g_autofree char *path = g_build_filename(fixture->path, "journal", NULL);
    for (gsize i = 0; i < length; i++) {
        text[i] ^= 1;
        g_assert_true(g_file_set_contents(path, text, (gssize)length, NULL));
        assert_damaged(fixture);
        text[i] ^= 1;
    }
    for (gsize i = 0; i < length; i += 11) {
        g_assert_true(g_file_set_contents(path, text, (gssize)i, NULL));
        assert_damaged(fixture);
    }
}

static void
test_hostile(Fixture *fixture, gconstpointer data)
{
    static const struct {
        const char *key, *value;
    } cases[] = {
        {"nonce", "\"xyz\""},
        {"uri", "\"\""},
        {"host", "\"\""},
        {"host_id", "\"xyz\""},
        {"checkpoint", "\"../x\""},
        {"socket", "\"x\""},
        {"run_dir", "\"/\""},
        {"run_dir", "\"/etc\""},
        {"run_dir", "\"/run/x/../../etc\""},
        {"run_dir", "\"relative/path\""},
        {"run_dir", "\"/run//x\""},
        {"run_dir", "\"//etc\""}, /* POSIX gives two slashes a meaning of their own */
        {"run_dir", "\"/run/x/\""},
        {"scratch_dir", "7"},
        {"point", "\"latest\""},
        {"may_freeze", "1"},
        {"was_running", "1"},
        {"io_paused", "null"},
        {"pid", "\"1\""},
        {"stale", "null"},
        {"stale", "[1]"},
        {"stale", "[\"a/b\"]"},
        {"stale", "[\"/etc\"]"},
        {"stale", "[\"/run/x/../../etc\"]"},
        {"format", "0"},
    };
    VmbJournal before = sample();
    g_autofree char *text = NULL;
    gsize length = 0;
    g_assert_true(vmb_journal_write(fixture->fd, &before, NULL));
    g_assert_true(vmb_fs_read_file(fixture->fd, "journal", 65536, &text, &length, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(VmbJson) object = vmb_json_parse(text, length, NULL);
        json_object_object_del(object, "digest");
        json_object_object_add(object, cases[i].key, json_tokener_parse(cases[i].value));
        g_autofree char *sealed = vmb_json_seal(object);
        fixture_write(fixture->fd, "journal", sealed);
        g_test_message("%s = %s", cases[i].key, cases[i].value);
        assert_damaged(fixture);
    }
}

/* An older version said nothing of pauses, so none is taken for its own. */
static void
test_older(Fixture *fixture, gconstpointer data)
{
    VmbJournal before = sample();
    g_autofree char *text = NULL;
    gsize length = 0;
    before.was_running = before.io_paused = TRUE;
    g_assert_true(vmb_journal_write(fixture->fd, &before, NULL));
    g_assert_true(vmb_fs_read_file(fixture->fd, "journal", 65536, &text, &length, NULL));
    g_autoptr(VmbJson) object = vmb_json_parse(text, length, NULL);
    json_object_object_del(object, "digest");
    json_object_object_del(object, "was_running");
    json_object_object_del(object, "io_paused");
    g_autofree char *sealed = vmb_json_seal(object);
    fixture_write(fixture->fd, "journal", sealed);
    g_autoptr(VmbJournal) journal = read_journal(fixture);
    g_assert_cmpstr(journal->nonce, ==, before.nonce);
    g_assert_false(journal->was_running || journal->io_paused);
}

static void
test_newer(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJson) object = json_object_new_object();
    VmbJournal *journal = NULL;
    vmb_json_add_uint(object, "format", 2);
    g_autofree char *sealed = vmb_json_seal(object);
    fixture_write(fixture->fd, "journal", sealed);
    g_assert_false(vmb_journal_read(fixture->fd, &journal, &error));
    assert_error_contains(error, VMB_ERROR_NO_REPOSITORY, "newer version");
}

static void
test_not_written(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbJournal journal = sample();
    journal.run_dir = (char *)"/";
    g_assert_false(vmb_journal_write(fixture->fd, &journal, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, "run_dir");
    g_assert_null(read_journal(fixture));
    /* A path is written in its shortest form, as the reader demands it. */
    journal.run_dir = (char *)"/run//vmbackup/./x/";
    g_assert_true(vmb_journal_write(fixture->fd, &journal, NULL));
    g_autoptr(VmbJournal) found = read_journal(fixture);
    g_assert_cmpstr(found->run_dir, ==, "/run/vmbackup/x");
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    fixture_add("/journal/round-trip", test_round_trip);
    fixture_add("/journal/rest", test_rest);
    fixture_add("/journal/hosts", test_hosts);
    fixture_add("/journal/aside", test_aside);
    fixture_add("/journal/damaged", test_damaged);
    fixture_add("/journal/hostile", test_hostile);
    fixture_add("/journal/older", test_older);
    fixture_add("/journal/newer", test_newer);
    fixture_add("/journal/not-written", test_not_written);
    return g_test_run();
}
