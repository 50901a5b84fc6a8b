/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the repository layer know of each other; nobody else includes this. */
#pragma once
#include "repo/place.h"
#include "repo/repository.h"

struct VmbRepository {
    char *path; /* absolute */
    char *id;
    int fd;
    VmbJson *metadata; /* repository.json as it was read */
    VmbPlace *place;   /* as it is recorded there */
};

struct VmbRepoDomain {
    char *repository_path;
    char *repository_id;
    char *uuid;
    int root_fd; /* the repository */
    int fd;      /* domains/<uuid> */
};

/* points/ of a domain; a g_atomic_rc_box. */
struct VmbPointsDir {
    int fd;
};

/* Opens @path as a directory; *@absolute gets its absolute form also on error. Errors: as for
 * vmb_repository_open(). */
int vmb_repository_open_root(const char *path, char **absolute, GError **error);

/* Can the filesystem of the open, empty directory @dir_fd keep modes and lock files? @path: for messages.
 * Errors: VMB_ERROR_FAILED, with the reason and what to do. */
#define VMB_REPOSITORY_PROBE ".vmbackup-init-test" /* the file for that */
gboolean vmb_repository_probe(int dir_fd, const char *path, GError **error);

/* 32 random hexadecimal digits. Free with g_free(). */
char *vmb_repository_new_id(GError **error);

/* Locks the repository's directory while repository.json is written, until @root_fd is closed.
 * FALSE if another process holds it; a filesystem that cannot lock directories is no hindrance. */
gboolean vmb_repository_lock_root(int root_fd);

/* Makes @name below @dir_fd if it is not there, empty and private, as far as that is possible: a file to be
 * locked by readers as well. */
void vmb_repository_ensure_lock_file(int dir_fd, const char *name);

/* Ids of a domain's points (names of the right form), sorted as text. With @complain the others are
 * named in warnings. No points at all is an empty array. */
GPtrArray *vmb_repo_domain_point_ids(VmbRepoDomain *domain, gboolean complain, GError **error);

/* One point; NULL without an error if it is none (any more). */
VmbPoint *vmb_repo_domain_read_point(VmbRepoDomain *domain, const char *id, GError **error);

/* domains/<uuid>/sequence; 0 if it is absent. Errors: VMB_ERROR_DAMAGE and others. */
gboolean vmb_repo_domain_read_sequence(VmbRepoDomain *domain, guint64 *sequence, GError **error);

/* "web01/20261121T020000Z"; with a damaged manifest the UUID stands for the name. Free with
 * g_free(). */
char *vmb_point_name(const VmbPoint *point);
