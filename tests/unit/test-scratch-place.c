/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories for scratch files: not in the repository, and within QEMU's reach. */
#include "job/scratch-place.h"
#include "util/error.h"
#include "util/fsio.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    char *base, *repository, *outside;
} Fixture;

static void
set_up(Fixture *fixture, gconstpointer data)
{
    fixture->base = g_dir_make_tmp("vmb-place-XXXXXX", NULL);
    g_assert_nonnull(fixture->base);
    fixture->repository = g_build_filename(fixture->base, "repo", NULL);
    fixture->outside = g_build_filename(fixture->base, "repo2", NULL);
    g_assert_cmpint(g_mkdir(fixture->repository, 0700), ==, 0);
    g_assert_cmpint(g_mkdir(fixture->outside, 0711), ==, 0);
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, fixture->base, NULL));
    g_free(fixture->base);
    g_free(fixture->repository);
    g_free(fixture->outside);
}

static void
check_inside(const Fixture *fixture, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(vmb_scratch_place_outside(path, fixture->repository, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_USAGE);
}

static void
test_inside(Fixture *fixture, gconstpointer data)
{
    g_autofree char *deep = g_build_filename(fixture->repository, "no", "such", NULL);
    g_autofree char *link = g_build_filename(fixture->base, "link", NULL);
    g_autofree char *linked = g_build_filename(link, "scratch", NULL);
    g_assert_cmpint(symlink(fixture->repository, link), ==, 0);
    check_inside(fixture, fixture->repository);
    check_inside(fixture, deep);
    check_inside(fixture, link);
    check_inside(fixture, linked);
}

static void
test_outside(Fixture *fixture, gconstpointer data)
{
    g_autofree char *deep = g_build_filename(fixture->outside, "no", "such", NULL);
    g_autofree char *beside = g_build_filename(fixture->base, "absent", NULL);
    const char *const places[] = {fixture->outside, deep, beside, fixture->base, "/"};
    for (gsize i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_true(vmb_scratch_place_outside(places[i], fixture->repository, &error));
        g_assert_no_error(error);
    }
}

/* The base belongs to whoever runs the test, and is 0700: so the way through it depends on the user. */
static void
test_passable(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *deep = g_build_filename(fixture->outside, "no", "such", NULL);
    guint64 stranger = (guint64)geteuid() + 4711, strange_group = (guint64)getegid() + 4711;
    g_assert_cmpint(g_chmod(fixture->base, 0700), ==, 0);
    g_assert_true(vmb_scratch_place_passable(deep, 0, 0, NULL));
    g_assert_false(vmb_scratch_place_passable(deep, stranger, strange_group, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, fixture->base));
    /* Above the base there may be private directories, too. */
    const char *above = g_get_tmp_dir();
    struct stat st;
    g_assert_cmpint(g_chmod(fixture->base, 0710), ==, 0);
    g_assert_cmpint(stat(fixture->base, &st), ==, 0);
    g_assert_cmpint(vmb_scratch_place_passable(deep, stranger, st.st_gid, NULL), ==,
                    vmb_scratch_place_passable(above, stranger, st.st_gid, NULL));
    g_assert_cmpint(g_chmod(fixture->base, 0711), ==, 0);
    g_assert_cmpint(vmb_scratch_place_passable(deep, stranger, strange_group, NULL), ==,
                    vmb_scratch_place_passable(above, stranger, strange_group, NULL));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/scratch-place/inside", Fixture, NULL, set_up, test_inside, tear_down);
    g_test_add("/scratch-place/outside", Fixture, NULL, set_up, test_outside, tear_down);
    g_test_add("/scratch-place/passable", Fixture, NULL, set_up, test_passable, tear_down);
    return g_test_run();
}
