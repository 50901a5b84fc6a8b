/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files behind a running disk are: recorded in the manifest, compared the next time. */
#include "job/source-layers.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define HEADER_BYTES 65536

static char *
digest_header(int fd, guint64 size)
{
    gsize length = (gsize)MIN(size, HEADER_BYTES);
    g_autofree guchar *header = g_malloc(HEADER_BYTES);
    if (!vmb_fs_pread(fd, header, length, 0, "header", NULL))
        return NULL;
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, header, length);
}

/* Its number is given to another file when a file is gone; the time of its making tells them apart. */
static guint64
birth_of(int fd)
{
    struct statx st;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) < 0 || (st.stx_mask & STATX_BTIME) == 0 ||
        st.stx_btime.tv_sec < 0)
        return 0;
    return (guint64)st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec;
}

/* What cannot be looked at, as it is behind the network (@path NULL) or unreadable, gets zeroes. */
static VmbSourceLayer *
look_at(const char *path, const char *format)
{
    VmbSourceLayer *layer = g_new0(VmbSourceLayer, 1);
    struct stat st;
    layer->path = g_strdup(path);
    layer->format = g_strdup(format);
    if (path == NULL)
        return layer;
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0) {
        vmb_debug("cannot look at %s: %s", path, g_strerror(errno));
        return layer;
    }
    layer->device = S_ISBLK(st.st_mode) ? (guint64)st.st_rdev : (guint64)st.st_dev;
    layer->inode = (guint64)st.st_ino;
    layer->size = (guint64)st.st_size;
    layer->mtime_ns = (gint64)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    layer->ctime_ns = (guint64)MAX(st.st_ctim.tv_sec, 0) * 1000000000 + st.st_ctim.tv_nsec;
    layer->birth_ns = S_ISREG(st.st_mode) ? birth_of(fd) : 0;
    layer->header_digest = S_ISREG(st.st_mode) ? digest_header(fd, layer->size) : NULL;
    return layer;
}

GPtrArray *
vmb_source_layers(const VmbDiskInfo *disk)
{
    GPtrArray *layers =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_source_layer_free);
    for (guint i = 0; i < disk->layers->len; i++) {
        const VmbDiskLayer *layer = disk->layers->pdata[i];
        g_ptr_array_add(layers, look_at(layer->path, layer->format));
        if (layer->data_file != NULL)
            g_ptr_array_add(layers, look_at(layer->data_file, "raw"));
    }
    return layers;
}

static gboolean
same_birth(const VmbSourceLayer *a, const VmbSourceLayer *b)
{
    return a->birth_ns == 0 || b->birth_ns == 0 || a->birth_ns == b->birth_ns;
}

gboolean
vmb_source_layers_same_active(const GPtrArray *before, const GPtrArray *now)
{
    if (before->len == 0 || now->len == 0)
        return FALSE;
    const VmbSourceLayer *a = before->pdata[0], *b = now->pdata[0];
    /* A file that was moved keeps its inode; device numbers may change over a reboot, so the same
     * path with the same inode is the same file too. */
    return a->inode != 0 && a->inode == b->inode && same_birth(a, b) &&
           (a->device == b->device || g_strcmp0(a->path, b->path) == 0);
}

/* Without the digest of its header nobody knows whether a layer changed; block devices have none,
 * for what is written to them leaves no trace in their node. */
static gboolean
same_unchanged(const VmbSourceLayer *a, const VmbSourceLayer *b)
{
    return a->header_digest != NULL && g_strcmp0(a->path, b->path) == 0 &&
           a->inode == b->inode && same_birth(a, b) && a->size == b->size &&
           a->mtime_ns == b->mtime_ns &&
           g_strcmp0(a->format, b->format) == 0 &&
           g_strcmp0(a->header_digest, b->header_digest) == 0;
}

static gboolean
all_unchanged(const GPtrArray *before, const GPtrArray *now, guint from)
{
    if (before->len != now->len)
        return FALSE;
    for (guint i = from; i < now->len; i++)
        if (!same_unchanged(before->pdata[i], now->pdata[i]))
            return FALSE;
    return TRUE;
}

/* Starting a domain changes the owner of a template, and so its time of change, and nothing in it; but what
 * is not read at all must not have been touched. */
gboolean
vmb_source_layers_unchanged(const GPtrArray *before, const GPtrArray *now)
{
    if (now->len == 0 || !all_unchanged(before, now, 0))
        return FALSE;
    for (guint i = 0; i < now->len; i++) {
        const VmbSourceLayer *a = before->pdata[i], *b = now->pdata[i];
        if (a->ctime_ns == 0 || a->ctime_ns != b->ctime_ns)
            return FALSE;
    }
    return TRUE;
}

gboolean
vmb_source_layers_same_below(const GPtrArray *before, const GPtrArray *now)
{
    return all_unchanged(before, now, 1);
}
