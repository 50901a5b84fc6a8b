/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making a repository: whole and on disk, or nothing. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/text.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

/* What was made so far; freeing it takes that away again unless it is done. */
typedef struct {
    char *path;
    int parent_fd, fd;
    gboolean made;   /* the directory itself */
    mode_t old_mode; /* of a directory that was there */
    gboolean filled; /* at least in part: its content is ours */
    gboolean done;
} Making;

static void
making_free(Making *making)
{
    if (making->filled && !making->done) {
        unlinkat(making->fd, VMB_LAYOUT_REPOSITORY, 0);
        unlinkat(making->fd, VMB_LAYOUT_DOMAINS, AT_REMOVEDIR);
        unlinkat(making->fd, VMB_LAYOUT_BY_NAME, AT_REMOVEDIR);
        if (!making->made && fchmod(making->fd, making->old_mode) < 0)
            vmb_debug("cannot restore the mode of %s", making->path);
    }
    if (making->made && !making->done)
        rmdir(making->path);
    vmb_fd_clear(&making->fd);
    vmb_fd_clear(&making->parent_fd);
    g_free(making->path);
    g_free(making);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Making, making_free)

static gboolean
open_parent(Making *making, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(making->path);
    making->parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (making->parent_fd >= 0)
        return TRUE;
    if (errno == ENOENT)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s does not exist: make it first with `mkdir -p %s`", parent, parent);
    return vmb_error_errno(error, errno, "cannot open %s", parent);
}

static gboolean
make_directory(Making *making, GError **error)
{
    struct stat st;
    if (mkdir(making->path, 0700) == 0)
        making->made = TRUE;
    else if (errno != EEXIST)
        return vmb_error_errno(error, errno, "cannot make the directory %s", making->path);
    int fd = open(making->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOTDIR)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "%s is there already and is no directory: nothing was changed; choose "
                             "another path",
                             making->path);
    if (fd < 0)
        return vmb_error_errno(error, errno, "cannot open %s", making->path);
    if (fstat(fd, &st) < 0) {
        close(fd);
        return vmb_error_errno(error, errno, "cannot stat %s", making->path);
    }
    making->old_mode = st.st_mode & 07777;
    making->fd = fd;
    return TRUE;
}

static gboolean
is_empty_directory(int dir_fd, const char *name)
{
    g_auto(VmbFd) fd = vmb_fs_open_beneath(dir_fd, name, O_RDONLY | O_DIRECTORY, 0, "", NULL);
    g_autoptr(GPtrArray) names = fd >= 0 ? vmb_directory_list(fd, NULL) : NULL;
    return names != NULL && names->len == 0;
}

/* What an init that was killed leaves behind, and what mkfs puts into a new filesystem. */
static gboolean
may_be_there(int dir_fd, const char *name)
{
    if (strcmp(name, "lost+found") == 0 || strcmp(name, "." VMB_LAYOUT_REPOSITORY ".new") == 0 ||
        strcmp(name, VMB_REPOSITORY_PROBE) == 0)
        return TRUE;
    return (strcmp(name, VMB_LAYOUT_DOMAINS) == 0 || strcmp(name, VMB_LAYOUT_BY_NAME) == 0) &&
           is_empty_directory(dir_fd, name);
}

static gboolean
check_empty(const Making *making, GError **error)
{
    g_autoptr(GPtrArray) names = vmb_directory_list(making->fd, error);
    if (names == NULL)
        return FALSE;
    if (faccessat(making->fd, VMB_LAYOUT_REPOSITORY, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "%s is a repository already: nothing was changed; use it as it is",
                             making->path);
    for (guint i = 0; i < names->len; i++)
        if (!may_be_there(making->fd, names->pdata[i]))
            return vmb_error_set(
                error, VMB_ERROR_NO_REPOSITORY,
                "%s is not empty (it holds '%s'): nothing was changed; choose a new "
                "or an empty directory",
                making->path, (const char *)names->pdata[i]);
    return TRUE;
}

char *
vmb_repository_new_id(GError **error)
{
    guint8 random[16];
    if (getrandom(random, sizeof random, 0) == (ssize_t)sizeof random)
        return vmb_text_hex(random, sizeof random);
    vmb_error_errno(error, errno, "cannot get random numbers");
    return NULL;
}

static gboolean
write_metadata(const Making *making, GError **error)
{
    g_autoptr(VmbJson) object = json_object_new_object();
    g_autofree char *created = vmb_units_format_time(vmb_units_now());
    g_autoptr(VmbPlace) place = vmb_place_look(making->fd, making->path, error);
    g_autofree char *id = vmb_repository_new_id(error);
    if (place == NULL || id == NULL)
        return FALSE;
    vmb_json_add_uint(object, "format", VMB_REPOSITORY_FORMAT);
    vmb_json_add_string(object, "id", id);
    vmb_json_add_string(object, "created", created);
    vmb_place_write(place, object);
    vmb_json_add(object, "defaults", json_object_new_object());
    return vmb_sealed_write(making->fd, VMB_LAYOUT_REPOSITORY, object, error);
}

static gboolean
fill(Making *making, GError **error)
{
    if (fchmod(making->fd, 0700) < 0)
        return vmb_error_errno(error, errno, "cannot make %s private: run as its owner",
                               making->path);
    if (!vmb_directory_make(making->fd, VMB_LAYOUT_DOMAINS, NULL, error) ||
        !vmb_directory_make(making->fd, VMB_LAYOUT_BY_NAME, NULL, error) ||
        !write_metadata(making, error)) {
        g_prefix_error(error, "%s: ", making->path);
        return FALSE;
    }
    return vmb_fault_point("init-repository-written", error) &&
           vmb_fs_sync(making->fd, making->path, error) &&
           vmb_fs_sync(making->parent_fd, "its parent directory", error);
}

gboolean
vmb_repository_init(const char *path, GError **error)
{
    g_autoptr(Making) making = g_new0(Making, 1);
    making->fd = making->parent_fd = -1;
    making->path = g_canonicalize_filename(path, NULL);
    if (!open_parent(making, error) || !make_directory(making, error))
        return FALSE;
    /* Of two at the same time the second one is refused; some filesystems cannot lock a directory,
     * and there the look at what it holds has to do. */
    if (!vmb_repository_lock_root(making->fd))
        return vmb_error_set(error, VMB_ERROR_LOCKED,
                             "%s: another process makes a repository there at this moment", path);
    /* An odd umask would keep its owner out of it; filesystems that cannot do that are refused next. */
    if (making->made && fchmod(making->fd, 0700) < 0)
        vmb_debug("cannot make %s private: %s", making->path, g_strerror(errno));
    if (!check_empty(making, error) || !vmb_repository_probe(making->fd, making->path, error))
        return FALSE;
    making->filled = TRUE;
    making->done = fill(making, error);
    return making->done;
}
