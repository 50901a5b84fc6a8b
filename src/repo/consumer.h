/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who pulls changes of the running domain for purposes of its own: since which checkpoint it has all. */
#pragma once
#include <glib.h>

typedef struct {
    char *id, *target;
    guint64 size;      /* bytes */
    GPtrArray *layers; /* VmbSourceLayer: its images, as in a manifest */
} VmbConsumerDisk;

/* domains/<uuid>/consumers/NAME.json, sealed. */
typedef struct {
    char *name;
    char *checkpoint; /* what has changed since is in its bitmaps */
    gint64 time_ns;   /* of that moment */
    GPtrArray *disks; /* VmbConsumerDisk, those that the checkpoint covers */
} VmbConsumer;
VmbConsumer *vmb_consumer_new(const char *name, const char *checkpoint, gint64 time_ns);
/* @layers: gets another reference. */
void vmb_consumer_add_disk(VmbConsumer *consumer, const char *id, const char *target, guint64 size,
                           GPtrArray *layers);
const VmbConsumerDisk *vmb_consumer_find_disk(const VmbConsumer *consumer, const char *id);
void vmb_consumer_free(VmbConsumer *consumer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbConsumer, vmb_consumer_free)

/* TRUE if it can be the name of one: 1 to 64 letters, digits, '.', '_' and '-', not beginning with '.' or '-'. */
gboolean vmb_consumer_is_name(const char *name);

/* *@consumer is NULL if there is none of this name. Errors: VMB_ERROR_DAMAGE and others. */
gboolean vmb_consumer_read(int domain_fd, const char *name, VmbConsumer **consumer, GError **error);
/* Durable when it returns. */
gboolean vmb_consumer_write(int domain_fd, const VmbConsumer *consumer, GError **error);
/* Names (char *, sorted) of all that there are. */
GPtrArray *vmb_consumer_names(int domain_fd, GError **error);
/* Forgets one; an unknown one is no error. */
gboolean vmb_consumer_remove(int domain_fd, const char *name, GError **error);

/* TRUE if one of them needs @checkpoint, or one cannot be read: then nobody knows. */
gboolean vmb_consumer_needs(int domain_fd, const char *checkpoint);
