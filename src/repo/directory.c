/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories and small sealed documents inside a repository. */
#include "repo/directory.h"
#include "util/error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>

#define SEALED_MAX_BYTES (1024 * 1024)

gboolean
vmb_directory_make(int dir_fd, const char *name, gboolean *made, GError **error)
{
    if (made != NULL)
        *made = FALSE;
    if (mkdirat(dir_fd, name, 0700) < 0)
        return errno == EEXIST ||
               vmb_error_errno(error, errno, "cannot make the directory %s", name);
    if (made != NULL)
        *made = TRUE;
    if (fchmodat(dir_fd, name, 0700, 0) < 0)
        return vmb_error_errno(error, errno, "cannot set the mode of the directory %s", name);
    return TRUE;
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *
vmb_directory_list(int dir_fd, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    if (dir == NULL) {
        vmb_error_errno(error, errno, "cannot read a directory of the repository");
        if (copy >= 0)
            close(copy);
        return NULL;
    }
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL; errno = 0)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            g_ptr_array_add(names, g_strdup(entry->d_name));
    int err = errno;
    closedir(dir);
    if (err != 0) {
        vmb_error_errno(error, err, "cannot read a directory of the repository");
        return NULL;
    }
    g_ptr_array_sort(names, compare_names);
    return g_steal_pointer(&names);
}

gboolean
vmb_directory_forbidden(const char *path, int err, GError **error)
{
    struct stat st;
    char buffer[4096];
    struct passwd entry, *found = NULL;
    g_autofree char *owner = NULL;
    if (stat(path, &st) == 0) {
        if (getpwuid_r(st.st_uid, &entry, buffer, sizeof buffer, &found) == 0 && found != NULL)
            owner = g_strdup(found->pw_name);
        else
            owner = g_strdup_printf("user number %u", (guint)st.st_uid);
    }
    return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY, "%s: %s: run as its owner%s%s", path,
                         g_strerror(err), owner != NULL ? ", " : "", owner != NULL ? owner : "");
}

gboolean
vmb_directory_read(int dir_fd, const char *name, gsize limit, const char *label, char **content,
                   gsize *length, int *err, GError **error)
{
    struct stat st;
    g_auto(VmbFd) fd = vmb_fs_open_beneath(dir_fd, name, O_RDONLY | O_NONBLOCK, 0, label, error);
    if (err != NULL)
        *err = fd < 0 ? errno : 0;
    if (fd < 0)
        return FALSE;
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s/%s: cannot stat it", label, name);
    if (!S_ISREG(st.st_mode) || (guint64)st.st_size > limit)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s/%s is no regular file of at most %zu bytes", label, name, limit);
    g_autofree char *text = g_malloc((gsize)st.st_size + 1);
    g_autofree char *path = g_build_filename(label, name, NULL);
    if (!vmb_fs_pread(fd, text, (gsize)st.st_size, 0, path, error))
        return FALSE;
    text[st.st_size] = '\0';
    *content = g_steal_pointer(&text);
    *length = (gsize)st.st_size;
    return TRUE;
}

static gboolean
check_format(VmbJson *object, guint64 newest, GError **error)
{
    guint64 format = 0;
    if (!vmb_json_get_uint(object, "format", &format, error))
        return FALSE;
    if (format > newest)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "made by a newer version of vmbackup (format %" G_GUINT64_FORMAT
                             ", this version reads up to %" G_GUINT64_FORMAT
                             "): nothing was changed; use that version",
                             format, newest);
    return format > 0 || vmb_error_set(error, VMB_ERROR_DAMAGE, "format 0");
}

VmbJson *
vmb_sealed_read(int dir_fd, const char *name, guint64 format, const char *label, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *text = NULL;
    gsize length = 0;
    int err = 0;
    if (!vmb_directory_read(dir_fd, name, SEALED_MAX_BYTES, label, &text, &length, &err, &local)) {
        if (err == ELOOP)
            local->code = VMB_ERROR_DAMAGE;
        if (err != ENOENT)
            g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    g_autoptr(VmbJson) object = vmb_json_unseal(text, length, error);
    if (object == NULL || !check_format(object, format, error)) {
        g_prefix_error(error, "%s/%s: ", label, name);
        return NULL;
    }
    return g_steal_pointer(&object);
}

gboolean
vmb_sealed_write(int dir_fd, const char *name, VmbJson *object, GError **error)
{
    g_autofree char *text = vmb_json_seal(object);
    return vmb_fs_write_file(dir_fd, name, text, strlen(text), error);
}
