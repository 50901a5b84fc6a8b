/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Structure of a point on disk: which files must be there, with which sizes and digests. */
#pragma once
#include "repo/repository.h"

typedef enum {
    VMB_FINDING_FILE,     /* a file that nothing else builds on */
    VMB_FINDING_METADATA, /* what all that builds on the disk needs: tables, digests, the manifest */
    VMB_FINDING_DATA,     /* stored blocks */
    VMB_FINDING_CHAIN,    /* the point's own data may be whole, but what it builds on cannot be read */
} VmbFindingKind;
const char *vmb_finding_kind_name(VmbFindingKind kind); /* "file", "metadata", "data", "chain" */

/* One finding of a check. */
typedef struct {
    VmbFindingKind kind;
    char *point;    /* "web01/20261121T020000Z" */
    char *disk;     /* target or NULL */
    char *file;     /* file name or NULL */
    gint64 offset;  /* guest-visible byte, or -1 */
    guint64 length; /* bytes, 0 when there is no offset */
    char *message;
    GPtrArray *affected; /* GRefString: ids of the visible points that show it, the own one included; NULL: not
                          * known */
} VmbFinding;
void vmb_finding_free(VmbFinding *finding);
/* Of a disk it is metadata, else a file, until something else is said. */
VmbFinding *vmb_finding_new(const char *point, const char *disk, const char *file,
                            const char *format, ...) G_GNUC_PRINTF(4, 5);

/* Everything of @point but the images' and digest files' content: manifest and state seals, that
 * just the named files are there (nothing else), regular, of the right size; digests of the small
 * files; lock is empty. Of a retired point only @disks (VmbManifestDisk): the rest is not needed any more.
 * Appends VmbFinding to @findings. @name: how to call the point. */
void vmb_check_point(VmbPoint *point, const GPtrArray *disks, const char *name,
                     GPtrArray *findings);
