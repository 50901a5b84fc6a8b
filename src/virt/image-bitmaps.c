/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The dirty bitmaps that qcow2 images hold: listing them from the file, and removing one from an
 * image that nobody has open. */
#include "virt/image-bitmaps.h"
#include "virt/image-edit.h"
#include "virt/image-lock.h"
#include "image/qcow2-format.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <sys/stat.h>
#include <unistd.h>

/* Version 3 header and its extensions. */
#define HEADER_MIN 104u
#define HEADER_BYTES 65536u
#define OFFSET_VERSION 4
#define OFFSET_BACKING 8
#define OFFSET_BACKING_LENGTH 16
#define OFFSET_AUTOCLEAR 88
#define OFFSET_HEADER_LENGTH 100
#define AUTOCLEAR_BITMAPS G_GUINT64_CONSTANT(1)
#define EXTENSION_BITMAPS 0x23852875u
#define EXTENSION_BITMAPS_SIZE 24u
/* A directory entry: table offset u64, table size u32, flags u32, type u8, granularity u8, name's
 * length u16, extra data's length u32; extra data and name follow, padded to 8 bytes. */
#define ENTRY_BYTES 24u
#define ENTRY_FLAGS 12
#define ENTRY_NAME_LENGTH 18
#define ENTRY_EXTRA_LENGTH 20
#define FLAG_IN_USE 1u
/* The version of qcow2 whose header has no room for what bitmaps need. */
#define WITHOUT_BITMAPS 2u
/* QEMU's own limits. */
#define MAX_BITMAPS 65535u
#define MAX_DIRECTORY (64u * 1024 * 1024)
#define MAX_NAME 1023u
#define MAX_LAYERS 200u

void
vmb_image_bitmap_free(VmbImageBitmap *bitmap)
{
    g_free(bitmap->name);
    g_free(bitmap);
}

/* ---- the header ---- */

static gboolean
is_qcow2(const guint8 *header, gsize length)
{
    if (length < HEADER_MIN || vmb_qcow2_get32(header) != VMB_QCOW2_MAGIC)
        return FALSE;
    guint32 version = vmb_qcow2_get32(header + OFFSET_VERSION);
    return version == WITHOUT_BITMAPS || version == VMB_QCOW2_VERSION;
}

static int
open_image(const char *path, guint8 *header, gsize *length, GError **error)
{
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ssize_t got = fd >= 0 ? pread(fd, header, HEADER_BYTES, 0) : -1;
    if (got < 0) {
        vmb_error_errno(error, errno, "cannot read the header of %s", path);
        return -1;
    }
    if (!is_qcow2(header, (gsize)got)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "%s is no qcow2 image", path);
        return -1;
    }
    *length = (gsize)got;
    return vmb_fd_steal(&fd);
}

/* The extensions follow the header: type, length, data padded to 8 bytes; type 0 ends them. */
static const guint8 *
find_extension(const guint8 *header, gsize length, guint32 wanted, guint32 *size)
{
    gsize at = vmb_qcow2_get32(header + OFFSET_HEADER_LENGTH);
    while (at >= HEADER_MIN && at + 8 <= length) {
        guint32 type = vmb_qcow2_get32(header + at);
        *size = vmb_qcow2_get32(header + at + 4);
        at += 8;
        if (type == 0 || *size > length - at)
            return NULL;
        if (type == wanted)
            return header + at;
        at += ((gsize)*size + 7) & ~(gsize)7;
    }
    return NULL;
}

/* ---- the directory ---- */

static VmbImageBitmap *
read_entry(const guint8 *entry, gsize left, gsize *used)
{
    if (left < ENTRY_BYTES)
        return NULL;
    guint32 extra = vmb_qcow2_get32(entry + ENTRY_EXTRA_LENGTH);
    guint name_length = (guint)entry[ENTRY_NAME_LENGTH] << 8 | entry[ENTRY_NAME_LENGTH + 1];
    if (name_length == 0 || name_length > MAX_NAME || extra > left - ENTRY_BYTES ||
        name_length > left - ENTRY_BYTES - extra)
        return NULL;
    VmbImageBitmap *bitmap = g_new0(VmbImageBitmap, 1);
    bitmap->name = g_strndup((const char *)entry + ENTRY_BYTES + extra, name_length);
    bitmap->in_use = (vmb_qcow2_get32(entry + ENTRY_FLAGS) & FLAG_IN_USE) != 0;
    *used = (ENTRY_BYTES + (gsize)extra + name_length + 7) & ~(gsize)7;
    return bitmap;
}

static gboolean
read_directory(const guint8 *directory, gsize length, guint32 count, GPtrArray *bitmaps)
{
    for (guint32 i = 0; i < count; i++) {
        gsize used = 0;
        VmbImageBitmap *bitmap = read_entry(directory, length, &used);
        if (bitmap == NULL)
            return FALSE;
        g_ptr_array_add(bitmaps, bitmap);
        if (used > length)
            return FALSE;
        directory += used;
        length -= used;
    }
    return TRUE;
}

GPtrArray *
vmb_image_bitmaps_read(const char *path, GError **error)
{
    g_autofree guint8 *header = g_malloc(HEADER_BYTES);
    gsize length = 0;
    guint32 size = 0;
    g_autoptr(GPtrArray) bitmaps =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_image_bitmap_free);
    g_auto(VmbFd) fd = open_image(path, header, &length, error);
    if (fd < 0)
        return NULL;
    if (vmb_qcow2_get32(header + OFFSET_VERSION) == WITHOUT_BITMAPS)
        return g_steal_pointer(&bitmaps);
    const guint8 *found = find_extension(header, length, EXTENSION_BITMAPS, &size);
    /* Without the flag somebody wrote the image who knows nothing of bitmaps: QEMU drops them. */
    if (found == NULL || (vmb_qcow2_get64(header + OFFSET_AUTOCLEAR) & AUTOCLEAR_BITMAPS) == 0)
        return g_steal_pointer(&bitmaps);
    guint32 count = size >= EXTENSION_BITMAPS_SIZE ? vmb_qcow2_get32(found) : G_MAXUINT32;
    guint64 bytes = count <= MAX_BITMAPS ? vmb_qcow2_get64(found + 8) : G_MAXUINT64;
    guint64 offset = bytes <= MAX_DIRECTORY ? vmb_qcow2_get64(found + 16) : 0;
    if (bytes > MAX_DIRECTORY || offset > (guint64)G_MAXINT64 - MAX_DIRECTORY) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s: its directory of bitmaps is damaged", path);
        return NULL;
    }
    g_autofree guint8 *directory = g_malloc(bytes + 1);
    if (!vmb_fs_pread(fd, directory, bytes, offset, path, error))
        return NULL;
    if (!read_directory(directory, bytes, count, bitmaps)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s: its directory of bitmaps is damaged", path);
        return NULL;
    }
    return g_steal_pointer(&bitmaps);
}

gboolean
vmb_image_bitmaps_have(const GPtrArray *bitmaps, const char *name)
{
    for (guint i = 0; i < bitmaps->len; i++)
        if (g_strcmp0(((const VmbImageBitmap *)bitmaps->pdata[i])->name, name) == 0)
            return TRUE;
    return FALSE;
}

/* ---- the chain ---- */

/* The path of a plain local file; NULL for none, and for all that QEMU reads as something else. */
static char *
backing_path(const char *path, const guint8 *header, gsize length)
{
    guint64 at = vmb_qcow2_get64(header + OFFSET_BACKING);
    guint32 size = vmb_qcow2_get32(header + OFFSET_BACKING_LENGTH);
    if (at == 0 || size == 0 || size > VMB_QCOW2_NAME_MAX || size > length || at > length - size)
        return NULL;
    g_autofree char *name = g_strndup((const char *)header + at, size);
    if (name[strcspn(name, ":/")] == ':')
        return NULL;
    if (g_path_is_absolute(name))
        return g_steal_pointer(&name);
    g_autofree char *directory = g_path_get_dirname(path);
    return g_build_filename(directory, name, NULL);
}

GPtrArray *
vmb_image_bitmaps_chain(const char *path)
{
    GPtrArray *layers = g_ptr_array_new_with_free_func(g_free);
    g_autofree guint8 *header = g_malloc(HEADER_BYTES);
    g_autofree char *next = g_strdup(path);
    while (next != NULL && layers->len < MAX_LAYERS) {
        gsize length = 0;
        g_auto(VmbFd) fd = open_image(next, header, &length, NULL);
        if (fd < 0)
            break;
        char *below = backing_path(next, header, length);
        g_ptr_array_add(layers, next);
        next = below;
    }
    return layers;
}

/* ---- removing ---- */

/* A signal from the terminal must not stop it in the middle of the image. */
static void
leave_group(gpointer unused)
{
    setpgid(0, 0);
}

gboolean
vmb_image_bitmap_remove(const char *path, const char *name, GError **error)
{
    g_autofree char *text = NULL;
    struct stat st;
    /* Locks on a block device are this host's own: it may be in use on another one, such as that to which
     * the domain has migrated. */
    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: a block device may be in use on another host, so its bitmap %s is "
                             "only removed while the domain runs", path, name);
    g_autoptr(VmbImageEditor) editor =
        vmb_image_has_leases(path) ? vmb_image_editor_new(NULL) : NULL;
    if (editor != NULL)
        return vmb_image_editor_remove(editor, path, name, error);
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(
        G_SUBPROCESS_FLAGS_STDOUT_SILENCE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_subprocess_launcher_setenv(launcher, "LC_ALL", "C", TRUE);
    g_subprocess_launcher_set_child_setup(launcher, leave_group, NULL, NULL);
    g_autoptr(GSubprocess) child = g_subprocess_launcher_spawn(
        launcher, error, "qemu-img", "bitmap", "--remove", "-f", "qcow2", path, name, NULL);
    if (child == NULL) {
        g_prefix_error(error, "%s: cannot remove the bitmap %s: ", path, name);
        return FALSE;
    }
    if (!g_subprocess_communicate_utf8(child, NULL, NULL, NULL, &text, error))
        return FALSE;
    return g_subprocess_get_successful(child) ||
           vmb_error_set(error, VMB_ERROR_FAILED, "%s: cannot remove the bitmap %s: %s", path, name,
                         text != NULL ? g_strchomp(text) : "qemu-img failed");
}
