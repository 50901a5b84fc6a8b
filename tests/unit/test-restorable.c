/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points count as good ones, by manifests and by what verifications have found. */
#include "job/restorable.h"
#include "util/error.h"

#include <string.h>

#define N 5u

/* Five points of one disk, an hour (here: 10 ns) apart, each on the one before. */
typedef struct {
    GPtrArray *summaries;
    VmbSummary points[N];
    VmbSummaryDisk disks[N];
} Lab;

static const char *const ids[N] = {"1", "2", "3", "4", "5"};

static void
set_up(Lab *lab, gconstpointer data)
{
    memset(lab, 0, sizeof *lab);
    lab->summaries = g_ptr_array_new();
    for (guint i = 0; i < N; i++) {
        lab->disks[i] =
            (VmbSummaryDisk){.target = "vda", .id = "a", .parent = i > 0 ? ids[i - 1] : NULL};
        lab->points[i] = (VmbSummary){.id = ids[i],
                                      .sequence = i + 1,
                                      .time_ns = 10 * (i + 1),
                                      .n_disks = 1,
                                      .disks = &lab->disks[i]};
        g_ptr_array_add(lab->summaries, &lab->points[i]);
    }
}

static void
tear_down(Lab *lab, gconstpointer data)
{
    g_ptr_array_unref(lab->summaries);
}

/* @expected: 'y' or 'n' for each. */
static void
assert_restorable(const Lab *lab, const char *expected)
{
    gboolean restorable[N];
    char found[N + 1] = {0};
    vmb_restorable_points(lab->summaries, restorable);
    for (guint i = 0; i < N; i++)
        found[i] = restorable[i] ? 'y' : 'n';
    g_assert_cmpstr(found, ==, expected);
}

static void
test_good(Lab *lab, gconstpointer data)
{
    assert_restorable(lab, "yyyyy");
}

static void
test_own_state(Lab *lab, gconstpointer data)
{
    lab->points[4].verify_result = "damaged"; /* as of an older version: without ranges */
    assert_restorable(lab, "yyyyn");
    lab->points[3].verify_result = "ok";
    assert_restorable(lab, "yyyyn");
    lab->points[4].verify_result = "ok";
    assert_restorable(lab, "yyyyy");
}

/* Found after number 4 was made: number 5 has taken the damaged ranges from the guest again. */
static void
test_damage_before(Lab *lab, gconstpointer data)
{
    lab->disks[1].damaged = TRUE;
    lab->points[1].checked_ns = 45;
    assert_restorable(lab, "ynnny");
    lab->points[1].checked_ns = 15; /* a clock was wrong; the point itself is bad all the same */
    assert_restorable(lab, "ynyyy");
    lab->disks[1].damaged = FALSE;
    lab->points[1].checked_ns = 45;
    lab->points[1].metadata_damaged = TRUE;
    assert_restorable(lab, "ynnny");
}

static void
test_other_disk(Lab *lab, gconstpointer data)
{
    VmbSummaryDisk both[] = {{.id = "a"}, {.id = "b", .damaged = TRUE}};
    lab->points[0].disks = both;
    lab->points[0].n_disks = 2;
    lab->points[0].checked_ns = 100;
    assert_restorable(lab, "nyyyy");
}

static void
test_broken_chain(Lab *lab, gconstpointer data)
{
    lab->disks[2].parent = "0";
    assert_restorable(lab, "yynnn");
    lab->disks[2].parent = "4"; /* its own child */
    assert_restorable(lab, "yynnn");
    lab->disks[2].parent = NULL;
    assert_restorable(lab, "yyyyy");
    lab->disks[1].id = "b";
    assert_restorable(lab, "ynyyy");
}

/* Points that cannot be read stand at the end. */
static void
test_unreadable(Lab *lab, gconstpointer data)
{
    g_autoptr(GError) damage = g_error_new_literal(VMB_ERROR, VMB_ERROR_DAMAGE, "torn");
    lab->points[1].damage = damage;
    g_ptr_array_remove_index(lab->summaries, 1);
    g_ptr_array_add(lab->summaries, &lab->points[1]);
    assert_restorable(lab, "ynnnn");
}

#define add(path, function) g_test_add(path, Lab, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/restorable/good", test_good);
    add("/restorable/own-state", test_own_state);
    add("/restorable/damage-before", test_damage_before);
    add("/restorable/other-disk", test_other_disk);
    add("/restorable/broken-chain", test_broken_chain);
    add("/restorable/unreadable", test_unreadable);
    return g_test_run();
}
