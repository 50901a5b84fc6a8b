/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every name inside a repository: the only place where they are spelled or put together. */
#pragma once
#include <glib.h>

/* Of the repository. */
#define VMB_LAYOUT_REPOSITORY "repository.json"
#define VMB_LAYOUT_DOMAINS "domains"
#define VMB_LAYOUT_BY_NAME "by-name"

/* Of domains/<uuid>. */
#define VMB_LAYOUT_LOCK "lock"
#define VMB_LAYOUT_JOURNAL "journal"
#define VMB_LAYOUT_SEQUENCE "sequence"
#define VMB_LAYOUT_STAGING "staging"
#define VMB_LAYOUT_POINTS "points"
#define VMB_LAYOUT_MAINTENANCE "maintenance" /* lock: points are dropped and folded */
#define VMB_LAYOUT_STRUCTURE "structure"     /* lock: which points there are, and on what they build */
#define VMB_LAYOUT_STATES "states"           /* lock: state.json of a point is changed */
#define VMB_LAYOUT_FOLD "fold"
#define VMB_LAYOUT_CONSUMERS "consumers"
#define VMB_LAYOUT_CATALOG "catalog"

/* Of a point; each has a lock as well. */
#define VMB_LAYOUT_MANIFEST "manifest.json"
#define VMB_LAYOUT_STATE "state.json"
#define VMB_LAYOUT_RETIRED "retired" /* there, and empty: the point is hidden, its data is still needed */

/* "domains/<uuid>". Free with g_free(). */
char *vmb_layout_domain(const char *uuid);

/* "journal-NONCE": a journal that is kept for another host. Free with g_free(). And whether a name
 * has that form. */
char *vmb_layout_journal_aside(const char *nonce);
gboolean vmb_layout_is_journal_aside(const char *name);

/* "trash-ID", below domains/<uuid>: a point that is being deleted. Free with g_free(). And whether a name has
 * that form. */
char *vmb_layout_trash(const char *id);
gboolean vmb_layout_is_trash(const char *name);

/* ".catalog-TOKEN", below domains/<uuid>: a catalog that is being written. Free with g_free(). And whether a
 * name has that form. */
char *vmb_layout_catalog_new(const char *token);
gboolean vmb_layout_is_catalog_new(const char *name);

/* "vda.qcow2" and "vda.digests". Free with g_free(). */
char *vmb_layout_image(const char *target);
char *vmb_layout_digests(const char *target);

/* ".fold-NAME": what a file of the child will be after a fold, in the making. Free with g_free(). */
char *vmb_layout_fold_file(const char *name);
gboolean vmb_layout_is_fold_file(const char *name);

/* What an incremental's header says of its parent: "../20261121T020000Z/vda.qcow2". */
char *vmb_layout_backing_file(const char *parent_id, const char *parent_image);

/* The id of a point that is made at @unix_ns: "20261121T020000Z"; the second one of the same second
 * (@counter 2) gets "-2" appended, and so on. @counter 0 and 1: nothing is appended. */
char *vmb_layout_point_id(gint64 unix_ns, guint counter);
/* TRUE if @name has just that form. */
gboolean vmb_layout_is_point_id(const char *name);

/* TRUE if @name may be the name of a point's file that the manifest lists: plain, and none of the
 * names that every point has. */
gboolean vmb_layout_is_point_file(const char *name);
/* TRUE for a name that an interrupted rewrite of a file of the point may leave: no damage. */
gboolean vmb_layout_is_leftover(const char *name);

/* Name of the symbolic link in by-name/ for a domain: characters that the repository does not use
 * become '_'. And where it leads: "../domains/<uuid>". Free with g_free(). */
char *vmb_layout_link_name(const char *domain);
char *vmb_layout_link_target(const char *uuid);

/* Paths for messages: "REPO/domains/<uuid>/points/<id>"; @id and @uuid may be NULL. */
char *vmb_layout_path(const char *repository, const char *uuid, const char *id);
