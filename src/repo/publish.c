/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From staging/ to points/: complete, on disk, then visible, then known to be so. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "repo/state-json.h"
#include "repo/transaction-private.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/parallel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define SYNC_THREADS 4
#define FILES_OF_EVERY_POINT 3 /* manifest, state, lock */

/* The text, after a look with the eyes of those who will read it. */
static char *
manifest_text(const VmbTransaction *transaction, const VmbManifest *manifest, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *text = vmb_manifest_serialise(manifest);
    g_autoptr(VmbManifest) again = vmb_manifest_parse(text, strlen(text), &local);
    if (again == NULL) {
        vmb_error_set(error, VMB_ERROR_FAILED,
                      "the manifest would not be readable (%s): the point is not published",
                      local->message);
        return NULL;
    }
    if (strcmp(again->uuid, transaction->uuid) != 0) {
        vmb_error_set(error, VMB_ERROR_FAILED, "the point of %s is none of %s", again->uuid,
                      transaction->uuid);
        return NULL;
    }
    return g_steal_pointer(&text);
}

static gboolean
write_metadata(VmbTransaction *transaction, const VmbManifest *manifest, GError **error)
{
    g_autofree char *text = manifest_text(transaction, manifest, error);
    if (text == NULL)
        return FALSE;
    g_autofree char *state_text = vmb_point_state_text(NULL, &transaction->state);
    return vmb_transaction_write(transaction, VMB_LAYOUT_STATE, state_text, strlen(state_text),
                                 error) &&
           vmb_transaction_write(transaction, VMB_LAYOUT_LOCK, "", 0, error) &&
           vmb_transaction_write(transaction, VMB_LAYOUT_MANIFEST, text, strlen(text), error);
}

static gboolean
check_staged(VmbTransaction *transaction, const char *name, guint64 size, GError **error)
{
    struct stat st;
    if (fstatat(transaction->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return vmb_error_errno(error, errno, "%s/%s", transaction->label, name);
    if (!S_ISREG(st.st_mode) || (guint64)st.st_size != size)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s/%s has %" G_GUINT64_FORMAT " bytes, but %" G_GUINT64_FORMAT
                             " were written: the point is not published",
                             transaction->label, name, (guint64)st.st_size, size);
    return TRUE;
}

/* Just the files that the manifest names are there, at their sizes. */
static gboolean
check_complete(VmbTransaction *transaction, const VmbManifest *manifest, guint n_present,
               GError **error)
{
    guint expected = FILES_OF_EVERY_POINT + 2 * manifest->disks->len + manifest->files->len;
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (!check_staged(transaction, disk->image, disk->image_size, error) ||
            !check_staged(transaction, disk->digests, disk->digests_size, error))
            return FALSE;
    }
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = manifest->files->pdata[i];
        if (!check_staged(transaction, file->name, file->size, error))
            return FALSE;
    }
    return n_present == expected ||
           vmb_error_set(error, VMB_ERROR_FAILED,
                         "%s holds %u files instead of %u: the point is not published",
                         transaction->label, n_present, expected);
}

typedef struct {
    const char *label; /* of the directory */
    GMutex mutex;
    GError *error; /* the first one, or one that says more */
} Syncing;

/* A filesystem that ran out of space may fail in other ways as well. */
static gboolean
says_more(const GError *error, const GError *than)
{
    return than == NULL || (g_error_matches(error, VMB_ERROR, VMB_ERROR_NO_SPACE) &&
                            !g_error_matches(than, VMB_ERROR, VMB_ERROR_NO_SPACE));
}

static void
sync_one(gpointer item, gpointer data)
{
    const VmbStagedFile *file = item;
    Syncing *syncing = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *label = g_build_filename(syncing->label, file->name, NULL);
    if (vmb_fs_sync(file->fd, label, &error))
        return;
    g_mutex_lock(&syncing->mutex);
    if (says_more(error, syncing->error)) {
        g_clear_error(&syncing->error);
        syncing->error = g_steal_pointer(&error);
    }
    g_mutex_unlock(&syncing->mutex);
}

/* All files, a few at a time: a disk or server that can, works on them side by side. */
static gboolean
sync_files(VmbTransaction *transaction, GError **error)
{
    Syncing syncing = {.label = transaction->label};
    g_mutex_init(&syncing.mutex);
    vmb_parallel_run(transaction->files, SYNC_THREADS, sync_one, &syncing);
    g_mutex_clear(&syncing.mutex);
    if (syncing.error == NULL)
        return TRUE;
    g_propagate_error(error, syncing.error);
    return FALSE;
}

static gboolean
stage_all(VmbTransaction *transaction, const VmbManifest *manifest, GError **error)
{
    if (!write_metadata(transaction, manifest, error) ||
        !vmb_fault_point("manifest-written", error))
        return FALSE;
    g_autoptr(GPtrArray) names = vmb_directory_list(transaction->fd, error);
    return names != NULL && check_complete(transaction, manifest, names->len, error) &&
           sync_files(transaction, error) &&
           vmb_fs_sync(transaction->fd, transaction->label, error) &&
           vmb_fault_point("staging-synced", error);
}

/* rename() would replace an empty directory of that name; not all filesystems can be asked not to.
 */
static gboolean
move(VmbTransaction *transaction, int points_fd, const char *id, GError **error)
{
    int domain_fd = transaction->domain_fd;
    int result = renameat2(domain_fd, VMB_LAYOUT_STAGING, points_fd, id, RENAME_NOREPLACE);
    if (result < 0 && (errno == EINVAL || errno == ENOSYS)) {
        struct stat st;
        if (fstatat(points_fd, id, &st, AT_SYMLINK_NOFOLLOW) == 0)
            errno = EEXIST;
        else
            result = renameat(domain_fd, VMB_LAYOUT_STAGING, points_fd, id);
    }
    if (result == 0)
        return TRUE;
    return vmb_error_errno(error, errno, "%s cannot become the point %s, which is not published",
                           transaction->label, id);
}

gboolean
vmb_transaction_publish(VmbTransaction *transaction, const VmbManifest *manifest,
                        VmbPublished *published, GError **error)
{
    *published = VMB_UNPUBLISHED;
    g_auto(VmbFd) points = vmb_fs_open_beneath(transaction->domain_fd, VMB_LAYOUT_POINTS,
                                               O_RDONLY | O_DIRECTORY, 0, transaction->uuid, error);
    if (points < 0 || !stage_all(transaction, manifest, error) ||
        !move(transaction, points, manifest->id, error))
        return FALSE;
    *published = VMB_VISIBLE;
    transaction->moved = TRUE;
    if (!vmb_fault_point("published", error) || !vmb_fs_sync(points, VMB_LAYOUT_POINTS, error) ||
        !vmb_fs_sync(transaction->domain_fd, transaction->uuid, error))
        return FALSE;
    *published = VMB_DURABLE;
    return vmb_fault_point("points-synced", error);
}
