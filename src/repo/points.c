/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The published points of a domain: one look at each, in their order. */
#include "repo/directory.h"
#include "repo/fold-record.h"
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static void
points_dir_clear(gpointer data)
{
    struct VmbPointsDir *place = data;
    vmb_fd_clear(&place->fd);
}

static void
points_dir_unref(struct VmbPointsDir *place)
{
    g_atomic_rc_box_release_full(place, points_dir_clear);
}

typedef struct VmbPointsDir PointsDir;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PointsDir, points_dir_unref)

void
vmb_point_free(VmbPoint *point)
{
    if (point == NULL)
        return;
    g_clear_pointer(&point->place, points_dir_unref);
    vmb_manifest_free(point->manifest);
    g_clear_error(&point->damage);
    g_clear_pointer(&point->moved, g_hash_table_unref);
    g_free(point->growing);
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

/* NULL without an error if there are no points yet. */
static PointsDir *
open_points(VmbRepoDomain *domain, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *label = vmb_layout_path(domain->repository_path, domain->uuid, NULL);
    int fd = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS, O_RDONLY | O_DIRECTORY, 0, label,
                                 &local);
    if (fd < 0) {
        if (errno != ENOENT)
            g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    PointsDir *place = g_atomic_rc_box_new0(PointsDir);
    place->fd = fd;
    return place;
}

GPtrArray *
vmb_repo_domain_point_ids(VmbRepoDomain *domain, gboolean complain, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) local = NULL;
    g_autoptr(PointsDir) place = open_points(domain, &local);
    if (place == NULL && local == NULL)
        return g_steal_pointer(&ids);
    g_autoptr(GPtrArray) names = place != NULL ? vmb_directory_list(place->fd, &local) : NULL;
    if (names == NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
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

/* A name, so that hiding a point is one step and finding it hidden needs no reading. */
static gboolean
is_retired(const PointsDir *place, const char *id)
{
    struct stat st;
    g_autofree char *name = g_build_filename(id, VMB_LAYOUT_RETIRED, NULL);
    return fstatat(place->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void
parse(VmbPoint *point, const char *text, gsize length)
{
    g_autofree char *label = vmb_point_name(point);
    point->manifest = vmb_manifest_parse(text, length, &point->damage);
    if (point->manifest != NULL && !check_place(point, &point->damage))
        g_clear_pointer(&point->manifest, vmb_manifest_free);
    g_prefix_error(&point->damage, "%s/" VMB_LAYOUT_MANIFEST ": ", label);
}

/* Why there is no manifest: FALSE if there is no point either. */
static gboolean
is_directory(const PointsDir *place, const VmbPoint *point)
{
    struct stat st;
    if (fstatat(place->fd, point->id, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno != ENOENT; /* removed since the directory was read */
    if (S_ISDIR(st.st_mode))
        return TRUE;
    vmb_warning("%s/%s is no directory, so no point: ignored", point->uuid, point->id);
    return FALSE;
}

/* One open, one read. NULL without an error if there is no such point. */
static VmbPoint *
read_point(VmbRepoDomain *domain, PointsDir *place, const char *id, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbPoint) point = g_new0(VmbPoint, 1);
    g_autofree char *name = g_build_filename(id, VMB_LAYOUT_MANIFEST, NULL);
    g_autofree char *text = NULL;
    gsize length = 0;
    int err = 0;
    point->id = g_strdup(id);
    point->uuid = g_strdup(domain->uuid);
    point->place = g_atomic_rc_box_acquire(place);
    point->retired = is_retired(place, id);
    if (vmb_directory_read(place->fd, name, VMB_MANIFEST_MAX_BYTES, domain->uuid, &text, &length,
                           &err, &local)) {
        parse(point, text, length);
        point->foreign = point->manifest != NULL &&
                         g_strcmp0(point->manifest->repository, domain->repository_id) != 0;
        return g_steal_pointer(&point);
    }
    if (is_environment(err)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    if (!is_directory(place, point))
        return NULL;
    local->code = VMB_ERROR_DAMAGE;
    point->damage = g_steal_pointer(&local);
    return g_steal_pointer(&point);
}

VmbPoint *
vmb_repo_domain_read_point(VmbRepoDomain *domain, const char *id, GError **error)
{
    g_autoptr(PointsDir) place = open_points(domain, error);
    return place != NULL ? read_point(domain, place, id, error) : NULL;
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

GPtrArray *
vmb_repo_domain_points(VmbRepoDomain *domain, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_point_free);
    g_autoptr(GPtrArray) ids = vmb_repo_domain_point_ids(domain, TRUE, error);
    if (ids == NULL)
        return NULL;
    g_autoptr(PointsDir) place = open_points(domain, &local);
    for (guint i = 0; place != NULL && local == NULL && i < ids->len; i++) {
        VmbPoint *point = read_point(domain, place, ids->pdata[i], &local);
        if (point != NULL)
            g_ptr_array_add(points, point);
    }
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    g_ptr_array_sort(points, compare_points);
    vmb_fold_record_apply(domain, points);
    return g_steal_pointer(&points);
}

int
vmb_point_open_dir(const VmbPoint *point, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *label = vmb_point_name(point);
    int fd = vmb_fs_open_beneath(point->place->fd, point->id, O_RDONLY | O_DIRECTORY, 0,
                                 point->uuid, &local);
    if (fd >= 0)
        return fd;
    if (errno == ENOENT)
        vmb_error_set(error, VMB_ERROR_DOMAIN, "the point %s has been removed meanwhile", label);
    else
        g_propagate_error(error, g_steal_pointer(&local));
    return -1;
}

/* A file that a fold has not moved to its place yet may get there at any time, but never away again. */
static int
open_moved(const VmbPoint *point, const char *name, const char *own)
{
    const char *moved = point->moved != NULL ? g_hash_table_lookup(point->moved, name) : NULL;
    int fd = -1;
    errno = ENOENT;
    if (moved != NULL)
        fd = vmb_fs_open_beneath(point->place->fd, moved, O_RDONLY | O_NONBLOCK, 0, point->uuid,
                                 NULL);
    return fd >= 0 || errno != ENOENT
               ? fd
               : vmb_fs_open_beneath(point->place->fd, own, O_RDONLY | O_NONBLOCK, 0, point->uuid,
                                     NULL);
}

int
vmb_point_open_file(const VmbPoint *point, const char *name, GError **error)
{
    g_autofree char *label = vmb_point_name(point);
    g_autofree char *own = g_build_filename(point->id, name, NULL);
    struct stat st;
    if (!vmb_text_is_name(name)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "%s: '%s' is no name of a file", label, name);
        return -1;
    }
    g_auto(VmbFd) fd = open_moved(point, name, own);
    if (fd < 0) {
        int err = errno;
        if (err == ENOENT || err == ELOOP)
            vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/%s is %s", label, name,
                          err == ENOENT ? "missing" : "a symbolic link, which no point has");
        else
            vmb_error_errno(error, err, "cannot open %s/%s", label, name);
        return -1;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/%s is no regular file", label, name);
        return -1;
    }
    return vmb_fd_steal(&fd);
}
