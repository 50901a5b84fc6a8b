/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the chain of a disk through manifests that contradict each other. */
#include "fuzz.h"
#include "../unit/repo-fixture.h"
#include "repo/repository-private.h"

/* Input: one point after the other, 6 bytes each: u8 flags, u8 sequence, u8 parent, u8 identity, u8
 * checkpoint, u8 base checkpoint. */
#define FLAG_DAMAGED 1u
#define FLAG_FULL 2u
#define FLAG_NO_CHECKPOINT 4u
#define FLAG_NO_BASE 8u
#define FLAG_NO_DISK 16u

#define MAX_POINTS 12u

void
fuzz_set_up(void)
{
}

static VmbManifestDisk *
take_disk(FuzzInput *input, guint flags)
{
    guint parent = 1 + (guint)fuzz_take(input, 1) % MAX_POINTS;
    guint id = (guint)fuzz_take(input, 1) % 3;
    guint checkpoint = (guint)fuzz_take(input, 1) % 4, base = (guint)fuzz_take(input, 1) % 4;
    VmbManifestDisk *disk = fixture_disk("vda", checkpoint, flags & FLAG_FULL ? 0 : parent);
    g_free(disk->id);
    disk->id = g_strdup_printf("serial:%u", id);
    if (flags & FLAG_NO_CHECKPOINT)
        g_clear_pointer(&disk->checkpoint, g_free);
    g_clear_pointer(&disk->base_checkpoint, g_free);
    if ((flags & (FLAG_FULL | FLAG_NO_BASE)) == 0)
        disk->base_checkpoint = fixture_checkpoint(base);
    return disk;
}

static VmbPoint *
take_point(FuzzInput *input, guint n)
{
    guint flags = (guint)fuzz_take(input, 1), sequence = 1 + (guint)fuzz_take(input, 1);
    VmbPoint *point = g_new0(VmbPoint, 1);
    g_autoptr(VmbManifestDisk) disk = take_disk(input, flags);
    point->id = fixture_id(n);
    point->uuid = g_strdup(FIXTURE_UUID);
    if (flags & FLAG_DAMAGED) {
        point->damage = g_error_new_literal(VMB_ERROR, VMB_ERROR_DAMAGE, "damaged");
        return point;
    }
    point->manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    point->manifest->sequence = sequence;
    if ((flags & FLAG_NO_DISK) == 0)
        fixture_add_disk(point->manifest, g_steal_pointer(&disk));
    return point;
}

static void
free_point(gpointer data)
{
    VmbPoint *point = data;
    vmb_manifest_free(point->manifest);
    g_clear_error(&point->damage);
    g_free(point->id);
    g_free(point->uuid);
    g_free(point);
}

/* A chain ends with its only full, its numbers fall, and it is one disk's. */
static void
check_chain(const GArray *links, const VmbPoint *point, const char *id)
{
    FUZZ_CHECK(links->len > 0 && g_array_index(links, VmbChainLink, 0).point == point);
    for (guint i = 0; i < links->len; i++) {
        const VmbChainLink *link = &g_array_index(links, VmbChainLink, i);
        gboolean last = i + 1 == links->len;
        FUZZ_CHECK(link->point->manifest != NULL && strcmp(link->disk->id, id) == 0);
        FUZZ_CHECK((link->disk->level == VMB_LEVEL_FULL) == last);
        if (last)
            break;
        const VmbChainLink *next = &g_array_index(links, VmbChainLink, i + 1);
        FUZZ_CHECK(strcmp(link->disk->parent, next->point->id) == 0);
        FUZZ_CHECK(next->point->manifest->sequence < link->point->manifest->sequence);
        FUZZ_CHECK(link->disk->base_checkpoint == NULL ||
                   g_strcmp0(link->disk->base_checkpoint, next->disk->checkpoint) == 0);
    }
}

void
fuzz_one(const guint8 *data, gsize length)
{
    static const char *const ids[] = {"serial:0", "serial:1", "serial:2", "none"};
    FuzzInput input = {data, length};
    g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func(free_point);
    while (input.left > 0 && points->len < MAX_POINTS)
        g_ptr_array_add(points, take_point(&input, points->len + 1));
    for (guint i = 0; i < points->len; i++)
        for (guint k = 0; k < G_N_ELEMENTS(ids); k++) {
            g_autoptr(GError) error = NULL;
            g_autoptr(GArray) links = vmb_repo_chain(points, points->pdata[i], ids[k], &error);
            if (links != NULL)
                check_chain(links, points->pdata[i], ids[k]);
            else
                fuzz_check_error(error, -1);
        }
}

void
fuzz_seeds(void)
{
    static const guint8 good[] = {2, 1, 0, 0, 1, 0, 0, 2, 0, 0, 2, 1, 8, 3, 1, 0, 3, 0};
    static const guint8 loop[] = {0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1};
    static const guint8 twins[] = {2, 5, 0, 1, 0, 0, 6, 5, 0, 1, 0, 0, 0, 9, 1, 1, 0, 0, 1, 1, 1};
    fuzz_seed("good", good, sizeof good);
    fuzz_seed("loop", loop, sizeof loop);
    fuzz_seed("twins", twins, sizeof twins);
}
