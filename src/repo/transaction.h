/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The one unpublished point of a domain: files are staged, made durable, then published whole. */
#pragma once
#include "repo/state.h"

typedef struct VmbTransaction VmbTransaction;

/* Removes what a dead run staged, makes staging/ anew. Under the domain's writer lock. */
VmbTransaction *vmb_transaction_begin(VmbRepoDomain *domain, GError **error);
/* Removes staging/ unless it was published. */
void vmb_transaction_free(VmbTransaction *transaction);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbTransaction, vmb_transaction_free)

/* What a dead run staged: whether there is any, and removing it. The latter under the domain's writer lock,
 * without a transaction. */
gboolean vmb_transaction_has_leftover(VmbRepoDomain *domain);
gboolean vmb_transaction_remove_leftover(VmbRepoDomain *domain, GError **error);

int vmb_transaction_fd(VmbTransaction *transaction);
/* What state.json of the new point will say, to be filled before publishing; nothing at first. */
VmbPointState *vmb_transaction_state(VmbTransaction *transaction);
/* A new file of the point, 0600, open for reading and writing; -1 on error. The caller closes. */
int vmb_transaction_create(VmbTransaction *transaction, const char *name, GError **error);
/* Takes a file of the point in the making away again, so that it can be made anew. */
gboolean vmb_transaction_discard(VmbTransaction *transaction, const char *name, GError **error);
/* Writes a whole small file and appends its VmbManifestFile to @manifest. @origin may be NULL. */
gboolean vmb_transaction_add_file(VmbTransaction *transaction, VmbManifest *manifest,
                                  const char *name, const char *role, const char *origin,
                                  const void *content, gsize length, GError **error);
/* The same for a file of any size, read from @fd to its end. */
gboolean vmb_transaction_copy_file(VmbTransaction *transaction, VmbManifest *manifest,
                                   const char *name, const char *role, const char *origin, int fd,
                                   GError **error);

/* A point id for @time_ns that is not taken: a counter (-2, -3...) is appended within one second.
 */
char *vmb_transaction_new_id(VmbRepoDomain *domain, gint64 time_ns);

typedef enum {
    VMB_UNPUBLISHED, /* the point is not there */
    VMB_VISIBLE,     /* renamed, but it is not known to be on disk: delete no checkpoint */
    VMB_DURABLE,
} VmbPublished;

/* Writes manifest.json, state.json and lock, fsyncs all files and staging/, renames it to
 * points/ID, fsyncs points/. *@published says how far it came, also on error. */
gboolean vmb_transaction_publish(VmbTransaction *transaction, const VmbManifest *manifest,
                                 VmbPublished *published, GError **error);
