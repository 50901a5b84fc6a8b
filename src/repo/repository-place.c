/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a repository may be written: is it the original, at its place? */
#include "repo/layout.h"
#include "repo/directory.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

gboolean
vmb_repository_lock_root(int root_fd)
{
    return flock(root_fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

static gboolean
write_place(VmbRepository *repository, const VmbPlace *now, GError **error)
{
    g_auto(VmbFd) root = openat(repository->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return vmb_error_errno(error, errno, "cannot open %s once more", repository->path);
    /* Another run does the same now; or nobody could tell, and then it is not worth the risk. */
    if (flock(root, LOCK_EX | LOCK_NB) < 0)
        return TRUE;
    VmbPlace place = *now;
    place.hosts = repository->place->hosts;
    vmb_place_write(&place, repository->metadata);
    json_object_object_del(repository->metadata, "digest");
    return vmb_sealed_write(root, VMB_LAYOUT_REPOSITORY, repository->metadata, error);
}

/* What was moved while its filesystem stayed mounted can be told from a copy now, but perhaps not
 * after the next boot. */
static void
refresh(VmbRepository *repository, const VmbPlace *now)
{
    g_autoptr(GError) error = NULL;
    if (vmb_place_is_outdated(repository->place, now) && !write_place(repository, now, &error))
        vmb_info("the place of %s could not be recorded anew: %s", repository->path,
                 error->message);
}

static gboolean
judge(VmbRepository *repository, const VmbPlace *now, GError **error)
{
    const char *path = repository->path;
    const char *before = repository->place->path;
    switch (vmb_place_judge(repository->place, now)) {
    case VMB_PLACE_SAME:
        return TRUE;
    case VMB_PLACE_WITHOUT_LOCKS:
        return vmb_error_set(
            error, VMB_ERROR_FAILED,
            "%s is mounted with '%s', so that other hosts do not see the locks of this one, and two runs "
            "could drop what the other one needs: nothing was changed, and it can only be read. "
            "Mount it without that option", path, now->local_locks);
    case VMB_PLACE_OTHER_HOST:
        return vmb_error_set(
            error, VMB_ERROR_NO_REPOSITORY,
            "%s is on a disk that belonged to another host when the repository was made, so it may "
            "be a copy of that one, or on a network filesystem that was mounted without locks between "
            "hosts: nothing was changed, and it can only be read. If the disk "
            "itself was given to this host: `vmbackup -r %s init --moved`. If it is a copy that is "
            "to go on beside the original: `vmbackup -r %s init --adopt`",
            path, path, path);
    case VMB_PLACE_COPY:
        return vmb_error_set(
            error, VMB_ERROR_NO_REPOSITORY,
            "%s is a copy of the repository that was made at %s: nothing was changed, and it can "
            "only be read, for two repositories with one identity would delete each other's "
            "checkpoints. If it is to go on beside the original: `vmbackup -r %s init --adopt`. If "
            "it is the repository itself, moved here for good: `vmbackup -r %s init --moved`",
            path, before != NULL ? before : "another place", path, path);
    }
    g_assert_not_reached();
}

gboolean
vmb_repository_is_at_home(VmbRepository *repository, GError **error)
{
    g_autoptr(VmbPlace) now = vmb_place_look(repository->fd, repository->path, error);
    return now != NULL && judge(repository, now, error);
}

gboolean
vmb_repository_check_place(VmbRepository *repository, GError **error)
{
    g_autoptr(VmbPlace) now = vmb_place_look(repository->fd, repository->path, error);
    if (now == NULL || !judge(repository, now, error))
        return FALSE;
    refresh(repository, now);
    return TRUE;
}
