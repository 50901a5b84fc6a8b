/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A repository: creating, opening and walking it, and finding what users name in it. */
#pragma once
#include "repo/manifest.h"
#include "util/fsio.h"

/* Format 1 had no retired points; it is read for ever, and raised by what writes points. */
#define VMB_REPOSITORY_FORMAT 2

typedef struct VmbRepository VmbRepository;

/* Creates @path (its parent must exist; an existing directory must be empty) with repository.json,
 * domains/ and by-name/. Errors: VMB_ERROR_NO_REPOSITORY if something else is there already,
 * VMB_ERROR_FAILED. On failure nothing is left behind. */
gboolean vmb_repository_init(const char *path, GError **error);

/* Opens for reading; nothing is written. Errors: VMB_ERROR_NO_REPOSITORY (absent, not a directory,
 * no repository.json, a newer format), VMB_ERROR_DAMAGE (its metadata is damaged). */
VmbRepository *vmb_repository_open(const char *path, GError **error);
void vmb_repository_free(VmbRepository *repository);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRepository, vmb_repository_free)

const char *vmb_repository_path(VmbRepository *repository); /* absolute */
const char *vmb_repository_id(VmbRepository *repository);   /* 32 hexadecimal digits */
/* The id of the repository of which this one was an adopted copy; NULL: of none. */
const char *vmb_repository_adopted_from(VmbRepository *repository);
/* VMB_ERROR_NO_REPOSITORY with what to do if the repository is a copy, or its disk another host's, so that
 * nothing may be backed up into it, and nothing deleted in it or in libvirt by what it says. Reading
 * needs no such check. A repository that was moved gets its new path recorded. */
gboolean vmb_repository_check_place(VmbRepository *repository, GError **error);
/* The same, and nothing is recorded. */
gboolean vmb_repository_is_at_home(VmbRepository *repository, GError **error);
/* vmb_repository_check_place(), and fails at once, with the reason, if files cannot be created there (read-only,
 * permissions). Raises a repository of an older format to the present one. */
gboolean vmb_repository_check_writable(VmbRepository *repository, GError **error);

/* Makes a copy a repository of its own, with a new id; the journals in it are the original's and are
 * dropped with its staging, *@dropped is their number. With @keep_id the repository itself was moved here,
 * or its disk was given to this host: only the record of its place is written anew. Errors:
 * VMB_ERROR_NO_REPOSITORY if it is at its place already; VMB_ERROR_LOCKED if a run is at work there. */
gboolean vmb_repository_adopt(const char *path, gboolean keep_id, guint *dropped, GError **error);

/* A domain's directory. @create: make it (and its parts) if absent; otherwise an absent one is
 * VMB_ERROR_DOMAIN. */
typedef struct VmbRepoDomain VmbRepoDomain;
VmbRepoDomain *vmb_repo_domain_open(VmbRepository *repository, const char *uuid, gboolean create,
                                    GError **error);
void vmb_repo_domain_free(VmbRepoDomain *domain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbRepoDomain, vmb_repo_domain_free)
int vmb_repo_domain_fd(VmbRepoDomain *domain); /* domains/<uuid>, for locks and journal */
const char *vmb_repo_domain_uuid(VmbRepoDomain *domain);
/* domains/<uuid>/sequence: highest number ever used; taken and raised durably under the writer
 * lock; never lower than any point's. */
gboolean vmb_repo_domain_next_sequence(VmbRepoDomain *domain, guint64 *sequence, GError **error);
/* The highest number ever used, as far as the file tells; 0 if it tells nothing. And: points up to
 * @sequence come from elsewhere; durable. */
guint64 vmb_repo_domain_highest_sequence(VmbRepoDomain *domain);
gboolean vmb_repo_domain_raise_sequence(VmbRepoDomain *domain, guint64 sequence, GError **error);
/* Makes by-name/NAME point here, for people; a failure is only a warning. */
void vmb_repo_domain_link_name(VmbRepoDomain *domain, const char *name);

/* UUIDs (char *, sorted) of all domains that have a directory. Free with g_ptr_array_unref(). */
GPtrArray *vmb_repository_domains(VmbRepository *repository, GError **error);

/* A published point whose manifest was read. It holds no descriptor of its own, so that all points
 * of a large repository can be held at the same time. */
typedef struct {
    char *id;
    char *uuid;
    struct VmbPointsDir *place; /* private: points/, shared by the domain's points */
    VmbManifest *manifest;      /* NULL if damaged: then damage says how */
    GError *damage;
    gboolean foreign;           /* made by the repository of which this is an adopted copy: the
                                 * checkpoints that it names are that one's */
    gboolean retired;           /* dropped: shown nowhere, but others may still build on it */
    /* While a fold is in progress (repo/fold-record.h); NULL otherwise. */
    GHashTable *moved; /* private: file name -> where it is, below points/ */
    char *growing;     /* an image whose unused places may hold anything, and that may be longer than the
                        * manifest says */
} VmbPoint;
void vmb_point_free(VmbPoint *point);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbPoint, vmb_point_free)

/* All points of a domain, the retired ones too, in order of their sequence numbers; damaged ones come last,
 * by id (with point->damage set). Entries that are not points (names, types) are ignored with a warning.
 * A GPtrArray of VmbPoint. */
GPtrArray *vmb_repo_domain_points(VmbRepoDomain *domain, GError **error);

/* Finds points by what a user writes: "DOMAIN/ID", "DOMAIN/latest", "DOMAIN/prefix" (unique), and
 * "DOMAIN" for the latest (highest number) that is not damaged; DOMAIN is a UUID, or the name that
 * the domain has in its newest point. Retired points are not found. Errors: VMB_ERROR_DOMAIN, also when a name fits several
 * domains: they are listed; VMB_ERROR_DAMAGE if the point that is meant is damaged. *@points gets
 * the domain's points, which the returned one (borrowed from it) belongs to; NULL on error. */
VmbPoint *vmb_repository_find_point(VmbRepository *repository, const char *text, GPtrArray **points,
                                    GError **error);
/* The same, but the point may be damaged: for those who drop it. */
VmbPoint *vmb_repository_find_any_point(VmbRepository *repository, const char *text,
                                        GPtrArray **points, GError **error);
/* UUIDs (char *) of all domains that have this name in their newest point. */
GPtrArray *vmb_repository_domains_named(VmbRepository *repository, const char *name,
                                        GError **error);
/* UUID of the domain that a user names (name or UUID). Free with g_free(). */
char *vmb_repository_find_domain(VmbRepository *repository, const char *text, GError **error);

/* The chain of one disk: [0] is @point's own, then its parent, down to the full. Elements are
 * VmbChainLink, owned by the array; points stay owned by @points. Errors: VMB_ERROR_DOMAIN if
 * @point does not hold the disk; VMB_ERROR_DAMAGE (missing or damaged parent, a parent that is not
 * older, which covers loops, or without the disk, or with another checkpoint than the one the child
 * began from). */
typedef struct {
    VmbPoint *point;
    const VmbManifestDisk *disk;
} VmbChainLink;
GArray *vmb_repo_chain(GPtrArray *points, VmbPoint *point, const char *disk_id, GError **error);

/* Opens a point's directory; the caller closes it. Thread-safe. VMB_ERROR_DOMAIN if it is gone. */
int vmb_point_open_dir(const VmbPoint *point, GError **error);
/* Opens a file of a point for reading. Thread-safe. Errors name the point; VMB_ERROR_DAMAGE if it
 * is missing or no regular file. */
int vmb_point_open_file(const VmbPoint *point, const char *name, GError **error);
