/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hiding points and removing them: what is protected, in use or needed stays. */
#include "point-fixture.h"
#include "repo/retire.h"
#include "repo/state.h"

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    GPtrArray *points;
} Lab;

static void
set_up(Lab *lab, gconstpointer data)
{
    fixture_set_up(&lab->base, NULL);
    lab->repository = fixture_repository(&lab->base);
    lab->domain = fixture_domain(lab->repository, FIXTURE_UUID);
    for (guint n = 1; n <= 3; n++)
        fixture_publish(lab->domain, n);
    lab->points = fixture_points(lab->domain);
}

static void
tear_down(Lab *lab, gconstpointer data)
{
    g_ptr_array_unref(lab->points);
    vmb_repo_domain_free(lab->domain);
    vmb_repository_free(lab->repository);
    fixture_tear_down(&lab->base, NULL);
}

/* "1 2r 3": the points that are there, with r behind the retired ones. */
static void
assert_points(const Lab *lab, const char *expected)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GPtrArray) points = fixture_points(lab->domain);
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        g_string_append_printf(text, "%s%" G_GUINT64_FORMAT "%s", i > 0 ? " " : "",
                               point->manifest->sequence, point->retired ? "r" : "");
    }
    g_assert_cmpstr(text->str, ==, expected);
}

static void
protect(VmbPointState *state, gpointer user)
{
    state->is_protected = TRUE;
}

static void
test_hide(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < 2; i++) { /* once more is fine */
        g_assert_true(vmb_point_retire(lab->domain, lab->points->pdata[1], FALSE, &error));
        g_assert_no_error(error);
        assert_points(lab, "1 2r 3");
    }
    g_assert_true(((VmbPoint *)lab->points->pdata[1])->retired);
}

/* Protected after it was read and chosen. */
static void
test_protected(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPoint *point = lab->points->pdata[1];
    g_assert_true(vmb_point_state_change(point, protect, NULL, &error));
    g_assert_false(vmb_point_retire(lab->domain, point, FALSE, &error));
    assert_error_contains(error, VMB_ERROR_DOMAIN, "protected");
    g_clear_error(&error);
    assert_points(lab, "1 2 3");
    g_auto(VmbFd) dir = vmb_point_open_dir(point, &error);
    g_assert_no_error(error);
    fixture_write(dir, VMB_LAYOUT_STATE, "{}");
    g_assert_false(vmb_point_retire(lab->domain, point, FALSE, &error));
    assert_error_contains(error, VMB_ERROR_DAMAGE, "nobody knows whether it is protected");
    g_clear_error(&error);
    g_assert_true(vmb_point_retire(lab->domain, point, TRUE, &error));
    g_assert_no_error(error);
    assert_points(lab, "1 2r 3");
}

static void
test_remove(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPoint *point = lab->points->pdata[2];
    g_assert_true(vmb_point_retire(lab->domain, point, FALSE, &error));
    g_assert_true(vmb_point_remove(lab->domain, point, lab->points, &error));
    g_assert_no_error(error);
    assert_points(lab, "1 2");
}

static void
test_in_use(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPoint *point = lab->points->pdata[2];
    g_auto(VmbFd) dir = vmb_point_open_dir(point, &error);
    g_assert_no_error(error);
    g_autoptr(VmbLock) lock =
        vmb_lock_take(dir, VMB_LAYOUT_LOCK, FALSE, 0, "a reader", NULL, &error);
    g_assert_no_error(error);
    g_assert_true(vmb_point_retire(lab->domain, point, FALSE, &error));
    g_assert_false(vmb_point_remove(lab->domain, point, lab->points, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_LOCKED);
    assert_points(lab, "1 2 3r");
}

/* A backup that was under way has published its point since the points were read. */
static void
test_new_child(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    VmbPoint *point = lab->points->pdata[2];
    fixture_publish(lab->domain, 4);
    g_assert_true(vmb_point_retire(lab->domain, point, FALSE, &error));
    g_assert_false(vmb_point_remove(lab->domain, point, lab->points, &error));
    assert_error_contains(error, VMB_ERROR_LOCKED, "20261121T020004Z builds on it");
    assert_points(lab, "1 2 3r 4");
}

#define add(path, function) g_test_add(path, Lab, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    add("/retire/hide", test_hide);
    add("/retire/protected", test_protected);
    add("/retire/remove", test_remove);
    add("/retire/in-use", test_in_use);
    add("/retire/new-child", test_new_child);
    return g_test_run();
}
