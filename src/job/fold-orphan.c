/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checkpoints that only a point names which is about to go: somebody must still know of them. */
#include "job/fold-orphan.h"
#include "repo/journal.h"
#include "repo/layout.h"
#include "repo/lock.h"
#include "util/error.h"
#include "util/fault.h"

#include <string.h>

/* A run that has published its point deletes the checkpoints of the points before it next. If it
 * was killed in between, only these points know their names. */
static gboolean
has_published_run(VmbRepoDomain *domain, const GPtrArray *points)
{
    g_autoptr(VmbJournal) journal = NULL;
    if (!vmb_journal_read(vmb_repo_domain_fd(domain), &journal, NULL))
        return TRUE;
    for (guint i = 0; journal != NULL && journal->point != NULL && i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, journal->point) == 0)
            return TRUE;
    return FALSE;
}

GHashTable *
vmb_fold_live_checkpoints(VmbRepoDomain *domain, const GPtrArray *points)
{
    GHashTable *live = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) holders = g_hash_table_new(g_str_hash, g_str_equal);
    guint limit = has_published_run(domain, points) ? 2 : 1;
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
            const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
            guint newer = GPOINTER_TO_UINT(g_hash_table_lookup(holders, disk->id));
            g_hash_table_insert(holders, disk->id, GUINT_TO_POINTER(newer + 1));
            if (newer < limit && disk->checkpoint != NULL && !point->foreign)
                g_hash_table_add(live, g_strdup(disk->checkpoint));
        }
    }
    return live;
}

static gboolean
is_named_elsewhere(const GPtrArray *points, const VmbPoint *point, const char *checkpoint)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *other = points->pdata[i];
        for (guint d = 0;
             other != point && other->manifest != NULL && d < other->manifest->disks->len; d++)
            if (g_strcmp0(((VmbManifestDisk *)other->manifest->disks->pdata[d])->checkpoint,
                          checkpoint) == 0)
                return TRUE;
    }
    return FALSE;
}

/* Names that would be forgotten. */
static GPtrArray *
orphans(GHashTable *live, const GPtrArray *points, const VmbPoint *point)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (guint d = 0; !point->foreign && d < point->manifest->disks->len; d++) {
        const VmbManifestDisk *disk = point->manifest->disks->pdata[d];
        if (disk->checkpoint != NULL && g_hash_table_contains(live, disk->checkpoint) &&
            !is_named_elsewhere(points, point, disk->checkpoint) &&
            !g_ptr_array_find_with_equal_func(names, disk->checkpoint, g_str_equal, NULL))
            g_ptr_array_add(names, g_strdup(disk->checkpoint));
    }
    return names;
}

static gboolean
add_to_journal(int domain_fd, GPtrArray *names, GError **error)
{
    g_autoptr(VmbJournal) journal = NULL;
    if (!vmb_journal_read(domain_fd, &journal, error))
        return FALSE;
    if (journal == NULL)
        journal = g_new0(VmbJournal, 1);
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        if (!g_ptr_array_find_with_equal_func(names, journal->stale[i], g_str_equal, NULL))
            g_ptr_array_add(names, g_strdup(journal->stale[i]));
    g_strfreev(journal->stale);
    g_ptr_array_add(names, NULL);
    g_ptr_array_set_free_func(names, NULL);
    journal->stale = g_memdup2(names->pdata, names->len * sizeof(char *));
    return vmb_journal_write(domain_fd, journal, error);
}

gboolean
vmb_fold_note_orphans(VmbRepoDomain *domain, GHashTable *live, const GPtrArray *points,
                      const VmbPoint *point, guint *n, GError **error)
{
    int fd = vmb_repo_domain_fd(domain);
    *n = 0;
    if (point->manifest == NULL)
        return TRUE;
    g_autoptr(GPtrArray) names = orphans(live, points, point);
    guint found = names->len;
    if (found == 0)
        return TRUE;
    g_autofree char *what = g_strdup_printf("domain %s in the repository", point->manifest->domain);
    g_autoptr(VmbLock) lock = vmb_lock_take(fd, VMB_LAYOUT_LOCK, TRUE, 0, what, NULL, error);
    if (lock == NULL || !add_to_journal(fd, names, error) ||
        !vmb_fault_point("drop-remembered", error))
        return FALSE;
    *n = found;
    return TRUE;
}
