/* SPDX-License-Identifier: GPL-2.0-or-later */
/* state.json of a point: the part that may change after publishing. */
#pragma once
#include "repo/repository.h"

/* What a verification found damaged of a disk: the next incremental takes it from the guest again. */
typedef struct {
    char *disk;             /* its identity */
    guint64 offset, length; /* guest-visible bytes, not empty */
} VmbDamage;

#define VMB_STATE_MAX_DAMAGE 1000u /* beyond that a range that covers all of them stands for them */
#define VMB_STATE_MAX_TAGS 64u

typedef struct {
    gint64 verified_ns;  /* end of the last verification that read everything; 0: never */
    char *verify_result; /* of the last one: "ok", "damaged" or NULL */
    gint64 checked_ns;   /* end of the last verification of any kind; 0: never */
    gboolean is_protected;
    gboolean metadata_damaged; /* nothing can build on this point: the next backup is a full */
    GPtrArray *tags;           /* char *, sorted; NULL: none */
    GPtrArray *damage;         /* VmbDamage; NULL: none */
} VmbPointState;

void vmb_point_state_clear(VmbPointState *state);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbPointState, vmb_point_state_clear)

/* Appends a range of damage. */
void vmb_point_state_add_damage(VmbPointState *state, const char *disk, guint64 offset,
                                guint64 length);
void vmb_point_state_clear_damage(VmbPointState *state);
gboolean vmb_point_state_has_tag(const VmbPointState *state, const char *tag);
/* FALSE if it is no tag (vmb_text_is_name() says which names are) or there are too many. */
gboolean vmb_point_state_add_tag(VmbPointState *state, const char *tag);
/* Whether users may give these tags (NULL-terminated, or NULL) to a point: VMB_ERROR_USAGE. */
gboolean vmb_point_state_check_tags(const char *const *tags, GError **error);
void vmb_point_state_remove_tag(VmbPointState *state, const char *tag);

/* A missing file reads as "never verified"; vmb_check_point() tells of it. Members that this
 * version does not know are kept by a rewrite. Errors: VMB_ERROR_DAMAGE, also when writing over a
 * damaged one; VMB_ERROR_NO_REPOSITORY for a newer format; VMB_ERROR_FAILED. */
gboolean vmb_point_state_read(VmbPoint *point, VmbPointState *state, GError **error);
gboolean vmb_point_state_write(VmbPoint *point, const VmbPointState *state, GError **error);

/* Reads, lets @change change it, and writes, so that of two who do that at the same time neither is lost.
 * Errors: as of both. */
gboolean vmb_point_state_change(VmbPoint *point,
                                void (*change)(VmbPointState *state, gpointer user), gpointer user,
                                GError **error);
