/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A domain's directory: opening and making it, its number of the newest point, its link by name. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "repo/repository-private.h"
#include "util/error.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define SEQUENCE_FORMAT 1

/* Makes the directory with its parts, and brings the new names to disk. */
static gboolean
make_parts(int domains_fd, const char *uuid, GError **error)
{
    gboolean made = FALSE, made_points = FALSE;
    if (!vmb_directory_make(domains_fd, uuid, &made, error))
        return FALSE;
    g_auto(VmbFd) fd =
        vmb_fs_open_beneath(domains_fd, uuid, O_RDONLY | O_DIRECTORY, 0, VMB_LAYOUT_DOMAINS, error);
    if (fd < 0 || !vmb_directory_make(fd, VMB_LAYOUT_POINTS, &made_points, error))
        return FALSE;
    return (!made_points || vmb_fs_sync(fd, uuid, error)) &&
           (!made || vmb_fs_sync(domains_fd, VMB_LAYOUT_DOMAINS, error));
}

static gboolean
make_directory(VmbRepoDomain *domain, const char *label, GError **error)
{
    g_auto(VmbFd) domains = vmb_fs_open_beneath(domain->root_fd, VMB_LAYOUT_DOMAINS,
                                                O_RDONLY | O_DIRECTORY, 0, label, error);
    if (domains < 0)
        return FALSE;
    if (make_parts(domains, domain->uuid, error))
        return TRUE;
    g_prefix_error(error, "%s: ", label);
    return FALSE;
}

static gboolean
open_directory(VmbRepoDomain *domain, gboolean create, GError **error)
{
    g_autofree char *label = vmb_layout_path(domain->repository_path, NULL, NULL);
    g_autofree char *path = vmb_layout_domain(domain->uuid);
    g_autoptr(GError) local = NULL;
    if (create && !make_directory(domain, label, error))
        return FALSE;
    domain->fd = vmb_fs_open_beneath(domain->root_fd, path, O_RDONLY | O_DIRECTORY, 0,
                                     domain->repository_path, &local);
    if (domain->fd >= 0)
        return TRUE;
    if (errno == ENOENT)
        return vmb_error_set(error, VMB_ERROR_DOMAIN,
                             "the repository %s holds nothing of the domain %s; `vmbackup list` "
                             "shows what it holds",
                             domain->repository_path, domain->uuid);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

VmbRepoDomain *
vmb_repo_domain_open(VmbRepository *repository, const char *uuid, gboolean create, GError **error)
{
    if (!vmb_text_is_uuid(uuid)) {
        vmb_error_set(error, VMB_ERROR_DOMAIN, "'%s' is no UUID of a domain", uuid);
        return NULL;
    }
    g_autoptr(VmbRepoDomain) domain = g_new0(VmbRepoDomain, 1);
    domain->fd = -1;
    domain->uuid = g_strdup(uuid);
    domain->repository_path = g_strdup(repository->path);
    domain->repository_id = g_strdup(repository->id);
    domain->root_fd = fcntl(repository->fd, F_DUPFD_CLOEXEC, 3);
    if (domain->root_fd < 0) {
        vmb_error_errno(error, errno, "cannot open %s once more", repository->path);
        return NULL;
    }
    return open_directory(domain, create, error) ? g_steal_pointer(&domain) : NULL;
}

void
vmb_repo_domain_free(VmbRepoDomain *domain)
{
    if (domain == NULL)
        return;
    vmb_fd_clear(&domain->fd);
    vmb_fd_clear(&domain->root_fd);
    g_free(domain->uuid);
    g_free(domain->repository_path);
    g_free(domain->repository_id);
    g_free(domain);
}

int
vmb_repo_domain_fd(VmbRepoDomain *domain)
{
    return domain->fd;
}

const char *
vmb_repo_domain_uuid(VmbRepoDomain *domain)
{
    return domain->uuid;
}

gboolean
vmb_repo_domain_read_sequence(VmbRepoDomain *domain, guint64 *sequence, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *label = vmb_layout_path(domain->repository_path, domain->uuid, NULL);
    g_autoptr(VmbJson) object =
        vmb_sealed_read(domain->fd, VMB_LAYOUT_SEQUENCE, SEQUENCE_FORMAT, label, &local);
    *sequence = 0;
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (object == NULL)
        return TRUE;
    if (!vmb_json_get_uint(object, "sequence", sequence, error)) {
        g_prefix_error(error, "%s/" VMB_LAYOUT_SEQUENCE ": ", label);
        return FALSE;
    }
    return *sequence <= VMB_SEQUENCE_MAX ||
           vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/" VMB_LAYOUT_SEQUENCE ": too large", label);
}

static gboolean
highest_of_points(VmbRepoDomain *domain, guint64 *highest, GError **error)
{
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, error);
    if (points == NULL)
        return FALSE;
    *highest = 0;
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL)
            *highest = MAX(*highest, point->manifest->sequence);
    }
    return TRUE;
}

static gboolean
write_sequence(VmbRepoDomain *domain, guint64 sequence, GError **error)
{
    g_autoptr(VmbJson) object = json_object_new_object();
    vmb_json_add_uint(object, "format", SEQUENCE_FORMAT);
    vmb_json_add_uint(object, "sequence", sequence);
    return vmb_sealed_write(domain->fd, VMB_LAYOUT_SEQUENCE, object, error);
}

gboolean
vmb_repo_domain_next_sequence(VmbRepoDomain *domain, guint64 *sequence, GError **error)
{
    g_autoptr(GError) local = NULL;
    guint64 stored = 0, highest = 0;
    if (!highest_of_points(domain, &highest, error))
        return FALSE;
    if (!vmb_repo_domain_read_sequence(domain, &stored, &local)) {
        if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        stored = 0;
        vmb_warning("%s: the number is taken from the points instead", local->message);
    } else if (stored < highest) {
        vmb_warning("%s: the number of the newest point is %s; it is taken from the points instead",
                    domain->uuid, stored == 0 ? "missing" : "too low");
    }
    *sequence = MAX(stored, highest) + 1;
    if (*sequence > VMB_SEQUENCE_MAX)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "%s: no number is left for a new point",
                             domain->uuid);
    return write_sequence(domain, *sequence, error);
}

guint64
vmb_repo_domain_highest_sequence(VmbRepoDomain *domain)
{
    guint64 stored = 0;
    return vmb_repo_domain_read_sequence(domain, &stored, NULL) ? stored : 0;
}

gboolean
vmb_repo_domain_raise_sequence(VmbRepoDomain *domain, guint64 sequence, GError **error)
{
    return vmb_repo_domain_highest_sequence(domain) >= sequence ||
           write_sequence(domain, sequence, error);
}

/* Links of this domain under names that it no longer has. */
static void
remove_old_links(int by_name, const char *target, const char *name)
{
    g_autoptr(GPtrArray) names = vmb_directory_list(by_name, NULL);
    for (guint i = 0; names != NULL && i < names->len; i++) {
        char found[PATH_MAX];
        ssize_t length = readlinkat(by_name, names->pdata[i], found, sizeof found - 1);
        if (length < 0)
            continue;
        found[length] = '\0';
        if (strcmp(found, target) == 0 && strcmp(names->pdata[i], name) != 0)
            unlinkat(by_name, names->pdata[i], 0);
    }
}

static gboolean
make_link(int by_name, const char *target, const char *name, GError **error)
{
    g_autofree char *temporary = g_strdup_printf(".%s.new", name);
    char found[PATH_MAX];
    ssize_t length = readlinkat(by_name, name, found, sizeof found - 1);
    if (length == (ssize_t)strlen(target) && memcmp(found, target, (gsize)length) == 0)
        return TRUE;
    if (length < 0 && errno != ENOENT)
        return vmb_error_set(error, VMB_ERROR_FAILED, "something else has its name");
    if (unlinkat(by_name, temporary, 0) < 0 && errno != ENOENT)
        return vmb_error_errno(error, errno, "cannot remove %s", temporary);
    if (symlinkat(target, by_name, temporary) < 0) {
        /* A filesystem without such links is no news at each backup. */
        return errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS ||
               vmb_error_errno(error, errno, "cannot make it");
    }
    if (renameat(by_name, temporary, by_name, name) == 0)
        return TRUE;
    int err = errno;
    unlinkat(by_name, temporary, 0);
    return vmb_error_errno(error, err, "cannot rename it");
}

void
vmb_repo_domain_link_name(VmbRepoDomain *domain, const char *name)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *link = vmb_layout_link_name(name);
    g_autofree char *target = vmb_layout_link_target(domain->uuid);
    g_auto(VmbFd) by_name = -1;
    if (vmb_directory_make(domain->root_fd, VMB_LAYOUT_BY_NAME, NULL, &error))
        by_name = vmb_fs_open_beneath(domain->root_fd, VMB_LAYOUT_BY_NAME, O_RDONLY | O_DIRECTORY,
                                      0, domain->repository_path, &error);
    if (by_name >= 0 && make_link(by_name, target, link, &error))
        remove_old_links(by_name, target, link);
    if (error != NULL)
        vmb_warning("%s/" VMB_LAYOUT_BY_NAME "/%s, a link for people, could not be made: %s",
                    domain->repository_path, link, error->message);
}
