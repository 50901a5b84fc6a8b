/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who pulls changes of the running domain for purposes of its own: since which checkpoint it has all. */
#include "repo/consumer.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/manifest-json.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define FORMAT 1
#define NAME_MAX_BYTES 64
#define SUFFIX ".json"
#define MAX_DISKS 1024u

static void
disk_free(gpointer data)
{
    VmbConsumerDisk *disk = data;
    g_free(disk->id);
    g_free(disk->target);
    g_ptr_array_unref(disk->layers);
    g_free(disk);
}

VmbConsumer *
vmb_consumer_new(const char *name, const char *checkpoint, gint64 time_ns)
{
    VmbConsumer *consumer = g_new0(VmbConsumer, 1);
    consumer->name = g_strdup(name);
    consumer->checkpoint = g_strdup(checkpoint);
    consumer->time_ns = time_ns;
    consumer->disks = g_ptr_array_new_with_free_func(disk_free);
    return consumer;
}

void
vmb_consumer_add_disk(VmbConsumer *consumer, const char *id, const char *target, guint64 size,
                      GPtrArray *layers)
{
    VmbConsumerDisk *disk = g_new0(VmbConsumerDisk, 1);
    *disk = (VmbConsumerDisk){g_strdup(id), g_strdup(target), size, g_ptr_array_ref(layers)};
    g_ptr_array_add(consumer->disks, disk);
}

const VmbConsumerDisk *
vmb_consumer_find_disk(const VmbConsumer *consumer, const char *id)
{
    for (guint i = 0; i < consumer->disks->len; i++) {
        const VmbConsumerDisk *disk = consumer->disks->pdata[i];
        if (strcmp(disk->id, id) == 0)
            return disk;
    }
    return NULL;
}

void
vmb_consumer_free(VmbConsumer *consumer)
{
    if (consumer == NULL)
        return;
    g_free(consumer->name);
    g_free(consumer->checkpoint);
    g_ptr_array_unref(consumer->disks);
    g_free(consumer);
}

gboolean
vmb_consumer_is_name(const char *name)
{
    gsize length = strlen(name);
    return length >= 1 && length <= NAME_MAX_BYTES && name[0] != '.' && name[0] != '-' &&
           strspn(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-") == length;
}

/* -1 with errno. */
static int
open_directory(int domain_fd)
{
    return openat(domain_fd, VMB_LAYOUT_CONSUMERS, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- the document ---- */

static gboolean
read_disk(VmbJson *object, VmbConsumer *consumer, GError **error)
{
    const char *id = NULL, *target = NULL;
    guint64 size = 0;
    g_autoptr(GPtrArray) layers =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_source_layer_free);
    if (!vmb_json_get_string(object, "id", &id, error) ||
        !vmb_json_get_string(object, "target", &target, error) ||
        !vmb_json_get_uint(object, "size", &size, error) ||
        !vmb_manifest_layers_read(object, layers, error))
        return FALSE;
    vmb_consumer_add_disk(consumer, id, target, size, layers);
    return TRUE;
}

static VmbConsumer *
parse(VmbJson *object, const char *name, GError **error)
{
    const char *checkpoint = NULL, *time = NULL;
    VmbJson *disks = NULL;
    gint64 time_ns = 0;
    if (!vmb_json_get_string(object, "checkpoint", &checkpoint, error) ||
        !vmb_json_get_string(object, "time", &time, error) ||
        !vmb_json_get_array(object, "disks", &disks, error))
        return NULL;
    if (!vmb_units_parse_time(time, &time_ns) || json_object_array_length(disks) > MAX_DISKS) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "the consumer '%s' cannot be read", name);
        return NULL;
    }
    g_autoptr(VmbConsumer) consumer = vmb_consumer_new(name, checkpoint, time_ns);
    for (gsize i = 0; i < json_object_array_length(disks); i++)
        if (!read_disk(json_object_array_get_idx(disks, i), consumer, error))
            return NULL;
    return g_steal_pointer(&consumer);
}

gboolean
vmb_consumer_read(int domain_fd, const char *name, VmbConsumer **consumer, GError **error)
{
    g_autofree char *file = g_strconcat(name, SUFFIX, NULL);
    g_autofree char *label = g_strdup_printf("the consumer '%s'", name);
    *consumer = NULL;
    if (!vmb_consumer_is_name(name))
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "'%s' is no name of a consumer: up to %d letters, digits, '.', '_' and '-'", name,
                             NAME_MAX_BYTES);
    g_auto(VmbFd) dir = open_directory(domain_fd);
    if (dir < 0 && errno == ENOENT)
        return TRUE;
    if (dir < 0)
        return vmb_error_errno(error, errno, "cannot open the directory of consumers");
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbJson) object = vmb_sealed_read(dir, file, FORMAT, label, &local);
    if (object != NULL)
        *consumer = parse(object, name, &local);
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

gboolean
vmb_consumer_write(int domain_fd, const VmbConsumer *consumer, GError **error)
{
    g_autofree char *file = g_strconcat(consumer->name, SUFFIX, NULL);
    g_autofree char *time = vmb_units_format_time(consumer->time_ns);
    if (!vmb_directory_make(domain_fd, VMB_LAYOUT_CONSUMERS, NULL, error) ||
        !vmb_fs_sync(domain_fd, VMB_LAYOUT_CONSUMERS, error))
        return FALSE;
    g_auto(VmbFd) dir = open_directory(domain_fd);
    if (dir < 0)
        return vmb_error_errno(error, errno, "cannot open the directory of consumers");
    g_autoptr(VmbJson) object = json_object_new_object();
    VmbJson *disks = json_object_new_array();
    vmb_json_add_uint(object, "format", FORMAT);
    vmb_json_add_string(object, "name", consumer->name);
    vmb_json_add_string(object, "checkpoint", consumer->checkpoint);
    vmb_json_add_string(object, "time", time);
    for (guint i = 0; i < consumer->disks->len; i++) {
        const VmbConsumerDisk *disk = consumer->disks->pdata[i];
        VmbJson *entry = json_object_new_object();
        vmb_json_add_string(entry, "id", disk->id);
        vmb_json_add_string(entry, "target", disk->target);
        vmb_json_add_uint(entry, "size", disk->size);
        vmb_manifest_layers_write(entry, disk->layers);
        json_object_array_add(disks, entry);
    }
    vmb_json_add(object, "disks", disks);
    return vmb_sealed_write(dir, file, object, error);
}

/* ---- all of them ---- */

GPtrArray *
vmb_consumer_names(int domain_fd, GError **error)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_auto(VmbFd) dir = open_directory(domain_fd);
    if (dir < 0 && errno == ENOENT)
        return names;
    g_autoptr(GPtrArray) files = dir >= 0 ? vmb_directory_list(dir, error) : NULL;
    if (dir < 0)
        vmb_error_errno(error, errno, "cannot open the directory of consumers");
    if (files == NULL) {
        g_ptr_array_unref(names);
        return NULL;
    }
    for (guint i = 0; i < files->len; i++) {
        g_autofree char *name = g_strdup(files->pdata[i]);
        if (!g_str_has_suffix(name, SUFFIX))
            continue;
        name[strlen(name) - strlen(SUFFIX)] = '\0';
        if (vmb_consumer_is_name(name))
            g_ptr_array_add(names, g_steal_pointer(&name));
    }
    return names;
}

gboolean
vmb_consumer_remove(int domain_fd, const char *name, GError **error)
{
    g_autofree char *file = g_strconcat(name, SUFFIX, NULL);
    g_auto(VmbFd) dir = open_directory(domain_fd);
    if (dir < 0 || !vmb_consumer_is_name(name))
        return TRUE;
    if (vmb_fs_unlink(dir, file, 0) < 0 && errno != ENOENT)
        return vmb_error_errno(error, errno, "cannot forget the consumer '%s'", name);
    return vmb_fs_sync(dir, VMB_LAYOUT_CONSUMERS, error);
}

gboolean
vmb_consumer_needs(int domain_fd, const char *checkpoint)
{
    g_autoptr(GPtrArray) names = vmb_consumer_names(domain_fd, NULL);
    for (guint i = 0; names != NULL && i < names->len; i++) {
        g_autoptr(VmbConsumer) consumer = NULL;
        if (!vmb_consumer_read(domain_fd, names->pdata[i], &consumer, NULL) ||
            (consumer != NULL && strcmp(consumer->checkpoint, checkpoint) == 0))
            return TRUE;
    }
    return names == NULL;
}
