/* SPDX-License-Identifier: GPL-2.0-or-later */
/* domains/<uuid>/fold: the fold in progress, by which readers know what counts and the next run goes on. */
#pragma once
#include "repo/repository.h"

#define VMB_FOLD_RECORD_HEADER 512u /* bytes of an image's header that are switched */

typedef enum {
    VMB_FOLD_APPEND,  /* the child's blocks are appended to the parent's file, which becomes the child's */
    VMB_FOLD_CLONE,   /* the same with a clone of the parent's file beside the child's */
    VMB_FOLD_REWRITE, /* a new file beside the child's is written from both */
} VmbFoldMode;
const char *vmb_fold_mode_name(VmbFoldMode mode); /* "append", ... */

typedef struct {
    char *parent, *child; /* point ids */
    char *disk;           /* its identity in the child */
    VmbFoldMode mode;
    gboolean ready;        /* FALSE: files are being written, the old state counts */
    char *parent_image;    /* file name in the parent */
    guint64 parent_size;   /* of the parent's disk, bytes */
    guint64 old_size;      /* of the parent's file, bytes */
    VmbManifestDisk *entry; /* ready: what the child's manifest will say of the disk */
    guint8 header_digest[VMB_DIGEST_SIZE];     /* ready: of the first 512 bytes of the new image */
    guint8 old_header[VMB_FOLD_RECORD_HEADER]; /* ready, append: those of the parent's image before */
} VmbFoldRecord;
void vmb_fold_record_free(VmbFoldRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbFoldRecord, vmb_fold_record_free)

/* Durable when it returns. */
gboolean vmb_fold_record_write(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error);
/* *@record is NULL if there is none. Errors: VMB_ERROR_DAMAGE. */
gboolean vmb_fold_record_read(VmbRepoDomain *domain, VmbFoldRecord **record, GError **error);
gboolean vmb_fold_record_clear(VmbRepoDomain *domain, GError **error);

/* Where the new image is: nowhere as long as the old state counts. FALSE with @error if a file cannot be looked
 * at: then neither going on nor going back is allowed. */
typedef enum { VMB_FOLD_NOT_SWITCHED, VMB_FOLD_AT_PARENT, VMB_FOLD_AT_CHILD } VmbFoldPlace;
gboolean vmb_fold_record_place(VmbRepoDomain *domain, const VmbFoldRecord *record,
                               VmbFoldPlace *place, GError **error);

/* Puts the new entry into the child's manifest, on disk when it returns. */
gboolean vmb_fold_record_write_manifest(VmbRepoDomain *domain, const VmbFoldRecord *record,
                                        GError **error);

/* Removes what the parent, which is retired, still has of the disk: its other disks may keep it for long. */
gboolean vmb_fold_record_clear_parent(VmbRepoDomain *domain, const VmbFoldRecord *record,
                                      GError **error);

/* Lets @points, all of the domain as their manifests tell, look as the record says. Nothing is written. */
void vmb_fold_record_apply(VmbRepoDomain *domain, GPtrArray *points);
