/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening a repository, and what can be wrong with it. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

int
vmb_repository_open_root(const char *path, char **absolute, GError **error)
{
    *absolute = g_canonicalize_filename(path, NULL);
    int fd = open(*absolute, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int err = errno;
    if (err == ENOENT)
        vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                      "%s does not exist: give another path, or make a repository there with "
                      "`vmbackup -r %s init`",
                      *absolute, *absolute);
    else if (err == ENOTDIR)
        vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                      "%s is no directory, so no repository: give the path of one", *absolute);
    else if (err == EACCES || err == EPERM)
        vmb_directory_forbidden(*absolute, err, error);
    else
        vmb_error_errno(error, err, "cannot open the repository %s", *absolute);
    return -1;
}

/* A directory without repository.json: somebody's directory, or a repository that lost it? */
static gboolean
refuse_without_metadata(int fd, const char *path, GError **error)
{
    g_autoptr(GPtrArray) names = vmb_directory_list(fd, NULL);
    if (names == NULL || names->len == 0)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "%s is an empty directory, not yet a repository: make it one with "
                             "`vmbackup -r %s init`",
                             path, path);
    g_auto(VmbFd) domains =
        vmb_fs_open_beneath(fd, VMB_LAYOUT_DOMAINS, O_RDONLY | O_DIRECTORY, 0, path, NULL);
    g_autoptr(GPtrArray) uuids = domains >= 0 ? vmb_directory_list(domains, NULL) : NULL;
    if (uuids != NULL && uuids->len > 0 && vmb_text_is_uuid(uuids->pdata[0]))
        return vmb_error_set(
            error, VMB_ERROR_DAMAGE,
            "%s has lost its " VMB_LAYOUT_REPOSITORY ". The points below " VMB_LAYOUT_DOMAINS
            "/ do not depend on it: put it back from a copy, or "
            "make a new repository elsewhere and move the content of " VMB_LAYOUT_DOMAINS "/ there",
            path);
    return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                         "%s is a directory but no repository (it has no " VMB_LAYOUT_REPOSITORY
                         "): give the path of one, or make one in a new directory with "
                         "`vmbackup -r PATH init`",
                         path);
}

static gboolean
is_id(const char *text)
{
    guint8 id[16];
    return vmb_text_unhex(text, id, sizeof id);
}

static gboolean
read_metadata(VmbRepository *repository, GError **error)
{
    g_autoptr(GError) local = NULL;
    const char *id = NULL;
    g_autoptr(VmbJson) object = vmb_sealed_read(repository->fd, VMB_LAYOUT_REPOSITORY,
                                                VMB_REPOSITORY_FORMAT, repository->path, &local);
    if (object == NULL && local == NULL)
        return refuse_without_metadata(repository->fd, repository->path, error);
    if (object != NULL && vmb_json_get_string(object, "id", &id, &local) && !is_id(id))
        vmb_error_set(&local, VMB_ERROR_DAMAGE, "%s/" VMB_LAYOUT_REPOSITORY ": '%s' is no identity",
                      repository->path, id);
    if (object != NULL && local == NULL)
        repository->place = vmb_place_read(object, &local);
    if (local != NULL && local->code == VMB_ERROR_DAMAGE)
        return vmb_error_set(
            error, VMB_ERROR_DAMAGE,
            "%s. The points below " VMB_LAYOUT_DOMAINS "/ are not touched by that: "
            "put the file back from a copy, or make a new repository elsewhere and "
            "move the content of " VMB_LAYOUT_DOMAINS "/ there",
            local->message);
    if (local != NULL && local->code == VMB_ERROR_FAILED &&
        faccessat(repository->fd, VMB_LAYOUT_REPOSITORY, R_OK, AT_EACCESS) < 0 && errno == EACCES)
        return vmb_directory_forbidden(repository->path, EACCES, error);
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    repository->id = g_strdup(id);
    repository->metadata = g_steal_pointer(&object);
    return TRUE;
}

VmbRepository *
vmb_repository_open(const char *path, GError **error)
{
    g_autoptr(VmbRepository) repository = g_new0(VmbRepository, 1);
    repository->fd = vmb_repository_open_root(path, &repository->path, error);
    if (repository->fd < 0 || !read_metadata(repository, error))
        return NULL;
    return g_steal_pointer(&repository);
}

void
vmb_repository_free(VmbRepository *repository)
{
    if (repository == NULL)
        return;
    vmb_fd_clear(&repository->fd);
    g_clear_pointer(&repository->place, vmb_place_free);
    g_clear_pointer(&repository->metadata, json_object_put);
    g_free(repository->path);
    g_free(repository->id);
    g_free(repository);
}

const char *
vmb_repository_path(VmbRepository *repository)
{
    return repository->path;
}

const char *
vmb_repository_id(VmbRepository *repository)
{
    return repository->id;
}

const char *
vmb_repository_adopted_from(VmbRepository *repository)
{
    VmbJson *value = NULL;
    return json_object_object_get_ex(repository->metadata, "adopted_from", &value) &&
                   json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : NULL;
}

/* From here on older versions, which do not know what is about to be written, refuse the repository. What is
 * there already stays as it is. */
static gboolean
upgrade(VmbRepository *repository, GError **error)
{
    guint64 format = 0;
    if (!vmb_json_get_uint(repository->metadata, "format", &format, error))
        return FALSE;
    if (format == VMB_REPOSITORY_FORMAT)
        return TRUE;
    vmb_json_add_uint(repository->metadata, "format", VMB_REPOSITORY_FORMAT);
    json_object_object_del(repository->metadata, "digest");
    if (!vmb_sealed_write(repository->fd, VMB_LAYOUT_REPOSITORY, repository->metadata, error)) {
        g_prefix_error(error, "%s: ", repository->path);
        return FALSE;
    }
    vmb_notice("%s was of format %" G_GUINT64_FORMAT " and is of format %d now: older versions of "
               "vmbackup refuse it", repository->path, format, VMB_REPOSITORY_FORMAT);
    return vmb_fault_point("repository-upgraded", error);
}

gboolean
vmb_repository_check_writable(VmbRepository *repository, GError **error)
{
    g_autofree char *name = g_strdup_printf(".write-test-%d-%08x", (int)getpid(), g_random_int());
    g_autofree char *label = vmb_layout_path(repository->path, NULL, NULL);
    g_auto(VmbFd) domains = vmb_fs_open_beneath(repository->fd, VMB_LAYOUT_DOMAINS,
                                                O_RDONLY | O_DIRECTORY, 0, repository->path, error);
    if (domains < 0 || !vmb_repository_check_place(repository, error))
        return FALSE;
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(domains, name, O_WRONLY | O_CREAT | O_EXCL, 0600, label, NULL);
    if (fd >= 0 && unlinkat(domains, name, 0) < 0)
        return vmb_error_errno(error, errno, "cannot remove %s/%s", label, name);
    if (fd >= 0)
        return upgrade(repository, error);
    int err = errno;
    if (err == EACCES || err == EPERM)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s may not be written: %s. Nothing was changed; run as its owner",
                             label, g_strerror(err));
    if (err == EROFS)
        return vmb_error_set(
            error, VMB_ERROR_FAILED,
            "%s is on a filesystem that is mounted read-only. Nothing was changed; "
            "mount it for writing",
            label);
    return vmb_error_errno(error, err, "%s cannot be written, nothing was changed", label);
}

GPtrArray *
vmb_repository_domains(VmbRepository *repository, GError **error)
{
    g_autoptr(GPtrArray) uuids = g_ptr_array_new_with_free_func(g_free);
    g_auto(VmbFd) fd = vmb_fs_open_beneath(repository->fd, VMB_LAYOUT_DOMAINS,
                                           O_RDONLY | O_DIRECTORY, 0, repository->path, error);
    g_autoptr(GPtrArray) names = fd >= 0 ? vmb_directory_list(fd, error) : NULL;
    if (names == NULL)
        return NULL;
    for (guint i = 0; i < names->len; i++) {
        const char *name = names->pdata[i];
        struct stat st;
        if (vmb_text_is_uuid(name) && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(st.st_mode))
            g_ptr_array_add(uuids, g_strdup(name));
        else if (!g_str_has_prefix(name, ".write-test-"))
            vmb_warning("%s/" VMB_LAYOUT_DOMAINS "/%s is no domain's directory: ignored",
                        repository->path, name);
    }
    return g_steal_pointer(&uuids);
}
