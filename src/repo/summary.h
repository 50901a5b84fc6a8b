/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The short form of a point: what listing, statistics and retention need of manifest and state. */
#pragma once
#include "repo/state.h"

/* All strings are borrowed from the summary. */
typedef struct {
    const char *target, *id;
    guint64 size; /* exact bytes of the disk */
    VmbLevel level;
    VmbMethod method;
    VmbReasonCode reason; /* why full; VMB_N_REASONS: none needed */
    const char *parent;   /* point id; NULL for a full */
    /* As in the manifest: */
    guint64 image_size, digests_size, data_blocks, zero_blocks, stored_bytes;
    guint64 replaced_bytes, replaced_by_bytes, folded;
    const char *replaced_by, *synthetic_from;
    gboolean damaged; /* a verification found damage in it */
} VmbSummaryDisk;

/* What a file or directory is known by, as long as nobody changes it. */
typedef struct {
    guint64 inode, size;
    gint64 mtime_ns, ctime_ns;
} VmbStamp;

typedef struct {
    VmbStamp directory, manifest, state; /* of a point */
} VmbStamps;

typedef struct {
    const char *id;
    gboolean retired;
    GError *damage;     /* its manifest cannot be read: what follows says nothing */
    const char *domain; /* name */
    guint64 sequence;
    gint64 time_ns;
    VmbLevel level;
    VmbConsistency consistency;
    guint64 files_bytes;       /* of the files that are no disk's */
    gboolean state_unreadable; /* nobody knows what state.json says; to be treated as protected */
    gboolean is_protected, metadata_damaged;
    gint64 verified_ns, checked_ns;
    const char *verify_result; /* "ok", "damaged" or NULL */
    const char *const *tags;   /* NULL-terminated, sorted; never NULL */
    guint n_disks;
    VmbSummaryDisk *disks;
    /* Private: what the strings are in, and where the catalog stands. */
    GBytes *text;
    gsize text_offset, text_length;
    VmbStamps stamps; /* before anything was read; all zero: not known */
    gboolean cached;  /* not read from the documents, but from the catalog */
} VmbSummary;
void vmb_summary_free(VmbSummary *summary);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbSummary, vmb_summary_free)

/* How the domain's catalog (repo/catalog.h) is compared with what is there. */
typedef enum {
    VMB_SUMMARIES_CHECKED, /* with both documents of each point */
    VMB_SUMMARIES_QUICK, /* with each point's directory only: for thousands of points, and who reads
                          * the documents of those that matter once more. What it misses is a
                          * document that somebody else has written into in place */
    VMB_SUMMARIES_FRESH, /* not at all: all is read from the documents */
} VmbSummariesMode;

/* All points of a domain as vmb_repo_domain_points() gives them: the retired ones too, in order of
 * their sequence numbers, damaged ones last. Whoever acts upon it reads the documents of the points
 * concerned once more, under their locks. A GPtrArray of VmbSummary. Errors: as for
 * vmb_repo_domain_points(). Thread-safe for different domains. */
GPtrArray *vmb_repo_domain_summaries(VmbRepoDomain *domain, VmbSummariesMode mode, GError **error);

/* The newest point that is neither damaged nor retired, whose state may be unread; NULL without an
 * error if there is none. */
VmbSummary *vmb_repo_domain_newest(VmbRepoDomain *domain, GError **error);

/* Bytes of all files of the point; 0 if it is damaged. */
guint64 vmb_summary_stored(const VmbSummary *summary);

/* What dropping each of @summaries (all points of one domain) alone would free, in bytes: all of it
 * if no point builds on it, else what its child hides of it, and its own files. @frees gets one
 * number for each, VMB_BYTES_UNKNOWN where that is not known. */
void vmb_summaries_frees(const GPtrArray *summaries, guint64 *frees);
