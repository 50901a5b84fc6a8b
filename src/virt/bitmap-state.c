/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a persistent dirty bitmap of a qcow2 image that no QEMU has open can be relied upon. */
#include "virt/bitmap-state.h"
#include "virt/image-header.h"
#include "image/qcow2-format.h"
#include "util/fsio.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define ENTRY_LENGTH 24          /* without extra data and name */
#define NAME_MAX_BYTES 1023
#define DIRECTORY_MAX (4u << 20) /* bytes; QEMU allows more bitmaps than anybody has */
#define BITMAPS_MAX 65535u
#define FLAG_IN_USE 1u
#define FLAG_AUTO 2u
#define FLAG_EXTRA_COMPATIBLE 4u
#define TYPE_DIRTY_TRACKING 1
#define GRANULARITY_BITS_MIN 9
#define GRANULARITY_BITS_MAX 31
#define TABLE_MAX (128u << 20)   /* bytes, as QEMU */
#define TABLE_OFFSET_MASK G_GUINT64_CONSTANT(0x00fffffffffffe00)
#define TABLE_ALL_ONES G_GUINT64_CONSTANT(1)
#define TABLE_PIECE 8192u        /* entries that are read at once */

typedef struct {
    VmbFd fd;
    guint64 file_size;
    VmbImageHeader header;
    guint8 *directory;
    guint64 length; /* of the directory */
} Image;

static void
image_clear(Image *image)
{
    vmb_fd_clear(&image->fd);
    vmb_image_header_clear(&image->header);
    g_clear_pointer(&image->directory, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Image, image_clear)

typedef struct {
    guint64 table_offset;
    guint32 table_entries, flags, extra;
    guint8 type, granularity_bits;
    const char *name; /* not terminated */
    guint16 name_length;
} Entry;

static char *
lies_outside(const Image *image, guint64 offset, guint64 length)
{
    guint64 end, cluster = G_GUINT64_CONSTANT(1) << image->header.cluster_bits;
    if (offset == 0 || offset % cluster != 0)
        return g_strdup("lies at no cluster");
    if (!g_uint64_checked_add(&end, offset, length) || end > image->file_size)
        return g_strdup("lies beyond the end of the file");
    return NULL;
}

static char *
read_directory(Image *image)
{
    guint64 length = image->header.directory_size;
    if (image->header.n_bitmaps > BITMAPS_MAX || length > DIRECTORY_MAX ||
        length < (guint64)image->header.n_bitmaps * ENTRY_LENGTH)
        return g_strdup("its bitmap directory has an implausible size");
    g_autofree char *where = lies_outside(image, image->header.directory_offset, length);
    if (where != NULL)
        return g_strdup_printf("its bitmap directory %s", where);
    image->directory = g_malloc(length);
    image->length = length;
    return vmb_fs_pread(image->fd, image->directory, length, image->header.directory_offset,
                        "bitmap directory", NULL)
               ? NULL
               : g_strdup("its bitmap directory cannot be read");
}

/* Returns why not, or NULL. */
static char *
open_image(const char *path, Image *image)
{
    struct stat st;
    char *why = NULL;
    image->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (image->fd < 0 || fstat(image->fd, &st) < 0)
        return g_strdup_printf("it cannot be read: %s", g_strerror(errno));
    off_t end = S_ISBLK(st.st_mode) ? lseek(image->fd, 0, SEEK_END) : st.st_size;
    image->file_size = (guint64)MAX(end, 0);
    if (!vmb_image_header_read(image->fd, &image->header, &why))
        return why;
    return image->header.n_bitmaps == 0 ? NULL : read_directory(image);
}

/* One entry at *@at, which moves on; FALSE if it does not fit into the directory. */
static gboolean
next_entry(const Image *image, guint64 *at, Entry *entry)
{
    guint64 left = image->length - *at;
    const guint8 *bytes = image->directory + *at;
    if (left < ENTRY_LENGTH)
        return FALSE;
    entry->table_offset = vmb_qcow2_get64(bytes);
    entry->table_entries = vmb_qcow2_get32(bytes + 8);
    entry->flags = vmb_qcow2_get32(bytes + 12);
    entry->type = bytes[16];
    entry->granularity_bits = bytes[17];
    entry->name_length = (guint16)(bytes[18] << 8 | bytes[19]);
    entry->extra = vmb_qcow2_get32(bytes + 20);
    guint64 used = (guint64)ENTRY_LENGTH + entry->extra + entry->name_length;
    guint64 padded = vmb_round_up(used, 8);
    if (entry->name_length == 0 || entry->name_length > NAME_MAX_BYTES || padded > left)
        return FALSE;
    entry->name = (const char *)bytes + ENTRY_LENGTH + entry->extra;
    *at += padded;
    return TRUE;
}

static gboolean
is_named(const Entry *entry, const char *name)
{
    return strlen(name) == entry->name_length && memcmp(name, entry->name, entry->name_length) == 0;
}

/* *@found: there is one of that name. Returns what is wrong with the directory, or NULL. */
static char *
find_entry(const Image *image, const char *name, Entry *wanted, gboolean *found)
{
    guint64 at = 0;
    *found = FALSE;
    for (guint i = 0; i < image->header.n_bitmaps; i++) {
        Entry entry;
        if (!next_entry(image, &at, &entry))
            return g_strdup("an entry of its bitmap directory goes beyond it");
        if (!is_named(&entry, name))
            continue;
        if (*found)
            return g_strdup("its bitmap directory names the bitmap twice");
        *wanted = entry;
        *found = TRUE;
    }
    return at == image->length ? NULL : g_strdup("its bitmap directory has a wrong length");
}

static char *
judge_flags(const Entry *entry)
{
    if (entry->type != TYPE_DIRTY_TRACKING)
        return g_strdup("the bitmap is of an unknown type");
    if ((entry->flags & FLAG_IN_USE) != 0)
        return g_strdup("the bitmap was not saved by the QEMU that used the image last");
    if ((entry->flags & FLAG_AUTO) == 0)
        return g_strdup("the bitmap does not record");
    if (entry->flags & ~(FLAG_IN_USE | FLAG_AUTO | FLAG_EXTRA_COMPATIBLE))
        return g_strdup("the bitmap has unknown flags");
    if (entry->extra != 0 && (entry->flags & FLAG_EXTRA_COMPATIBLE) == 0)
        return g_strdup("the bitmap has extra data that must not be ignored");
    if (entry->granularity_bits < GRANULARITY_BITS_MIN ||
        entry->granularity_bits > GRANULARITY_BITS_MAX)
        return g_strdup("the bitmap has an implausible granularity");
    return NULL;
}

/* A bitmap of another length is one of another size of the disk. */
static char *
judge_table_size(const Image *image, const Entry *entry)
{
    guint64 granularity = G_GUINT64_CONSTANT(1) << entry->granularity_bits;
    guint64 cluster = G_GUINT64_CONSTANT(1) << image->header.cluster_bits;
    guint64 bits = image->header.size / granularity + (image->header.size % granularity != 0);
    /* QEMU serialises whole 64-bit words. */
    guint64 bytes = vmb_round_up(bits, 64) / 8;
    guint64 clusters = vmb_round_up(bytes, cluster) / cluster;
    if (entry->table_entries != clusters || clusters * 8 > TABLE_MAX)
        return g_strdup("the bitmap does not fit the size of the disk");
    return NULL;
}

static char *
judge_table_entry(const Image *image, guint64 entry, gboolean *clean)
{
    guint64 offset = entry & TABLE_OFFSET_MASK;
    if (entry == 0)
        return NULL;
    *clean = FALSE;
    if (entry & ~(TABLE_OFFSET_MASK | TABLE_ALL_ONES) || (offset != 0 && entry != offset))
        return g_strdup("the bitmap's table has a reserved bit set");
    if (offset == 0)
        return NULL;
    g_autofree char *where =
        lies_outside(image, offset, G_GUINT64_CONSTANT(1) << image->header.cluster_bits);
    return where != NULL ? g_strdup_printf("a part of the bitmap %s", where) : NULL;
}

static char *
judge_table(const Image *image, const Entry *entry, gboolean *clean)
{
    g_autofree guint8 *piece = g_malloc(TABLE_PIECE * 8);
    g_autofree char *where =
        lies_outside(image, entry->table_offset, (guint64)entry->table_entries * 8);
    if (where != NULL)
        return g_strdup_printf("the bitmap's table %s", where);
    *clean = TRUE;
    for (guint32 done = 0, n; done < entry->table_entries; done += n) {
        n = MIN(entry->table_entries - done, TABLE_PIECE);
        if (!vmb_fs_pread(image->fd, piece, (gsize)n * 8, entry->table_offset + (guint64)done * 8,
                          "bitmap table", NULL))
            return g_strdup("the bitmap's table cannot be read");
        for (guint32 i = 0; i < n; i++) {
            char *why = judge_table_entry(image, vmb_qcow2_get64(piece + (gsize)i * 8), clean);
            if (why != NULL)
                return why;
        }
    }
    return NULL;
}

static char *
judge(const char *path, const char *name, VmbBitmapState *state)
{
    g_auto(Image) image = {.fd = -1};
    Entry entry = {0};
    char *why = open_image(path, &image);
    if (why != NULL)
        return why;
    if (image.header.incompatible & (VMB_IMAGE_CORRUPT | VMB_IMAGE_DIRTY))
        return g_strdup("it is marked as dirty or corrupt");
    why = find_entry(&image, name, &entry, &state->present);
    if (why != NULL || !state->present)
        return why != NULL ? why : g_strdup("it holds no such bitmap");
    why = judge_flags(&entry);
    if (why == NULL)
        why = judge_table_size(&image, &entry);
    return why != NULL ? why : judge_table(&image, &entry, &state->clean);
}

void
vmb_bitmap_state_read(const char *path, const char *name, VmbBitmapState *state)
{
    *state = (VmbBitmapState){0};
    g_autofree char *why = judge(path, name, state);
    state->usable = why == NULL;
    state->clean = state->clean && state->usable;
    if (why != NULL)
        state->why = g_strdup_printf("%s: %s", path, why);
}
