/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When the layers of a disk count as the ones of its last point. */
#include "job/source-layers.h"
#include "util/fsio.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

typedef struct {
    char *directory, *active, *base;
} Fixture;

static void
set_up(Fixture *fixture, gconstpointer data)
{
    fixture->directory = g_dir_make_tmp("vmb-layers-XXXXXX", NULL);
    g_assert_nonnull(fixture->directory);
    fixture->active = g_build_filename(fixture->directory, "active", NULL);
    fixture->base = g_build_filename(fixture->directory, "base", NULL);
    g_assert_true(g_file_set_contents(fixture->active, "active", -1, NULL));
    g_assert_true(g_file_set_contents(fixture->base, "base", -1, NULL));
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, fixture->directory, NULL));
    g_free(fixture->directory);
    g_free(fixture->active);
    g_free(fixture->base);
}

/* What a manifest would hold of a disk with these two layers; NULL: one that has no local path. */
static GPtrArray *
look(const char *active, const char *base)
{
    VmbDiskLayer layers[] = {{.path = (char *)active, .format = (char *)"qcow2"},
                             {.path = (char *)base, .format = (char *)"raw"}};
    gpointer list[] = {&layers[0], &layers[1]};
    GPtrArray array = {.pdata = list, .len = 2};
    VmbDiskInfo disk = {.layers = &array};
    return vmb_source_layers(&disk);
}

static void
check(GPtrArray *before, GPtrArray *now, gboolean same_active, gboolean same_below)
{
    g_assert_cmpuint(before->len, ==, 2);
    g_assert_cmpuint(now->len, ==, 2);
    g_assert_cmpint(vmb_source_layers_same_active(before, now), ==, same_active);
    g_assert_cmpint(vmb_source_layers_same_below(before, now), ==, same_below);
    g_ptr_array_unref(before);
    g_ptr_array_unref(now);
}

static void
test_same(Fixture *fixture, gconstpointer data)
{
    check(look(fixture->active, fixture->base), look(fixture->active, fixture->base), TRUE, TRUE);
}

static void
test_written(Fixture *fixture, gconstpointer data)
{
    const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    GPtrArray *before = look(fixture->active, fixture->base);
    g_assert_cmpint(utimensat(AT_FDCWD, fixture->active, times, 0), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, fixture->base, times, 0), ==, 0);
    check(before, look(fixture->active, fixture->base), TRUE, FALSE);
}

static void
test_replaced(Fixture *fixture, gconstpointer data)
{
    GPtrArray *before = look(fixture->active, fixture->base);
    g_autofree char *copy = g_strconcat(fixture->active, ".new", NULL);
    g_assert_true(g_file_set_contents(copy, "active", -1, NULL));
    g_assert_cmpint(rename(copy, fixture->active), ==, 0);
    check(before, look(fixture->active, fixture->base), FALSE, TRUE);
}

/* Its time may be put back, but not that of its last change. */
static void
test_time_put_back(Fixture *fixture, gconstpointer data)
{
    struct stat st;
    g_autoptr(GPtrArray) before = look(fixture->active, fixture->base);
    g_autoptr(GPtrArray) same = look(fixture->active, fixture->base);
    g_assert_true(vmb_source_layers_unchanged(before, same));
    g_assert_cmpint(stat(fixture->base, &st), ==, 0);
    const struct timespec times[2] = {st.st_atim, st.st_mtim};
    ((VmbSourceLayer *)before->pdata[1])->ctime_ns--; /* the clock may not have ticked since */
    g_assert_cmpint(utimensat(AT_FDCWD, fixture->base, times, 0), ==, 0);
    g_autoptr(GPtrArray) now = look(fixture->active, fixture->base);
    g_assert_true(vmb_source_layers_same_below(before, now));
    g_assert_false(vmb_source_layers_unchanged(before, now));
}

/* A new file may get the number of one that is gone. */
static void
test_number_used_again(Fixture *fixture, gconstpointer data)
{
    GPtrArray *before = look(fixture->active, fixture->base);
    GPtrArray *now = look(fixture->active, fixture->base);
    ((VmbSourceLayer *)before->pdata[0])->birth_ns = 1;
    ((VmbSourceLayer *)now->pdata[0])->birth_ns = 2;
    ((VmbSourceLayer *)before->pdata[1])->birth_ns = 3;
    ((VmbSourceLayer *)now->pdata[1])->birth_ns = 0;
    check(before, now, FALSE, TRUE);
}

/* Nobody can tell whether it is still the same. */
static void
test_unknown(Fixture *fixture, gconstpointer data)
{
    g_autofree char *absent = g_build_filename(fixture->directory, "absent", NULL);
    check(look(fixture->active, NULL), look(fixture->active, NULL), TRUE, FALSE);
    check(look(fixture->active, absent), look(fixture->active, absent), TRUE, FALSE);
    check(look(NULL, fixture->base), look(NULL, fixture->base), FALSE, TRUE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/source-layers/same", Fixture, NULL, set_up, test_same, tear_down);
    g_test_add("/source-layers/written", Fixture, NULL, set_up, test_written, tear_down);
    g_test_add("/source-layers/replaced", Fixture, NULL, set_up, test_replaced, tear_down);
    g_test_add("/source-layers/time-put-back", Fixture, NULL, set_up, test_time_put_back,
               tear_down);
    g_test_add("/source-layers/number-used-again", Fixture, NULL, set_up, test_number_used_again,
               tear_down);
    g_test_add("/source-layers/unknown", Fixture, NULL, set_up, test_unknown, tear_down);
    return g_test_run();
}
