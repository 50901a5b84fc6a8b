/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The files behind a disk of a point, opened by the manifests and checked against them. */
#include "job/chain-files.h"
#include "block/digest.h"
#include "image/qcow2-format.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/text.h"
#include "util/units.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define DIGEST_STEP (1024 * 1024)

struct VmbChainFiles {
    guint n_fds;
    int *image_fds, *digest_fds;
    VmbChain *chain;
};

void
vmb_chain_files_free(VmbChainFiles *files)
{
    if (files == NULL)
        return;
    vmb_chain_free(files->chain);
    for (guint i = 0; i < files->n_fds; i++) {
        vmb_fd_clear(&files->image_fds[i]);
        vmb_fd_clear(&files->digest_fds[i]);
    }
    g_free(files->image_fds);
    g_free(files->digest_fds);
    g_free(files);
}

VmbChain *
vmb_chain_files_chain(VmbChainFiles *files)
{
    return files->chain;
}

int
vmb_chain_files_image_fd(VmbChainFiles *files)
{
    return files->image_fds[0];
}

int
vmb_chain_files_layer_fd(VmbChainFiles *files, guint i)
{
    g_return_val_if_fail(i < files->n_fds, -1);
    return files->image_fds[i];
}

static int
open_checked(VmbPoint *point, const char *name, guint64 size, const char *label, GError **error)
{
    g_auto(VmbFd) fd = vmb_point_open_file(point, name, error);
    struct stat st;
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0) {
        vmb_error_errno(error, errno, "%s: cannot stat %s", label, name);
        return -1;
    }
    /* What a fold is appending is nothing that the image's header leads to. */
    gboolean growing = g_strcmp0(point->growing, name) == 0 && (guint64)st.st_size > size;
    if (!S_ISREG(st.st_mode) || ((guint64)st.st_size != size && !growing)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE,
                      "%s: %s has %" G_GUINT64_FORMAT " bytes, but the manifest says %"
                      G_GUINT64_FORMAT, label, name, (guint64)st.st_size, size);
        return -1;
    }
    return vmb_fd_steal(&fd);
}

/* Nobody follows the name in the header, but one that disagrees with the manifest is damage. The name of
 * the parent's file is only known with the parent at hand. */
static gboolean
backing_agrees(const char *backing, const VmbManifestDisk *disk, const VmbChainLink *parent)
{
    if (disk->parent == NULL || backing == NULL)
        return disk->parent == NULL && backing == NULL;
    g_autofree char *directory = vmb_layout_backing_file(disk->parent, "");
    if (!g_str_has_prefix(backing, directory))
        return FALSE;
    const char *file = backing + strlen(directory);
    return parent == NULL ? vmb_text_is_name(file) : strcmp(file, parent->disk->image) == 0;
}

/* How a chain is opened. */
typedef struct {
    VmbChainFiles *files;
    const GArray *links;
    const char *domain;
    gboolean digests, tolerant;
    gboolean *unverified; /* if tolerant */
    GPtrArray *labels;
} Opening;

static gboolean
check_header(const Opening *opening, guint i, GError **error)
{
    const VmbChainLink *link = &g_array_index(opening->links, VmbChainLink, i);
    const VmbChainLink *parent =
        i + 1 < opening->links->len ? &g_array_index(opening->links, VmbChainLink, i + 1) : NULL;
    const char *label = opening->labels->pdata[i];
    guint64 size = vmb_round_up(link->disk->size, 512);
    int fd = opening->files->image_fds[i];
    g_autoptr(VmbQcow2Reader) reader =
        opening->tolerant ? vmb_qcow2_reader_open_tolerant(fd, size, label, error)
                          : vmb_qcow2_reader_open(fd, size, label, error);
    if (reader == NULL)
        return FALSE;
    const char *backing = vmb_qcow2_reader_backing_file(reader);
    if (!backing_agrees(backing, link->disk, parent))
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "%s: the image's header names the backing file '%s', but by the "
                             "manifest its parent is %s", label,
                             backing != NULL ? backing : "(none)",
                             link->disk->parent != NULL ? link->disk->parent : "(none)");
    return TRUE;
}

static gboolean
has_digest(int fd, guint64 size, const guint8 expected[VMB_DIGEST_SIZE], const char *label)
{
    g_autofree guint8 *buffer = g_malloc(DIGEST_STEP);
    g_autoptr(VmbDigest) hash = vmb_digest_new();
    guint8 digest[VMB_DIGEST_SIZE];
    for (guint64 offset = 0; offset < size;) {
        gsize step = (gsize)MIN(size - offset, DIGEST_STEP);
        if (!vmb_fs_pread(fd, buffer, step, offset, label, NULL))
            return FALSE;
        vmb_digest_update(hash, buffer, step);
        offset += step;
    }
    vmb_digest_finish(hash, digest);
    return memcmp(digest, expected, sizeof digest) == 0;
}

/* A descriptor of the link's digest file if its content is what the manifest says, else -1. */
static int
open_good_digests(const VmbChainLink *link, const char *label)
{
    const VmbManifestDisk *disk = link->disk;
    g_auto(VmbFd) fd = open_checked(link->point, disk->digests, disk->digests_size, label, NULL);
    if (fd < 0 || !has_digest(fd, disk->digests_size, disk->digests_digest, label))
        return -1;
    return vmb_fd_steal(&fd);
}

static gboolean
open_link(const Opening *opening, guint i, GError **error)
{
    const VmbChainLink *link = &g_array_index(opening->links, VmbChainLink, i);
    const VmbManifestDisk *disk = link->disk;
    const char *label = opening->labels->pdata[i];
    int *image = &opening->files->image_fds[i], *digests = &opening->files->digest_fds[i];
    *image = opening->tolerant ? vmb_point_open_file(link->point, disk->image, error)
                               : open_checked(link->point, disk->image, disk->image_size, label,
                                              error);
    if (*image < 0 || !check_header(opening, i, error))
        return FALSE;
    if (!opening->digests)
        return TRUE;
    *digests = opening->tolerant
                   ? open_good_digests(link, label)
                   : open_checked(link->point, disk->digests, disk->digests_size, label, error);
    if (opening->tolerant)
        opening->unverified[i] = *digests < 0;
    return opening->tolerant || *digests >= 0;
}

static VmbChainFiles *
open_files(Opening *opening, guint n, GError **error)
{
    g_autoptr(VmbChainFiles) files = g_new0(VmbChainFiles, 1);
    g_autoptr(GPtrArray) labels = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) layers = g_array_new(FALSE, TRUE, sizeof(VmbChainLayer));
    opening->files = files;
    opening->labels = labels;
    files->n_fds = n;
    files->image_fds = g_new(int, n);
    files->digest_fds = g_new(int, n);
    for (guint i = 0; i < n; i++)
        files->image_fds[i] = files->digest_fds[i] = -1;
    for (guint i = 0; i < n; i++) {
        const VmbChainLink *link = &g_array_index(opening->links, VmbChainLink, i);
        char *label = g_strdup_printf("%s/%s disk %s", opening->domain, link->point->id,
                                      link->disk->target);
        g_ptr_array_add(labels, label);
        if (!open_link(opening, i, error))
            return NULL;
        VmbChainLayer layer = {label, files->image_fds[i], files->digest_fds[i], link->disk->size};
        g_array_append_val(layers, layer);
    }
    const VmbChainLayer *all = (const VmbChainLayer *)(gpointer)layers->data;
    files->chain = opening->tolerant ? vmb_chain_open_tolerant(all, n, error)
                                     : vmb_chain_open(all, n, error);
    return files->chain != NULL ? g_steal_pointer(&files) : NULL;
}

VmbChainFiles *
vmb_chain_files_open(const GArray *links, const char *domain, gboolean only_first,
                     gboolean digests, GError **error)
{
    return vmb_chain_files_open_part(links, only_first ? 1 : links->len, domain, digests, error);
}

VmbChainFiles *
vmb_chain_files_open_part(const GArray *links, guint n, const char *domain, gboolean digests,
                          GError **error)
{
    Opening opening = {.links = links, .domain = domain, .digests = digests};
    return open_files(&opening, n, error);
}

VmbChainFiles *
vmb_chain_files_open_tolerant(const GArray *links, const char *domain, gboolean only_first,
                              gboolean *unverified, GError **error)
{
    Opening opening = {.links = links,
                       .domain = domain,
                       .digests = TRUE,
                       .tolerant = TRUE,
                       .unverified = unverified};
    return open_files(&opening, only_first ? 1 : links->len, error);
}

gboolean
vmb_chain_files_check_digests(const GArray *links, const char *domain, GError **error)
{
    g_autoptr(VmbChainFiles) files = vmb_chain_files_open(links, domain, FALSE, TRUE, error);
    if (files == NULL)
        return FALSE;
    guint64 windows = (vmb_chain_size(files->chain) + VMB_QCOW2_L2_SPAN - 1) / VMB_QCOW2_L2_SPAN;
    for (guint64 index = 0; index < windows; index++) {
        const VmbChainWindow *window = NULL;
        if (!vmb_chain_window(files->chain, index, &window, error))
            return FALSE;
    }
    for (guint i = 0; i < links->len; i++) {
        const VmbChainLink *link = &g_array_index(links, VmbChainLink, i);
        guint8 digest[VMB_DIGEST_SIZE];
        if (!vmb_chain_digests_end(files->chain, i, digest, error))
            return FALSE;
        if (memcmp(digest, link->disk->digests_digest, VMB_DIGEST_SIZE) != 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s/%s disk %s: %s differs from the manifest's digest", domain,
                                 link->point->id, link->disk->target, link->disk->digests);
    }
    return TRUE;
}
