/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a repository is, and whether that is where it was: what tells a copy from the original. */
#pragma once
#include "util/json.h"

typedef struct {
    char *path;       /* absolute and resolved */
    char *filesystem; /* a text that no other filesystem has, as far as can be told without
                       * trusting what a clone of its blocks has as well; NULL: nothing tells */
    guint64 inode;    /* of the repository's directory and of its domains/; 0 on filesystems
                       * without lasting numbers (FAT, exFAT, FUSE, SMB) */
    guint64 domains_inode;
    gint64 birth_ns; /* when the filesystem made domains/; 0: it does not tell */
    char **hosts;    /* NULL-terminated ids (vmb_host_id()) of those that its filesystem
                      * belongs to; empty: a filesystem that hosts share, or nobody knows */
    char *local_locks; /* not recorded: the mount option that keeps this host's locks from others */
} VmbPlace;
void vmb_place_free(VmbPlace *place);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbPlace, vmb_place_free)

/* The place of the open repository @root_fd; @path stands in messages. hosts is this host or empty.
 */
VmbPlace *vmb_place_look(int root_fd, const char *path, GError **error);

typedef enum {
    VMB_PLACE_SAME,
    VMB_PLACE_OTHER_HOST, /* all the same, on a filesystem that belongs to another host */
    VMB_PLACE_WITHOUT_LOCKS, /* made for several hosts, and mounted so that they do not see our locks */
    VMB_PLACE_COPY,
} VmbPlaceVerdict;

/* Is the repository that was recorded at @recorded the one that is at @now? In doubt it is a copy.
 */
VmbPlaceVerdict vmb_place_judge(const VmbPlace *recorded, const VmbPlace *now);

/* TRUE if the record of a repository that is at @now by vmb_place_judge() should be written anew:
 * it was moved, the filesystem got another text, or an older version recorded less. */
gboolean vmb_place_is_outdated(const VmbPlace *recorded, const VmbPlace *now);

/* The members of repository.json. Reading: VMB_ERROR_DAMAGE; absent members are unknown. */
void vmb_place_write(const VmbPlace *place, VmbJson *object);
VmbPlace *vmb_place_read(VmbJson *object, GError **error);
