/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Structure of a point on disk: which files must be there, with which sizes and digests. */
#pragma once
#include "repo/repository.h"

/* One finding of a check. */
typedef struct {
    char *point;    /* "web01/20261121T020000Z" */
    char *disk;     /* target or NULL */
    char *file;     /* file name or NULL */
    gint64 offset;  /* guest-visible byte, or -1 */
    guint64 length; /* bytes, 0 when there is no offset */
    char *message;
} VmbFinding;
void vmb_finding_free(VmbFinding *finding);
VmbFinding *vmb_finding_new(const char *point, const char *disk, const char *file,
                            const char *format, ...) G_GNUC_PRINTF(4, 5);

/* Everything of @point but the images' and digest files' content: manifest and state seals, that
 * just the named files are there (nothing else), regular, of the right size; digests of the small
 * files; lock is empty. Appends VmbFinding to @findings. @name: how to call the point. */
void vmb_check_point(VmbPoint *point, const char *name, GPtrArray *findings);
