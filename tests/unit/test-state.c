/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of a point that may change: kept, rewritten, damaged. */
#include "point-fixture.h"
#include "repo/state.h"
#include "util/json.h"

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    GPtrArray *points;
    VmbPoint *point;
    int dir_fd;
} State;

static void
set_up(State *state, gconstpointer data)
{
    fixture_set_up(&state->base, NULL);
    state->repository = fixture_repository(&state->base);
    state->domain = fixture_domain(state->repository, FIXTURE_UUID);
    fixture_publish(state->domain, 1);
    state->points = fixture_points(state->domain);
    state->point = state->points->pdata[0];
    state->dir_fd = vmb_point_open_dir(state->point, NULL);
    g_assert_cmpint(state->dir_fd, >=, 0);
}

static void
tear_down(State *state, gconstpointer data)
{
    g_ptr_array_unref(state->points);
    close(state->dir_fd);
    vmb_repo_domain_free(state->domain);
    vmb_repository_free(state->repository);
    fixture_tear_down(&state->base, NULL);
}

static void
assert_state(VmbPoint *point, gint64 verified_ns, const char *result)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbPointState) state = {0};
    vmb_point_state_read(point, &state, &error);
    g_assert_no_error(error);
    g_assert_cmpint(state.verified_ns, ==, verified_ns);
    g_assert_cmpstr(state.verify_result, ==, result);
}

static void
write_state(VmbPoint *point, gint64 verified_ns, const char *result)
{
    g_autoptr(GError) error = NULL;
    VmbPointState state = {verified_ns, (char *)result};
    vmb_point_state_write(point, &state, &error);
    g_assert_no_error(error);
}

static void
test_round_trip(State *state, gconstpointer data)
{
    struct stat st;
    assert_state(state->point, 0, NULL);
    write_state(state->point, 1234567890123456789, "ok");
    assert_state(state->point, 1234567890123456789, "ok");
    write_state(state->point, 17, "damaged");
    assert_state(state->point, 17, "damaged");
    g_assert_cmpint(fstatat(state->dir_fd, "state.json", &st, 0), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
}

static void
mark(VmbPointState *state, gpointer user)
{
    state->is_protected = TRUE;
    g_assert_true(vmb_point_state_add_tag(state, "yearly"));
    g_assert_true(vmb_point_state_add_tag(state, "audit-2026"));
    g_assert_true(vmb_point_state_add_tag(state, "yearly"));
    g_assert_false(vmb_point_state_add_tag(state, "no tag"));
    g_assert_false(vmb_point_state_add_tag(state, ""));
    vmb_point_state_add_damage(state, "target:vda", 65536, 65536);
    vmb_point_state_add_damage(state, "target:vdb", 0, 65536);
    vmb_point_state_add_damage(state, "target:vda", 131072, 65536);
}

static void
unmark(VmbPointState *state, gpointer user)
{
    vmb_point_state_remove_tag(state, "yearly");
    vmb_point_state_clear_damage(state);
}

static void
test_marks(State *state, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbPointState) read = {0};
    write_state(state->point, 17, "damaged");
    g_assert_true(vmb_point_state_change(state->point, mark, NULL, &error));
    g_assert_no_error(error);
    g_assert_true(vmb_point_state_read(state->point, &read, &error));
    g_assert_cmpint(read.verified_ns, ==, 17);
    g_assert_true(read.is_protected);
    g_assert_cmpuint(read.tags->len, ==, 2);
    g_assert_cmpstr(read.tags->pdata[0], ==, "audit-2026");
    g_assert_cmpuint(read.damage->len, ==, 2);
    const VmbDamage *damage = read.damage->pdata[0];
    g_assert_cmpstr(damage->disk, ==, "target:vda");
    g_assert_cmpuint(damage->offset, ==, 65536);
    g_assert_cmpuint(damage->length, ==, 131072);
    g_assert_true(vmb_point_state_change(state->point, unmark, NULL, &error));
    g_assert_true(vmb_point_state_read(state->point, &read, &error));
    g_assert_null(read.damage);
    g_assert_true(vmb_point_state_has_tag(&read, "audit-2026"));
    g_assert_false(vmb_point_state_has_tag(&read, "yearly"));
}

/* However much is damaged, what is kept of it covers all and stays short. */
static void
test_much_damage(void)
{
    g_auto(VmbPointState) state = {0};
    for (guint i = 0; i < 3 * VMB_STATE_MAX_DAMAGE; i++)
        vmb_point_state_add_damage(&state, "target:vda", 2 * (guint64)i * VMB_BLOCK_SIZE,
                                   VMB_BLOCK_SIZE);
    g_assert_cmpuint(state.damage->len, ==, VMB_STATE_MAX_DAMAGE);
    const VmbDamage *last = state.damage->pdata[state.damage->len - 1];
    g_assert_cmpuint(last->offset + last->length, ==,
                     (2 * (guint64)(3 * VMB_STATE_MAX_DAMAGE - 1) + 1) * VMB_BLOCK_SIZE);
}

static char *
read_text(const State *state, gsize *length)
{
    char *text = NULL;
    g_assert_true(vmb_fs_read_file(state->dir_fd, "state.json", 65536, &text, length, NULL));
    return text;
}

static void
test_unknown_members(State *state, gconstpointer data)
{
    const char *value = NULL;
    gsize length = 0;
    const char *json = "{\"format\":1,\"marks\":{\"a\":[1,\"x\"]},\"verified_ns\":5,"
                       "\"verify_result\":null,\"later\":\"yes\"}";
    g_autoptr(VmbJson) object = vmb_json_parse(json, strlen(json), NULL);
    g_autofree char *sealed = vmb_json_seal(object);
    fixture_write(state->dir_fd, "state.json", sealed);
    assert_state(state->point, 5, NULL);
    write_state(state->point, 6, "ok");
    write_state(state->point, 7, "ok");
    g_autofree char *text = read_text(state, &length);
    g_autoptr(VmbJson) again = vmb_json_unseal(text, length, NULL);
    g_assert_nonnull(again);
    g_assert_true(vmb_json_get_string(again, "later", &value, NULL));
    g_assert_cmpstr(value, ==, "yes");
    VmbJson *tags = NULL;
    g_assert_true(vmb_json_get_object(again, "marks", &tags, NULL));
    assert_state(state->point, 7, "ok");
}

static void
assert_refused(State *state, VmbErrorCode code, const char *message)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbPointState) found = {0};
    g_assert_false(vmb_point_state_read(state->point, &found, &error));
    assert_error_contains(error, code, message);
}

static void
test_damaged(State *state, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPointState wanted = {9, NULL};
    gsize length = 0;
    write_state(state->point, 1234, "ok");
    g_autofree char *text = read_text(state, &length);
    g_autofree char *path = g_build_filename(state->base.path, "repo", "domains", FIXTURE_UUID,
                                             "points", state->point->id, "state.json", NULL);
    for (gsize i = 0; i < length; i++) {
        text[i] ^= 8;
        g_assert_true(g_file_set_contents(path, text, (gssize)length, NULL));
        assert_refused(state, VMB_ERROR_DAMAGE, "writes a new one");
        text[i] ^= 8;
    }
    g_assert_true(g_file_set_contents(path, text, (gssize)length - 1, NULL));
    assert_refused(state, VMB_ERROR_DAMAGE, "web01/20261121T020001Z/state.json");
    /* Protection and tags may be in it: it is not written over. */
    g_assert_false(vmb_point_state_write(state->point, &wanted, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    g_assert_cmpint(g_unlink(path), ==, 0);
    assert_state(state->point, 0, NULL);
    write_state(state->point, 9, "ok");
    assert_state(state->point, 9, "ok");
}

static void
test_hostile(State *state, gconstpointer data)
{
    static const char *const cases[] = {
        "{\"format\":1}",
        "{\"format\":1,\"verified_ns\":-1,\"verify_result\":null}",
        "{\"format\":1,\"verified_ns\":\"1\",\"verify_result\":null}",
        "{\"format\":1,\"verified_ns\":1,\"verify_result\":\"perhaps\"}",
        "{\"format\":0,\"verified_ns\":1,\"verify_result\":null}",
        "{\"verified_ns\":1}",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(VmbJson) object = vmb_json_parse(cases[i], strlen(cases[i]), NULL);
        g_autofree char *sealed = vmb_json_seal(object);
        fixture_write(state->dir_fd, "state.json", sealed);
        assert_refused(state, VMB_ERROR_DAMAGE, "");
    }
    g_autoptr(VmbJson) newer = vmb_json_parse("{\"format\":2}", 12, NULL);
    g_autofree char *sealed = vmb_json_seal(newer);
    fixture_write(state->dir_fd, "state.json", sealed);
    assert_refused(state, VMB_ERROR_NO_REPOSITORY, "newer version");
}

static void
test_not_written(State *state, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPointState wanted = {9, (char *)"perhaps"};
    g_assert_false(vmb_point_state_write(state->point, &wanted, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_clear_error(&error);
    wanted.verify_result = NULL;
    g_assert_cmpint(fchmod(state->dir_fd, 0500), ==, 0);
    fixture_as_nobody(&state->base);
    g_assert_false(vmb_point_state_write(state->point, &wanted, &error));
    fixture_as_root();
    g_assert_cmpint(fchmod(state->dir_fd, 0700), ==, 0);
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    assert_state(state->point, 0, NULL);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*function)(State *, gconstpointer);
    } tests[] = {
        {"/state/round-trip", test_round_trip},   {"/state/unknown-members", test_unknown_members},
        {"/state/damaged", test_damaged},         {"/state/hostile", test_hostile},
        {"/state/not-written", test_not_written}, {"/state/marks", test_marks},
    };
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    for (gsize i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].path, State, NULL, set_up, tests[i].function, tear_down);
    g_test_add_func("/state/much-damage", test_much_damage);
    return g_test_run();
}
