/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points a verification reads, and in which order: the longest unverified first. */
#pragma once
#include <gio/gio.h>
#include "repo/repository.h"

/* A point, or what is still needed of one that is retired. */
typedef struct {
    char *uuid, *id;
    guint64 sequence;     /* 0: its manifest is damaged */
    guint64 bytes;        /* that would be read */
    gint64 made_ns;       /* 0: not known */
    gint64 verified_ns;   /* end of the last full verification; 0: never */
    gboolean forgetful;   /* its state cannot be kept, so that it would always be the next */
} VmbVerifyItem;
void vmb_verify_item_free(VmbVerifyItem *item);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbVerifyItem, vmb_verify_item_free)

/* Items of @points (all of a domain): the visible ones, and the retired ones that they still need. With
 * @only (a set of ids) just those. Reads their states. Appends to @items. */
void vmb_verify_list(GPtrArray *points, GHashTable *only, GPtrArray *items);

/* What visible points still need: a set of keys, from vmb_verify_key(). */
GHashTable *vmb_verify_needed(GPtrArray *points);
char *vmb_verify_key(const char *id, const char *disk_id);
/* Disks of @point that are to be verified (VmbManifestDisk, borrowed): all, or of a retired point those that are
 * needed. */
GPtrArray *vmb_verify_disks(const VmbPoint *point, GHashTable *needed);

#define VMB_VERIFY_ALL 1000000u /* parts per million */

typedef struct {
    guint sample;           /* so many millionths of the bytes, at least one point; VMB_VERIFY_ALL: all */
    guint64 older_than_ns;  /* only what was not verified for so long; 0: whenever */
    gint64 now_ns;
} VmbVerifyChoice;

/* Sorts @items: first what has not been verified for the longest time, counted from its making if it never
 * was. So whatever is added, what is there has its turn after a while. Those that were verified lately are
 * removed, by the choice. A time that lies in the future is no time. */
void vmb_verify_sort(GPtrArray *items, const VmbVerifyChoice *choice);

/* How many items from @first on are to be verified, of @items that together have @total bytes. @done: bytes
 * verified by then; *@bytes: those of the items that count. */
guint vmb_verify_take(const GPtrArray *items, guint first, guint64 total, guint64 done,
                      const VmbVerifyChoice *choice);
