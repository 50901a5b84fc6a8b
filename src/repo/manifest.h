/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a restore point says of itself: everything that listing, verifying and restoring need. */
#pragma once
#include "block/chunk.h"
#include "util/reason.h"
#include "util/json.h"

typedef enum { VMB_LEVEL_FULL, VMB_LEVEL_INCREMENTAL } VmbLevel;
typedef enum {
    VMB_METHOD_FULL,
    VMB_METHOD_BITMAP,
    VMB_METHOD_COMPARE,
    VMB_METHOD_OFFLINE
} VmbMethod;
typedef enum {
    VMB_CONSISTENCY_CRASH,
    VMB_CONSISTENCY_PAUSED,
    VMB_CONSISTENCY_FILESYSTEM,
    VMB_CONSISTENCY_APPLICATION,
    VMB_CONSISTENCY_OFFLINE,
} VmbConsistency;

const char *vmb_level_name(VmbLevel level);                   /* "full", "incremental" */
const char *vmb_method_name(VmbMethod method);                /* "full", "bitmap", ... */
const char *vmb_consistency_name(VmbConsistency consistency); /* "crash", ... */

/* One image file of the source, as it was when the point was made. */
typedef struct {
    char *path;
    char *format; /* driver type: "qcow2", "raw", ... */
    guint64 device, inode;
    guint64 size; /* bytes of the file */
    gint64 mtime_ns;
    guint64 ctime_ns;    /* when anything of the file changed: nobody can put that back; 0: not known */
    guint64 birth_ns;    /* when the file was made; 0: not known */
    char *header_digest; /* hexadecimal SHA-256 of its first 64 KiB (less if shorter), or NULL */
} VmbSourceLayer;

typedef struct {
    char *target;       /* "vda" */
    char *id;           /* identity: "serial:..." or "target:vda" */
    char *bus, *serial; /* may be NULL */
    guint64 size;       /* exact bytes of the disk */
    VmbLevel level;
    VmbMethod method;
    VmbReasonCode reason;  /* why full; VMB_N_REASONS: none needed */
    char *parent;          /* point id; NULL for a full */
    char *base_checkpoint; /* NULL for a full */
    char *checkpoint;      /* NULL: the disk cannot have one */
    GPtrArray *layers;     /* VmbSourceLayer, the active one first */
    char *image;           /* file name in the point */
    guint64 image_size;    /* bytes of that file */
    gboolean compressed;
    guint64 data_blocks, zero_blocks, stored_bytes; /* VmbQcow2Summary */
    guint8 head_digest[VMB_DIGEST_SIZE], tables_digest[VMB_DIGEST_SIZE];
    char *digests;        /* file name */
    guint64 digests_size; /* bytes */
    guint8 digests_digest[VMB_DIGEST_SIZE];
    /* What retention needs; none of it is needed for reading. */
    guint64 replaced_bytes; /* stored bytes of the parent's own image that this one hides;
                             * VMB_BYTES_UNKNOWN */
    char *replaced_by;      /* a point that builds on this one, and how much it hides; or NULL */
    guint64 replaced_by_bytes;
    guint64 folded;       /* so many older points have been folded into this one */
    char *synthetic_from; /* the point with whose chain a full was made without reading all; NULL */
} VmbManifestDisk;

#define VMB_BYTES_UNKNOWN G_MAXUINT64

typedef struct {
    char *target;
    VmbReasonCode reason;
    char *id;     /* may be NULL */
    guint64 size; /* bytes; 0 if unknown */
} VmbSkippedDisk;

/* Any other file of the point. */
typedef struct {
    char *name;   /* "domain.xml", "nvram.fd", ... */
    char *role;   /* "inactive-xml", "live-xml", "nvram", "kernel", "initrd", "tpm" */
    char *origin; /* path on the host, or NULL */
    guint64 size;
    guint8 digest[VMB_DIGEST_SIZE];
} VmbManifestFile;

typedef struct {
    char *id; /* "20261121T020000Z" */
    guint64 sequence;
    char *repository; /* id of the repository that made it */
    char *tool;       /* "vmbackup 0.1.0" */
    char *host;
    char *host_id; /* vmb_host_id() of the host, or NULL */
    char *domain, *uuid;
    gboolean transient;
    gint64 time_ns;      /* wall clock, just before the job began */
    guint64 duration_ns; /* until the manifest was written */
    VmbLevel level;      /* full if all disks are */
    VmbConsistency consistency;
    char *quiesce; /* "auto", ... as asked */
    guint64 frozen_filesystems;
    guint64 freeze_ns;  /* from asking for the freeze to the thaw's answer; 0: none */
    GPtrArray *reasons; /* VmbReason */
    GPtrArray *disks;   /* VmbManifestDisk */
    GPtrArray *skipped; /* VmbSkippedDisk */
    GPtrArray *files;   /* VmbManifestFile */
    VmbJson *guest;     /* facts from the agent, or NULL; shown, never acted on */
} VmbManifest;

/* All arrays empty, enums at their lowest. */
VmbManifest *vmb_manifest_new(void);
void vmb_manifest_free(VmbManifest *manifest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbManifest, vmb_manifest_free)
VmbManifestDisk *vmb_manifest_disk_new(void);
void vmb_manifest_disk_free(VmbManifestDisk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbManifestDisk, vmb_manifest_disk_free)
/* A deep copy. */
VmbManifestDisk *vmb_manifest_disk_copy(const VmbManifestDisk *disk, GError **error);
/* Do its numbers fit together? Errors: VMB_ERROR_DAMAGE. */
gboolean vmb_manifest_check_disk(const VmbManifestDisk *disk, GError **error);
/* The entry of that disk (by its id) becomes a copy of @entry; the level of the point follows. */
void vmb_manifest_replace_disk(VmbManifest *manifest, const VmbManifestDisk *entry);
void vmb_skipped_disk_free(VmbSkippedDisk *disk);
void vmb_manifest_file_free(VmbManifestFile *file);
void vmb_source_layer_free(VmbSourceLayer *layer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbManifestFile, vmb_manifest_file_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbSourceLayer, vmb_source_layer_free)

#define VMB_MANIFEST_MAX_BYTES (64 * 1024 * 1024) /* of its text */

/* The sealed text of manifest.json. Free with g_free(). */
char *vmb_manifest_serialise(const VmbManifest *manifest);
/* Checks seal, types, names, limits (sizes <= VMB_SIZE_MAX, level and parent agree, targets and
 * file names unique and plain). Errors: VMB_ERROR_DAMAGE; a newer "format" is
 * VMB_ERROR_NO_REPOSITORY. */
VmbManifest *vmb_manifest_parse(const char *text, gsize length, GError **error);

/* By identity or by target; NULL if absent. Borrowed. */
const VmbManifestDisk *vmb_manifest_find_disk(const VmbManifest *manifest, const char *id);
const VmbManifestDisk *vmb_manifest_find_target(const VmbManifest *manifest, const char *target);
/* VMB_ERROR_USAGE unless the point holds each of @targets (NULL-terminated, or NULL). */
gboolean vmb_manifest_check_targets(const VmbManifest *manifest, const char *const *targets,
                                    GError **error);
/* Bytes of all files of the point. */
guint64 vmb_manifest_stored(const VmbManifest *manifest);
