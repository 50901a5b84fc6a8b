/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which checkpoints a repair or a backup may delete: by points, journal and name alone. */
#include "job/leftovers.h"
#include "repo-fixture.h"
#include "virt/checkpoint.h"

#define OUR_ID                                                                                     \
    "01234567"                                                                                     \
    "89abcdef"                                                                                     \
    "01234567"                                                                                     \
    "89abcdef"
#define OTHER_ID                                                                                   \
    "76543210"                                                                                     \
    "89abcdef"                                                                                     \
    "01234567"                                                                                     \
    "89abcdef"

typedef struct {
    GPtrArray *points;
    char *checkpoints[6];
} Lab;

static void
free_point(gpointer data)
{
    VmbPoint *point = data;
    vmb_manifest_free(point->manifest);
    g_free(point->id);
    g_free(point);
}

static void
lab_set_up(Lab *lab, gconstpointer data)
{
    lab->points = g_ptr_array_new_with_free_func(free_point);
    for (guint i = 0; i < G_N_ELEMENTS(lab->checkpoints); i++)
        lab->checkpoints[i] = fixture_checkpoint(i);
}

static void
lab_tear_down(Lab *lab, gconstpointer data)
{
    g_ptr_array_unref(lab->points);
    for (guint i = 0; i < G_N_ELEMENTS(lab->checkpoints); i++)
        g_free(lab->checkpoints[i]);
}

/* Point number @n, which holds @targets (each one letter) with the checkpoint number @n. */
static VmbPoint *
add_point(Lab *lab, guint n, const char *targets)
{
    VmbPoint *point = g_new0(VmbPoint, 1);
    point->id = fixture_id(n);
    point->manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    for (; *targets != '\0'; targets++) {
        char target[] = {'v', 'd', *targets, '\0'};
        fixture_add_disk(point->manifest, fixture_disk(target, n, 0));
    }
    g_ptr_array_add(lab->points, point);
    return point;
}

static void
damage(VmbPoint *point)
{
    g_clear_pointer(&point->manifest, vmb_manifest_free);
}

static VmbCheckpointRole
role(const Lab *lab, guint n, const VmbJournal *journal)
{
    return vmb_leftovers_role(lab->checkpoints[n], lab->points, journal, NULL, OUR_ID);
}

static void
test_newest_and_older(Lab *lab, gconstpointer data)
{
    add_point(lab, 1, "ab");
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_NEEDED);
    add_point(lab, 2, "ab");
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_OLD);
    g_assert_cmpint(role(lab, 2, NULL), ==, VMB_CHECKPOINT_NEEDED);
    g_assert_cmpint(role(lab, 3, NULL), ==, VMB_CHECKPOINT_UNNAMED);
}

/* A disk that the newest point lacks keeps its own. */
static void
test_disks_part(Lab *lab, gconstpointer data)
{
    const char *const a[] = {"target:vda", NULL};
    const char *const none[] = {NULL};
    add_point(lab, 1, "ab");
    add_point(lab, 2, "a");
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_NEEDED);
    add_point(lab, 3, "b");
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_OLD);
    g_assert_cmpint(role(lab, 2, NULL), ==, VMB_CHECKPOINT_NEEDED);
    g_assert_cmpint(role(lab, 3, NULL), ==, VMB_CHECKPOINT_NEEDED);
    /* The domain has lost vdb. */
    g_assert_cmpint(vmb_leftovers_role(lab->checkpoints[3], lab->points, NULL, a, OUR_ID), ==,
                    VMB_CHECKPOINT_OLD);
    g_assert_cmpint(vmb_leftovers_role(lab->checkpoints[2], lab->points, NULL, a, OUR_ID), ==,
                    VMB_CHECKPOINT_NEEDED);
    g_assert_cmpint(vmb_leftovers_role(lab->checkpoints[2], lab->points, NULL, none, OUR_ID), ==,
                    VMB_CHECKPOINT_OLD);
}

/* A newer point without a checkpoint: nothing starts from the older one. */
static void
test_newest_without_checkpoint(Lab *lab, gconstpointer data)
{
    add_point(lab, 1, "a");
    VmbPoint *point = add_point(lab, 2, "a");
    g_clear_pointer(&((VmbManifestDisk *)point->manifest->disks->pdata[0])->checkpoint, g_free);
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_OLD);
    g_assert_cmpint(role(lab, 2, NULL), ==, VMB_CHECKPOINT_UNNAMED);
}

/* The newest point of a disk that is no longer backed up was dropped. */
static void
test_dropped(Lab *lab, gconstpointer data)
{
    add_point(lab, 1, "ab");
    add_point(lab, 2, "ab")->retired = TRUE;
    VmbPoint *last = add_point(lab, 3, "a");
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_OLD);
    g_assert_cmpint(role(lab, 2, NULL), ==, VMB_CHECKPOINT_OLD);
    g_assert_cmpint(role(lab, 3, NULL), ==, VMB_CHECKPOINT_NEEDED);
    last->retired = TRUE;
    g_assert_cmpint(role(lab, 3, NULL), ==, VMB_CHECKPOINT_OLD);
}

static void
test_damage(Lab *lab, gconstpointer data)
{
    add_point(lab, 1, "a");
    add_point(lab, 2, "a");
    VmbPoint *newest = add_point(lab, 3, "a");
    VmbJournal journal = {.checkpoint = lab->checkpoints[3], .point = newest->id};
    g_assert_cmpuint(vmb_leftovers_count_damaged(lab->points), ==, 0);
    damage(newest);
    g_assert_cmpuint(vmb_leftovers_count_damaged(lab->points), ==, 1);
    /* What can still be read decides; the damaged point's own is not given up as long as it is
     * known. */
    g_assert_cmpint(role(lab, 1, NULL), ==, VMB_CHECKPOINT_OLD);
    g_assert_cmpint(role(lab, 2, NULL), ==, VMB_CHECKPOINT_NEEDED);
    g_assert_cmpint(role(lab, 3, NULL), ==, VMB_CHECKPOINT_UNNAMED);
    g_assert_cmpint(role(lab, 3, &journal), ==, VMB_CHECKPOINT_NEEDED);
    journal.point = NULL;
    g_assert_cmpint(role(lab, 3, &journal), ==, VMB_CHECKPOINT_STALE);
}

static void
test_journal(Lab *lab, gconstpointer data)
{
    char *stale[] = {lab->checkpoints[4], (char *)"/var/lib/vmbackup/scratch/vmbackup-0", NULL};
    add_point(lab, 1, "a");
    VmbJournal journal = {.checkpoint = lab->checkpoints[2], .stale = stale};
    g_assert_cmpint(role(lab, 2, &journal), ==, VMB_CHECKPOINT_STALE);
    g_assert_cmpint(role(lab, 3, &journal), ==, VMB_CHECKPOINT_UNNAMED);
    g_assert_cmpint(role(lab, 4, &journal), ==, VMB_CHECKPOINT_STALE);
    /* It was published after all: points count more. */
    add_point(lab, 2, "a");
    g_assert_cmpint(role(lab, 2, &journal), ==, VMB_CHECKPOINT_NEEDED);
    journal.checkpoint = lab->checkpoints[1];
    g_assert_cmpint(role(lab, 1, &journal), ==, VMB_CHECKPOINT_OLD);
}

static void
test_foreign(Lab *lab, gconstpointer data)
{
    static const char *const others[] = {"foreign",
                                         "vmbackup-01234567",
                                         "vmbackup-01234567-",
                                         "vmbackup-01234567-manual",
                                         "vmbackup-01234567-0123456789abcdef0123456789abcde",
                                         "vmbackup-01234567-0123456789abcdef0123456789abcdef0",
                                         "vmbackup-76543210-0123456789abcdef0123456789abcdef",
                                         "",
                                         NULL};
    add_point(lab, 1, "a");
    for (guint i = 0; others[i] != NULL; i++)
        g_assert_cmpint(vmb_leftovers_role(others[i], lab->points, NULL, NULL, OUR_ID), ==,
                        VMB_CHECKPOINT_FOREIGN);
    /* In an adopted copy, the original's points name the original's checkpoints. */
    add_point(lab, 2, "a")->foreign = TRUE;
    ((VmbPoint *)lab->points->pdata[0])->foreign = TRUE;
    for (guint n = 1; n <= 2; n++)
        g_assert_cmpint(vmb_leftovers_role(lab->checkpoints[n], lab->points, NULL, NULL, OTHER_ID),
                        ==, VMB_CHECKPOINT_FOREIGN);
}

static void
test_form(void)
{
    g_autofree char *name = vmb_checkpoint_new_name(OUR_ID);
    g_assert_true(vmb_checkpoint_is_ours(name, OUR_ID));
    g_assert_true(vmb_checkpoint_is_ours(name, "01234567"));
    g_assert_false(vmb_checkpoint_is_ours(name, OTHER_ID));
    g_assert_false(vmb_checkpoint_is_ours(name, ""));
    g_assert_false(vmb_checkpoint_is_ours(name + 1, OUR_ID));
}

#define add(path, function) g_test_add(path, Lab, NULL, lab_set_up, function, lab_tear_down)

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    add("/leftovers/newest-and-older", test_newest_and_older);
    add("/leftovers/disks-part", test_disks_part);
    add("/leftovers/newest-without-checkpoint", test_newest_without_checkpoint);
    add("/leftovers/dropped", test_dropped);
    add("/leftovers/damage", test_damage);
    add("/leftovers/journal", test_journal);
    add("/leftovers/foreign", test_foreign);
    g_test_add_func("/leftovers/form", test_form);
    return g_test_run();
}
