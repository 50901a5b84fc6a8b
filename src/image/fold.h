/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Folding: an image takes up what the image above it holds, and never looks different to a reader meanwhile. */
#pragma once
#include <gio/gio.h>
#include "image/qcow2-writer.h"

/* Of errors that say that nothing can be appended to this image: it must be written anew instead. */
#define VMB_FOLD_IMPOSSIBLE (vmb_fold_impossible_quark())
GQuark vmb_fold_impossible_quark(void);
gboolean vmb_fold_impossible(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The sector that says which tables are in force: all of a header that is not zero. */
#define VMB_FOLD_HEADER 512u

typedef struct {
    const char *label; /* for messages */
    int image_fd, digests_fd;
    guint64 size;         /* exact, bytes of the disk */
    guint64 stored_bytes; /* of its data, by the manifest; of the parent only */
} VmbFoldImage;

typedef struct {
    VmbFoldImage parent; /* its image grows: open for reading and writing */
    VmbFoldImage child;  /* whose backing file the parent is; only read */
    int digests_out;     /* an empty file */
    GCancellable *cancel;
    void (*progress)(guint64 bytes, gpointer user); /* stored bytes that were copied; may be NULL */
    gpointer user;
} VmbFoldOptions;

typedef struct {
    VmbQcow2Summary summary; /* of the image when it is switched */
    gboolean compressed;
    guint64 digests_size; /* of digests_out */
    guint8 digests_digest[VMB_DIGEST_SIZE];
    /* Of the digest files that were read, for the caller to compare with what the manifests say. */
    guint8 parent_digests_digest[VMB_DIGEST_SIZE], child_digests_digest[VMB_DIGEST_SIZE];
    guint8 old_header[VMB_FOLD_HEADER], header[VMB_FOLD_HEADER];
    guint64 old_size;     /* bytes of the file before */
    guint64 copied_bytes; /* stored bytes of the child */
    guint64 hidden_bytes; /* stored bytes of the parent that nobody sees any more */
    GArray *damage;       /* guint64 disk offsets: blocks of the child whose stored form does not match
                           * its digest. They are copied as they are, and found again. */
} VmbFoldResult;
void vmb_fold_result_clear(VmbFoldResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbFoldResult, vmb_fold_result_clear)

/* The digests of header, L1 and refcount table, and of all other tables, as the manifest has them. Before an
 * image is changed they say that its tables can be relied upon. No data is read. Errors:
 * VMB_ERROR_DAMAGE. */
gboolean vmb_fold_metadata(int image_fd, guint64 size, const char *label,
                           guint8 head_digest[VMB_DIGEST_SIZE],
                           guint8 tables_digest[VMB_DIGEST_SIZE], GError **error);

/* Copies what the child stores, as it is stored, to places of the parent's file that nothing uses, and
 * writes new tables there. Nothing that the header in force leads to is changed; both files
 * are on disk when it returns, and each copied block has been read back through the new tables. Costs the
 * child's data and the tables of both. Memory does not depend on sizes. What vmb_fold_metadata()
 * reads must have been found right. Errors: VMB_ERROR_DAMAGE, VMB_ERROR_NO_SPACE, VMB_ERROR_CANCELLED;
 * VMB_FOLD_IMPOSSIBLE. After any error, or a kill, vmb_fold_undo() makes the file what it was. */
gboolean vmb_fold_append(const VmbFoldOptions *options, VmbFoldResult *result, GError **error);

/* Reads the sector in force. */
gboolean vmb_fold_read_header(int image_fd, guint8 header[VMB_FOLD_HEADER], const char *label,
                              GError **error);
/* Puts another one in force: one write of one sector, on disk when it returns. */
gboolean vmb_fold_switch(int image_fd, const guint8 header[VMB_FOLD_HEADER], const char *label,
                         GError **error);

/* With the old header in force: everything that it does not use becomes zero, and the file @old_size bytes
 * long. May be killed and repeated. */
gboolean vmb_fold_undo(int image_fd, guint64 size, guint64 old_size, const char *label,
                       GError **error);

/* With the new header in force: everything that only the old one led to becomes zero, a hole where the
 * filesystem has them. Nobody may have the old tables in memory any more. May be killed and
 * repeated. @size: of the disk, by the new header. */
gboolean vmb_fold_clean(int image_fd, guint64 size, const guint8 old_header[VMB_FOLD_HEADER],
                        const char *label, GError **error);
