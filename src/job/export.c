/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of an export: the disks of a point served over NBD, until somebody has had enough. */
#include "job/export.h"
#include "image/bitmap-image.h"
#include "image/qcow2-format.h"
#include "image/qcow2-writer.h"
#include "job/changes.h"
#include "job/damage.h"
#include "job/export-nodes.h"
#include "repo/layout.h"
#include "repo/pins.h"
#include "util/error.h"
#include "util/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

/* To open chains of hundreds of images, on slow storage. */
#define START_NS (120 * G_GUINT64_CONSTANT(1000000000))
/* To write an overlay's tables, on slow storage. */
#define STOP_NS (600 * G_GUINT64_CONSTANT(1000000000))
#define BITMAP "since"
#define CONTEXT "qemu:dirty-bitmap:" BITMAP

typedef struct {
    const VmbManifestDisk *disk;
    GArray *links;
    VmbChainFiles *files;
    VmbFd top; /* overlay or bitmap; -1: none */
    guint64 size;
    VmbServedDisk *served; /* borrowed */
} Disk;

typedef struct {
    const VmbExportOptions *options;
    VmbPins *pins;
    GPtrArray *points;
    VmbPoint *point;
    VmbChanges *changes; /* NULL: none are asked for */
    GPtrArray *disks;
    VmbServePlace *place;
    VmbExportServer *server;
    VmbServed *served;
    char *kept;      /* path of the overlay, as long as it would have to be removed */
} Export;

static void
disk_free(gpointer data)
{
    Disk *disk = data;
    vmb_chain_files_free(disk->files);
    g_clear_pointer(&disk->links, g_array_unref);
    vmb_fd_clear(&disk->top);
    g_free(disk);
}

/* The server first: it has everything else open. */
static void
export_clear(Export *export)
{
    vmb_export_server_free(export->server);
    vmb_serve_place_free(export->place);
    if (export->kept != NULL)
        unlink(export->kept);
    g_clear_pointer(&export->disks, g_ptr_array_unref);
    vmb_changes_free(export->changes);
    vmb_pins_free(export->pins);
    g_clear_pointer(&export->points, g_ptr_array_unref);
    vmb_served_free(export->served);
    g_free(export->kept);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Export, export_clear)

/* ---- the point ---- */

static gboolean
check_options(const VmbExportOptions *options, GError **error)
{
    if (options->writable && options->since != NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--since tells what differs between two points; with --rw the disk changes");
    if (!options->writable && (options->overlay_dir != NULL || options->keep_overlay != NULL))
        return vmb_error_set(error, VMB_ERROR_USAGE, "--overlay-dir and --keep-overlay are for --rw");
    if (options->overlay_dir != NULL && options->keep_overlay != NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE, "--overlay-dir and --keep-overlay exclude each other");
    return TRUE;
}

static gboolean
open_changes(Export *export, VmbRepository *repository, GError **error)
{
    const VmbExportOptions *options = export->options;
    const VmbManifest *manifest = export->point->manifest;
    if (options->since == NULL)
        return TRUE;
    g_autofree char *older = g_strdup_printf("%s/%s", manifest->uuid, options->since);
    g_autofree char *newer = g_strdup_printf("%s/%s", manifest->uuid, manifest->id);
    export->changes =
        vmb_changes_open(repository, older, newer, options->disks, options->cancel, error);
    return export->changes != NULL;
}

/* Damage that is known, and that would be served. What is not known, QEMU may serve: it verifies no digests. */
static gboolean
check_damage(const Export *export, const Disk *disk, GError **error)
{
    gboolean seen = FALSE;
    g_autoptr(GArray) known = vmb_damage_known(disk->links, disk->disk->id);
    if (export->options->ignore_damage || known->len == 0)
        return TRUE;
    if (!vmb_damage_is_seen(known, vmb_chain_files_chain(disk->files), &seen, error))
        return FALSE;
    const VmbManifest *manifest = export->point->manifest;
    return !seen ||
           vmb_error_set(error, VMB_ERROR_DAMAGE,
                         "%s/%s disk %s: a verification has found damage in what it holds: `vmbackup "
                         "show %s/%s` lists it, --ignore-damage serves it all the same, and `restore "
                         "--ignore-damage` puts zeroes there", manifest->domain, manifest->id,
                         disk->disk->target, manifest->domain, manifest->id);
}

/* Header and tables of each layer must be those that were written: then what QEMU reads is at the right place. */
static gboolean
check_tables(const Export *export, const Disk *disk, GError **error)
{
    for (guint i = 0; i < disk->links->len; i++) {
        const VmbChainLink *link = &g_array_index(disk->links, VmbChainLink, i);
        guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
        g_autofree char *label = g_strdup_printf("%s/%s disk %s", export->point->manifest->domain,
                                                 link->point->id, link->disk->target);
        g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(
            vmb_chain_files_layer_fd(disk->files, i),
            vmb_round_up(link->disk->size, VMB_QCOW2_SECTOR), label, error);
        if (reader == NULL || !vmb_qcow2_reader_metadata(reader, head, tables, NULL, error))
            return FALSE;
        if (memcmp(head, link->disk->head_digest, sizeof head) != 0 ||
            memcmp(tables, link->disk->tables_digest, sizeof tables) != 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "%s: the image's tables differ from the manifest's digest; nothing is "
                                 "served, and `vmbackup verify` tells more", label);
    }
    return TRUE;
}

static gboolean
add_disk(Export *export, const VmbManifestDisk *manifest_disk, GError **error)
{
    Disk *disk = g_new0(Disk, 1);
    disk->top = -1;
    disk->disk = manifest_disk;
    disk->size = vmb_round_up(manifest_disk->size, VMB_QCOW2_SECTOR);
    g_ptr_array_add(export->disks, disk);
    disk->links = vmb_repo_chain(export->points, export->point, manifest_disk->id, error);
    if (disk->links == NULL)
        return FALSE;
    disk->files = vmb_chain_files_open(disk->links, export->point->manifest->domain, FALSE, FALSE,
                                       error);
    return disk->files != NULL && check_tables(export, disk, error) &&
           check_damage(export, disk, error);
}

static gboolean
choose_disks(Export *export, GError **error)
{
    const VmbManifest *manifest = export->point->manifest;
    const char *const *wanted = export->options->disks;
    gboolean all = wanted == NULL || wanted[0] == NULL;
    if (!vmb_manifest_check_targets(manifest, wanted, error))
        return FALSE;
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if ((all || g_strv_contains(wanted, disk->target)) && !add_disk(export, disk, error))
            return FALSE;
    }
    if (export->options->keep_overlay != NULL && export->disks->len != 1)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "--keep-overlay is for one disk: choose it with --disk");
    return TRUE;
}

/* ---- what lies on top ---- */

static int
make_overlay_file(Export *export, GError **error)
{
    const VmbExportOptions *options = export->options;
    if (options->keep_overlay != NULL) {
        int fd = open(options->keep_overlay, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            vmb_error_errno(error, errno, "cannot make the overlay %s", options->keep_overlay);
        else
            export->kept = g_strdup(options->keep_overlay);
        return fd;
    }
    const char *dir = options->overlay_dir != NULL ? options->overlay_dir : g_get_tmp_dir();
    g_autofree char *path = g_build_filename(dir, "vmbackup-overlay-XXXXXX", NULL);
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        vmb_error_errno(error, errno, "cannot make an overlay in %s", dir);
    else
        unlink(path); /* it is gone with the last who has it open, however that ends */
    return fd;
}

/* An image without any data, for QEMU to write into. */
static gboolean
make_overlay(Export *export, Disk *disk, GError **error)
{
    const VmbPoint *point = export->point;
    g_autofree char *directory = vmb_layout_path(export->options->repository, point->uuid, point->id);
    g_autofree char *relative = g_build_filename(directory, disk->disk->image, NULL);
    g_autofree char *below = g_canonicalize_filename(relative, NULL);
    gboolean kept = export->options->keep_overlay != NULL;
    if (strlen(below) > VMB_QCOW2_NAME_MAX)
        return vmb_error_set(error, VMB_ERROR_FAILED, "the path %s is too long for an image's header", below);
    disk->top = make_overlay_file(export, error);
    if (disk->top < 0)
        return FALSE;
    VmbQcow2WriterOptions options = {
        .size = disk->size, .backing_file = kept ? below : NULL, .label = "the overlay"};
    g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(disk->top, &options, error);
    return writer != NULL && vmb_qcow2_writer_finish(writer, NULL, error) &&
           vmb_fault_point("export-overlay-made", error);
}

static gboolean
set_range(guint64 offset, guint64 length, gboolean zero, gpointer user, GError **error)
{
    return vmb_bitmap_image_set(user, offset, length, error);
}

/* An image without any data whose bitmap says what has changed. */
static gboolean
make_bitmap(Export *export, guint index, GError **error)
{
    Disk *disk = export->disks->pdata[index];
    disk->top = memfd_create("vmbackup-changes", MFD_CLOEXEC);
    if (disk->top < 0)
        return vmb_error_errno(error, errno, "cannot make a file in memory");
    g_autoptr(VmbBitmapImage) image =
        vmb_bitmap_image_new(disk->top, disk->size, BITMAP, "the bitmap of changes");
    if (!vmb_changes_read(export->changes, index, set_range, image, error) ||
        !vmb_bitmap_image_finish(image, error))
        return FALSE;
    const VmbChangedDisk *changed = vmb_changes_disk(export->changes, index);
    disk->served->context = g_strdup(CONTEXT);
    disk->served->changed = changed->data;
    disk->served->zeroed = changed->zero;
    return TRUE;
}

/* ---- serving ---- */

static gboolean
add_export(Export *export, guint index, GError **error)
{
    Disk *disk = export->disks->pdata[index];
    const VmbExportOptions *options = export->options;
    const char *target = disk->disk->target;
    disk->served = g_new0(VmbServedDisk, 1);
    g_ptr_array_add(export->served->disks, disk->served);
    disk->served->target = g_strdup(target);
    disk->served->size = disk->size;
    disk->served->uri =
        vmb_listener_uri(vmb_serve_place_listener(export->place), target,
                         options->address.tls != VMB_TLS_NONE);
    if ((options->writable && !make_overlay(export, disk, error)) ||
        (export->changes != NULL && !make_bitmap(export, index, error)))
        return FALSE;
    g_autofree char *chain =
        vmb_export_nodes_chain(export->server, disk->files, disk->links->len, target);
    g_autofree char *top = disk->top >= 0 ? vmb_export_nodes_top(export->server, disk->top,
                                                                 options->writable, chain, target)
                                          : NULL;
    vmb_export_server_add_export(export->server, top != NULL ? top : chain, target,
                                 options->writable, export->changes != NULL ? BITMAP : NULL);
    return TRUE;
}

static gboolean
start(Export *export, GError **error)
{
    const VmbExportOptions *options = export->options;
    const VmbManifest *manifest = export->point->manifest;
    export->place = vmb_serve_place_new(&options->address, options->command != NULL, error);
    if (export->place == NULL)
        return FALSE;
    int fd = vmb_listener_fd(vmb_serve_place_listener(export->place));
    export->server = vmb_export_server_new(fd, options->address.tls, options->address.tls_dir);
    export->served = g_new0(VmbServed, 1);
    export->served->domain = g_strdup(manifest->domain);
    export->served->uuid = g_strdup(manifest->uuid);
    export->served->point = g_strdup(manifest->id);
    if (export->changes != NULL)
        export->served->since = g_strdup(vmb_changes_older(export->changes)->id);
    export->served->disks =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_served_disk_free);
    for (guint i = 0; i < export->disks->len; i++)
        if (!add_export(export, i, error))
            return FALSE;
    return vmb_export_server_start(export->server, START_NS, options->cancel, error);
}

/* QEMU writes what it still has in memory when it is told to end. */
static gboolean
finish(Export *export, GError **error)
{
    if (export->kept == NULL)
        return TRUE;
    const Disk *disk = export->disks->pdata[0];
    if (!vmb_export_server_stop(export->server, STOP_NS, error)) {
        g_prefix_error(error, "the overlay %s is of no use: ", export->kept);
        return FALSE;
    }
    if (!vmb_fs_sync(disk->top, export->kept, error))
        return FALSE;
    g_clear_pointer(&export->kept, g_free);
    return TRUE;
}

/* What was written into an overlay that is to be kept stays, whatever the command says. */
gboolean
vmb_export(const VmbExportOptions *options, int *status, GError **error)
{
    g_auto(Export) export = {.options = options};
    *status = 0;
    if (!check_options(options, error))
        return FALSE;
    vmb_fs_allow_many();
    export.disks = g_ptr_array_new_with_free_func(disk_free);
    g_autoptr(VmbRepository) repository = vmb_repository_open(options->repository, error);
    if (repository == NULL)
        return FALSE;
    export.pins = vmb_pins_take_named(repository, options->point, options->cancel, &export.point,
                                      &export.points, error);
    if (export.pins == NULL || !choose_disks(&export, error) ||
        !open_changes(&export, repository, error) || !start(&export, error))
        return FALSE;
    g_autoptr(GError) end = NULL;
    g_autoptr(VmbShell) left = NULL;
    gboolean served = vmb_serve(export.served, options->command,
                                vmb_export_server_fd(export.server), options->ready, options->user,
                                options->cancel, status, &left, &end);
    g_clear_pointer(&left, vmb_shell_free);
    g_autoptr(GError) after = NULL;
    gboolean finished = finish(&export, &after);
    if (!served || !finished)
        g_propagate_error(error, !served ? g_steal_pointer(&end) : g_steal_pointer(&after));
    return served && finished;
}
