/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The published points of a domain: one look at each, in their order. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

#define SPARE_DESCRIPTORS 256

void
vmb_point_free(VmbPoint *point)
{
    if (point == NULL)
        return;
    vmb_fd_clear(&point->dir_fd);
    vmb_manifest_free(point->manifest);
    g_clear_error(&point->damage);
    g_free(point->id);
    g_free(point->uuid);
    g_free(point);
}

char *
vmb_point_name(const VmbPoint *point)
{
    return g_strdup_printf("%s/%s", point->manifest != NULL ? point->manifest->domain : point->uuid,
                           point->id);
}

/* -1 and *@absent if there are no points yet. */
static int
open_points(VmbRepoDomain *domain, gboolean *absent, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *label = vmb_layout_path(domain->repository_path, domain->uuid, NULL);
    int fd = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS, O_RDONLY | O_DIRECTORY, 0, label,
                                 &local);
    *absent = fd < 0 && errno == ENOENT;
    if (fd < 0 && !*absent)
        g_propagate_error(error, g_steal_pointer(&local));
    return fd;
}

GPtrArray *
vmb_repo_domain_point_ids(VmbRepoDomain *domain, gboolean complain, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    gboolean absent = FALSE;
    g_auto(VmbFd) fd = open_points(domain, &absent, error);
    if (absent)
        return g_steal_pointer(&ids);
    g_autoptr(GPtrArray) names = fd >= 0 ? vmb_directory_list(fd, error) : NULL;
    if (names == NULL)
        return NULL;
    for (guint i = 0; i < names->len; i++) {
        if (vmb_layout_is_point_id(names->pdata[i]))
            g_ptr_array_add(ids, g_strdup(names->pdata[i]));
        else if (complain)
            vmb_warning("%s/" VMB_LAYOUT_DOMAINS "/%s/" VMB_LAYOUT_POINTS
                        "/%s is no point: ignored",
                        domain->repository_path, domain->uuid, (const char *)names->pdata[i]);
    }
    return g_steal_pointer(&ids);
}

/* What says nothing about the point, but about this process or its user. */
static gboolean
is_environment(int err)
{
    return err == EACCES || err == EPERM || err == EMFILE || err == ENFILE || err == ENOMEM;
}

static gboolean
check_place(const VmbPoint *point, GError **error)
{
    if (strcmp(point->manifest->id, point->id) != 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "its manifest is that of the point %s",
                             point->manifest->id);
    if (strcmp(point->manifest->uuid, point->uuid) != 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "its manifest is that of the domain %s",
                             point->manifest->uuid);
    return TRUE;
}

/* Fills manifest or damage. FALSE if it cannot be read for a reason that is not the point's. */
static gboolean
read_manifest(VmbPoint *point, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *text = NULL;
    g_autofree char *label = vmb_point_name(point);
    gsize length = 0;
    int err = 0;
    if (!vmb_directory_read(point->dir_fd, VMB_LAYOUT_MANIFEST, VMB_MANIFEST_MAX_BYTES, label,
                            &text, &length, &err, &local)) {
        if (is_environment(err)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        local->code = VMB_ERROR_DAMAGE;
        point->damage = g_steal_pointer(&local);
        return TRUE;
    }
    point->manifest = vmb_manifest_parse(text, length, &local);
    if (point->manifest != NULL && !check_place(point, &local))
        g_clear_pointer(&point->manifest, vmb_manifest_free);
    if (local != NULL) {
        point->damage = g_steal_pointer(&local);
        g_prefix_error(&point->damage, "%s/" VMB_LAYOUT_MANIFEST ": ", label);
    }
    return TRUE;
}

static VmbPoint *
read_point(VmbRepoDomain *domain, int points_fd, const char *id, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbPoint) point = g_new0(VmbPoint, 1);
    point->id = g_strdup(id);
    point->uuid = g_strdup(domain->uuid);
    point->dir_fd =
        vmb_fs_open_beneath(points_fd, id, O_RDONLY | O_DIRECTORY, 0, domain->uuid, &local);
    if (point->dir_fd >= 0)
        return read_manifest(point, error) ? g_steal_pointer(&point) : NULL;
    if (errno == ENOENT) /* removed since the directory was read */
        return NULL;
    if (errno == ENOTDIR || errno == ELOOP) {
        vmb_warning("%s/%s is no directory, so no point: ignored", domain->uuid, id);
        return NULL;
    }
    if (is_environment(errno)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    local->code = VMB_ERROR_DAMAGE;
    point->damage = g_steal_pointer(&local);
    return g_steal_pointer(&point);
}

VmbPoint *
vmb_repo_domain_read_point(VmbRepoDomain *domain, const char *id, GError **error)
{
    gboolean absent = FALSE;
    g_auto(VmbFd) fd = open_points(domain, &absent, error);
    return fd >= 0 ? read_point(domain, fd, id, error) : NULL;
}

static int
compare_points(gconstpointer a, gconstpointer b)
{
    const VmbPoint *p = *(const VmbPoint *const *)a, *q = *(const VmbPoint *const *)b;
    if ((p->manifest == NULL) != (q->manifest == NULL))
        return p->manifest == NULL ? 1 : -1;
    if (p->manifest != NULL && p->manifest->sequence != q->manifest->sequence)
        return p->manifest->sequence < q->manifest->sequence ? -1 : 1;
    return strcmp(p->id, q->id);
}

/* Each point holds its directory open; the soft limit of descriptors is often 1024. */
static void
make_room(guint n_points)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)n_points + SPARE_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = MIN(2 * wanted, limit.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        vmb_debug("cannot raise the limit of open files: %s", g_strerror(errno));
}

GPtrArray *
vmb_repo_domain_points(VmbRepoDomain *domain, GError **error)
{
    g_autoptr(GPtrArray) points =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_point_free);
    g_autoptr(GPtrArray) ids = vmb_repo_domain_point_ids(domain, TRUE, error);
    gboolean absent = FALSE;
    if (ids == NULL)
        return NULL;
    make_room(ids->len);
    g_auto(VmbFd) fd = open_points(domain, &absent, error);
    if (fd < 0)
        return absent ? g_steal_pointer(&points) : NULL;
    for (guint i = 0; i < ids->len; i++) {
        g_autoptr(GError) local = NULL;
        VmbPoint *point = read_point(domain, fd, ids->pdata[i], &local);
        if (point != NULL) {
            g_ptr_array_add(points, point);
        } else if (local != NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
    }
    g_ptr_array_sort(points, compare_points);
    return g_steal_pointer(&points);
}

int
vmb_point_open_file(VmbPoint *point, const char *name, GError **error)
{
    g_autofree char *label = vmb_point_name(point);
    g_autoptr(GError) local = NULL;
    struct stat st;
    if (!vmb_text_is_name(name)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "%s: '%s' is no name of a file", label, name);
        return -1;
    }
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(point->dir_fd, name, O_RDONLY | O_NONBLOCK, 0, label, &local);
    if (fd < 0) {
        if (errno == ENOENT || errno == ELOOP)
            vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/%s is %s", label, name,
                          errno == ENOENT ? "missing" : "a symbolic link, which no point has");
        else
            g_propagate_error(error, g_steal_pointer(&local));
        return -1;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/%s is no regular file", label, name);
        return -1;
    }
    return vmb_fd_steal(&fd);
}
