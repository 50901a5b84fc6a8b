/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared locks on points and what they build on, beside those who drop and fold points. */
#include "point-fixture.h"
#include "repo/pins.h"

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
} Pins;

static void
set_up(Pins *pins, gconstpointer data)
{
    fixture_set_up(&pins->base, NULL);
    pins->repository = fixture_repository(&pins->base);
    pins->domain = fixture_domain(pins->repository, FIXTURE_UUID);
    for (guint n = 1; n <= 4; n++)
        fixture_publish(pins->domain, n);
}

static void
tear_down(Pins *pins, gconstpointer data)
{
    vmb_repo_domain_free(pins->domain);
    vmb_repository_free(pins->repository);
    fixture_tear_down(&pins->base, NULL);
}

/* Whether somebody else could remove point number @n now. */
static gboolean
is_free(Pins *pins, guint n)
{
    g_autofree char *id = fixture_id(n);
    g_autofree char *name = g_build_filename(VMB_LAYOUT_POINTS, id, VMB_LAYOUT_LOCK, NULL);
    g_autoptr(VmbLock) lock =
        vmb_lock_take(vmb_repo_domain_fd(pins->domain), name, TRUE, 0, id, NULL, NULL);
    return lock != NULL;
}

static void
assert_pinned(Pins *pins, guint up_to)
{
    for (guint n = 1; n <= 4; n++)
        g_assert_cmpint(is_free(pins, n), ==, n > up_to);
}

static void
test_named(Pins *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = NULL;
    VmbPoint *point = NULL;
    g_autofree char *id = fixture_id(3);
    g_autofree char *text = g_strconcat("web01/", id, NULL);
    VmbPins *pins =
        vmb_pins_take_named(fixture->repository, text, NULL, &point, &points, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(point->id, ==, id);
    g_assert_cmpuint(points->len, ==, 4);
    assert_pinned(fixture, 3);
    vmb_pins_free(pins);
    assert_pinned(fixture, 0);
    g_assert_null(vmb_pins_take_named(fixture->repository, "web01/2030", NULL, &point, &points,
                                      &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DOMAIN);
}

static void
test_newest(Pins *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = NULL;
    g_autoptr(VmbPins) pins = vmb_pins_take_newest(fixture->domain, NULL, &points, &error);
    g_assert_no_error(error);
    assert_pinned(fixture, 4);
    /* Readers do not exclude each other. */
    g_autoptr(GPtrArray) again = NULL;
    g_autoptr(VmbPins) others = vmb_pins_take_newest(fixture->domain, NULL, &again, &error);
    g_assert_no_error(error);
}

static void
test_structure(Pins *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = NULL;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(VmbLock) switching =
        vmb_pins_lock_structure(fixture->domain, TRUE, 0, NULL, &error);
    g_assert_no_error(error);
    g_assert_null(vmb_pins_lock_structure(fixture->domain, FALSE, 0, NULL, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_LOCKED);
    g_clear_error(&error);
    g_cancellable_cancel(cancel);
    g_assert_null(vmb_pins_take_newest(fixture->domain, cancel, &points, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_CANCELLED);
}

/* A retired point is not found by users, and stays part of the chains. */
static void
test_retired(Pins *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) points = NULL;
    VmbPoint *point = NULL;
    g_autofree char *id = fixture_id(2);
    g_autofree char *text = g_strconcat("web01/", id, NULL);
    g_autofree char *name = g_build_filename(VMB_LAYOUT_POINTS, id, VMB_LAYOUT_RETIRED, NULL);
    g_auto(VmbFd) file = openat(vmb_repo_domain_fd(fixture->domain), name,
                                O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(file, >=, 0);
    g_assert_null(
        vmb_pins_take_named(fixture->repository, text, NULL, &point, &points, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DOMAIN);
    g_clear_error(&error);
    g_autoptr(VmbPins) pins =
        vmb_pins_take_named(fixture->repository, "web01", NULL, &point, &points, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(points->len, ==, 4);
    g_assert_true(((VmbPoint *)points->pdata[1])->retired);
    assert_pinned(fixture, 4);
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    g_test_add("/pins/named", Pins, NULL, set_up, test_named, tear_down);
    g_test_add("/pins/newest", Pins, NULL, set_up, test_newest, tear_down);
    g_test_add("/pins/structure", Pins, NULL, set_up, test_structure, tear_down);
    g_test_add("/pins/retired", Pins, NULL, set_up, test_retired, tear_down);
    return g_test_run();
}
