/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finds the files behind a disk of a shut-off domain, as libvirt will when it starts it. */
#include "virt/image-chain.h"
#include "virt/domain-xml.h"
#include "virt/image-header.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* libvirt refuses longer chains. */
#define MAX_LAYERS 200

static gboolean
is_qcow2(const VmbDiskLayer *layer)
{
    return strcmp(layer->format, "qcow2") == 0;
}

static gboolean
is_known(const char *format)
{
    return strcmp(format, "qcow2") == 0 || strcmp(format, "raw") == 0;
}

/* "json:{...}", "nbd://..." and the like: QEMU takes everything before a colon for a protocol, if no
 * slash comes first. */
static gboolean
is_plain_path(const char *name)
{
    return name[strcspn(name, ":/")] != ':';
}

static char *
beside(const char *image, const char *name)
{
    if (g_path_is_absolute(name))
        return g_strdup(name);
    g_autofree char *directory = g_path_get_dirname(image);
    return g_build_filename(directory, name, NULL);
}

/* Why what the header says makes the layer unreadable; NULL if nothing does. */
static char *
judge(const VmbDiskLayer *layer, const VmbImageHeader *header)
{
    const char *path = layer->path;
    if (header->encrypted)
        return g_strdup_printf("%s is encrypted", path);
    if (header->incompatible & VMB_IMAGE_CORRUPT)
        return g_strdup_printf("%s is marked as corrupt; `qemu-img check -r all %s` may repair it",
                               path, path);
    if ((header->incompatible & VMB_IMAGE_DATA_FILE) &&
        (header->data_file == NULL || !is_plain_path(header->data_file)))
        return g_strdup_printf("%s has its data in a file that its header does not name by a path",
                               path);
    if (header->backing_file == NULL)
        return NULL;
    if (!is_plain_path(header->backing_file))
        return g_strdup_printf("%s names its backing file in another way than by a path", path);
    if (header->backing_format == NULL || !is_known(header->backing_format))
        return g_strdup_printf("%s does not say that its backing file is raw or qcow2; `qemu-img "
                               "rebase -u -b %s -F FORMAT %s` tells it", path, header->backing_file,
                               path);
    return NULL;
}

static char *
read_header(const VmbDiskLayer *layer, VmbImageHeader *header)
{
    char *why = NULL;
    g_auto(VmbFd) fd = open(layer->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    *header = (VmbImageHeader){0};
    if (fd < 0)
        return g_strdup_printf("%s cannot be opened: %s", layer->path, g_strerror(errno));
    if (!is_qcow2(layer))
        return NULL;
    if (vmb_image_header_read(fd, header, &why))
        return judge(layer, header);
    char *text = g_strdup_printf("%s is not the qcow2 image that it should be: %s", layer->path, why);
    g_free(why);
    return text;
}

/* @layer is in the chain already; *@below gets the next one, or NULL. */
static char *
look_at(VmbDiskLayer *layer, VmbDiskLayer **below)
{
    g_auto(VmbImageHeader) header = {0};
    *below = NULL;
    if (layer->path == NULL)
        return g_strdup("its image is no file or block device of this host");
    if (!is_known(layer->format))
        return g_strdup_printf("the format of %s is %s", layer->path, layer->format);
    char *why = read_header(layer, &header);
    if (why != NULL)
        return why;
    if (header.data_file != NULL && layer->data_file == NULL)
        layer->data_file = beside(layer->path, header.data_file);
    if (header.backing_file == NULL)
        return NULL;
    *below = g_new0(VmbDiskLayer, 1);
    (*below)->path = beside(layer->path, header.backing_file);
    (*below)->format = g_strdup(header.backing_format);
    return NULL;
}

static char *
find_layers(VmbDiskInfo *disk)
{
    for (guint i = 0; i < disk->layers->len; i++) {
        VmbDiskLayer *below = NULL;
        char *why = look_at(disk->layers->pdata[i], &below);
        gboolean wanted = !disk->chain_given && i + 1 == disk->layers->len;
        if (below != NULL && wanted)
            g_ptr_array_add(disk->layers, g_steal_pointer(&below));
        if (below != NULL)
            vmb_disk_layer_free(below);
        if (why != NULL)
            return why;
        if (disk->layers->len > MAX_LAYERS)
            return g_strdup("its chain of images is longer than libvirt allows, or goes in circles");
    }
    return NULL;
}

void
vmb_image_chain_find(VmbDiskInfo *disk)
{
    if (!disk->has_medium)
        return;
    if (disk->encrypted)
        disk->offline_why = g_strdup("it is encrypted");
    else if (disk->sliced)
        disk->offline_why = g_strdup("its image is only a slice of its file");
    else
        disk->offline_why = find_layers(disk);
}
