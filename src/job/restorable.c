/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points can be restored, as far as manifests and past verifications tell. */
#include "job/restorable.h"

#include <string.h>

#define NEVER G_MININT64
#define ALWAYS G_MAXINT64 /* the chain is broken: no later look can have found it whole */

/* The chain of one disk up to one point. */
typedef struct {
    const char *id;   /* of the disk */
    gint64 damage_ns; /* the last time at which damage in it was found; NEVER, ALWAYS */
} Link;

typedef struct {
    const GPtrArray *summaries;
    GHashTable *places; /* id of a point -> its place + 1 */
    Link **links;       /* of each point, one for each of its disks */
} Chains;

static gint64
damage_of_parent(const Chains *chains, const VmbSummary *point, const VmbSummaryDisk *disk)
{
    guint place = GPOINTER_TO_UINT(g_hash_table_lookup(chains->places, disk->parent));
    const VmbSummary *parent = place > 0 ? chains->summaries->pdata[place - 1] : NULL;
    if (parent == NULL || parent->damage != NULL || parent->sequence >= point->sequence)
        return ALWAYS;
    for (guint d = 0; d < parent->n_disks; d++)
        if (strcmp(parent->disks[d].id, disk->id) == 0)
            return chains->links[place - 1][d].damage_ns;
    return ALWAYS;
}

/* Parents come before their children. */
static void
follow(Chains *chains, guint place)
{
    const VmbSummary *point = chains->summaries->pdata[place];
    Link *links = g_new0(Link, MAX(point->n_disks, 1));
    chains->links[place] = links;
    for (guint d = 0; d < point->n_disks; d++) {
        const VmbSummaryDisk *disk = &point->disks[d];
        gint64 own = disk->damaged || point->metadata_damaged ? point->checked_ns : NEVER;
        gint64 before = disk->parent != NULL ? damage_of_parent(chains, point, disk) : NEVER;
        links[d] = (Link){disk->id, MAX(own, before)};
    }
}

static gboolean
is_restorable(const Chains *chains, guint place)
{
    const VmbSummary *point = chains->summaries->pdata[place];
    if (point->damage != NULL || point->metadata_damaged ||
        g_strcmp0(point->verify_result, "damaged") == 0)
        return FALSE;
    for (guint d = 0; d < point->n_disks; d++)
        if (point->disks[d].damaged || chains->links[place][d].damage_ns > point->time_ns)
            return FALSE;
    return TRUE;
}

void
vmb_restorable_points(const GPtrArray *summaries, gboolean *restorable)
{
    guint n = summaries->len;
    g_autoptr(GHashTable) places = g_hash_table_new(g_str_hash, g_str_equal);
    Chains chains = {summaries, places, g_new0(Link *, n + 1)};
    for (guint i = 0; i < n; i++) {
        g_hash_table_insert(places, (gpointer)((VmbSummary *)summaries->pdata[i])->id,
                            GUINT_TO_POINTER(i + 1));
        if (((VmbSummary *)summaries->pdata[i])->damage == NULL)
            follow(&chains, i);
        restorable[i] = is_restorable(&chains, i);
    }
    for (guint i = 0; i < n; i++)
        g_free(chains.links[i]);
    g_free(chains.links);
}
