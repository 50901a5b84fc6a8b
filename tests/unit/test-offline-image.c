/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images of shut-off domains: headers and bitmaps that lie, locks, evidence, chains. */
#include "image/qcow2-format.h"
#include "util/error.h"
#include "util/fsio.h"
#include "virt/bitmap-state.h"
#include "virt/image-chain.h"
#include "virt/image-evidence.h"
#include "virt/image-header.h"
#include "virt/image-lock.h"
#include "virt/domain-xml.h"

#include <fcntl.h>
#include <string.h>

/* An image by hand: header, directory in cluster 1, table in cluster 2, bits in cluster 3. */
#define CLUSTER 65536u
#define FILE_SIZE (4 * CLUSTER)
#define DISK_SIZE (G_GUINT64_CONSTANT(16) << 20)
#define EXTENSIONS 104u
#define DIRECTORY CLUSTER
#define TABLE (2 * CLUSTER)
#define NAME "vmbackup-bitmap"
#define FLAG_IN_USE 1u
#define FLAG_AUTO 2u

typedef struct {
    char *directory, *path;
    guint8 *bytes;
} Fixture;

static void
put_extension(guint8 *bytes, gsize *at, guint32 type, const void *data, guint32 length)
{
    vmb_qcow2_put32(bytes + *at, type);
    vmb_qcow2_put32(bytes + *at + 4, length);
    memcpy(bytes + *at + 8, data, length);
    *at += 8 + ((gsize)length + 7) / 8 * 8;
}

static void
put_header(guint8 *bytes)
{
    vmb_qcow2_put32(bytes, VMB_QCOW2_MAGIC);
    vmb_qcow2_put32(bytes + 4, 3);
    vmb_qcow2_put32(bytes + 20, 16);
    vmb_qcow2_put64(bytes + 24, DISK_SIZE);
    vmb_qcow2_put64(bytes + 88, 1); /* bitmaps are to be trusted */
    vmb_qcow2_put32(bytes + 100, EXTENSIONS);
}

static void
put_entry(guint8 *entry, const char *name)
{
    vmb_qcow2_put64(entry, TABLE);
    vmb_qcow2_put32(entry + 8, 1);
    vmb_qcow2_put32(entry + 12, FLAG_AUTO);
    entry[16] = 1;
    entry[17] = 16;
    entry[18] = 0;
    entry[19] = (guint8)strlen(name);
    memcpy(entry + 24, name, strlen(name));
}

static gsize
entry_length(const char *name)
{
    return (24 + strlen(name) + 7) / 8 * 8;
}

static void
set_up(Fixture *fixture, gconstpointer data)
{
    guint8 bitmaps[24] = {0};
    gsize at = EXTENSIONS;
    fixture->directory = g_dir_make_tmp("vmb-offline-XXXXXX", NULL);
    g_assert_nonnull(fixture->directory);
    fixture->path = g_build_filename(fixture->directory, "image", NULL);
    fixture->bytes = g_malloc0(FILE_SIZE);
    put_header(fixture->bytes);
    vmb_qcow2_put32(bitmaps, 2);
    vmb_qcow2_put64(bitmaps + 8, entry_length("other") + entry_length(NAME));
    vmb_qcow2_put64(bitmaps + 16, DIRECTORY);
    put_extension(fixture->bytes, &at, 0x23852875u, bitmaps, sizeof bitmaps);
    put_entry(fixture->bytes + DIRECTORY, "other");
    put_entry(fixture->bytes + DIRECTORY + entry_length("other"), NAME);
}

static void
tear_down(Fixture *fixture, gconstpointer data)
{
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, fixture->directory, NULL));
    g_free(fixture->directory);
    g_free(fixture->path);
    g_free(fixture->bytes);
}

static void
save(Fixture *fixture, gsize length)
{
    g_assert_true(
        g_file_set_contents(fixture->path, (char *)fixture->bytes, (gssize)length, NULL));
}

/* The entry that is looked for. */
static guint8 *
entry_of(Fixture *fixture)
{
    return fixture->bytes + DIRECTORY + entry_length("other");
}

/* @why NULL: usable. */
static void
expect(Fixture *fixture, const char *why)
{
    VmbBitmapState state;
    save(fixture, FILE_SIZE);
    vmb_bitmap_state_read(fixture->path, NAME, &state);
    if (why == NULL) {
        g_assert_cmpstr(state.why, ==, NULL);
        g_assert_true(state.present && state.usable);
    } else {
        g_assert_nonnull(state.why);
        g_assert_nonnull(strstr(state.why, why));
        g_assert_false(state.usable || state.clean);
    }
    g_free(state.why);
}

static void
test_usable(Fixture *fixture, gconstpointer data)
{
    VmbBitmapState state;
    expect(fixture, NULL);
    vmb_bitmap_state_read(fixture->path, NAME, &state);
    g_assert_true(state.clean);
    /* One cluster of bits, then all ones. */
    vmb_qcow2_put64(fixture->bytes + TABLE, 3 * CLUSTER);
    expect(fixture, NULL);
    vmb_bitmap_state_read(fixture->path, NAME, &state);
    g_assert_true(state.usable && !state.clean);
    vmb_qcow2_put64(fixture->bytes + TABLE, 1);
    expect(fixture, NULL);
    vmb_bitmap_state_read(fixture->path, NAME, &state);
    g_assert_true(state.usable && !state.clean);
    vmb_bitmap_state_read(fixture->path, "absent", &state);
    g_assert_false(state.present || state.usable);
    g_free(state.why);
    vmb_bitmap_state_read("/nonexistent/image", NAME, &state);
    g_assert_false(state.usable);
    g_free(state.why);
}

static void
test_flags(Fixture *fixture, gconstpointer data)
{
    guint8 *entry = entry_of(fixture);
    vmb_qcow2_put32(entry + 12, FLAG_AUTO | FLAG_IN_USE);
    expect(fixture, "not saved");
    vmb_qcow2_put32(entry + 12, 0);
    expect(fixture, "does not record");
    vmb_qcow2_put32(entry + 12, FLAG_AUTO | 16);
    expect(fixture, "unknown flags");
    vmb_qcow2_put32(entry + 12, FLAG_AUTO);
    entry[16] = 2;
    expect(fixture, "unknown type");
    entry[16] = 1;
    entry[17] = 8;
    expect(fixture, "granularity");
    entry[17] = 32;
    expect(fixture, "granularity");
    entry[17] = 16;
    vmb_qcow2_put64(fixture->bytes + 88, 0);
    expect(fixture, "no such bitmap");
    vmb_qcow2_put64(fixture->bytes + 88, 1);
    vmb_qcow2_put64(fixture->bytes + 72, VMB_IMAGE_CORRUPT);
    expect(fixture, "corrupt");
    vmb_qcow2_put64(fixture->bytes + 72, VMB_IMAGE_DIRTY);
    expect(fixture, "dirty");
}

static void
test_table(Fixture *fixture, gconstpointer data)
{
    guint8 *entry = entry_of(fixture), *table = fixture->bytes + TABLE;
    vmb_qcow2_put32(entry + 8, 2);
    expect(fixture, "size of the disk");
    vmb_qcow2_put32(entry + 8, 0xffffffffu);
    expect(fixture, "size of the disk");
    vmb_qcow2_put32(entry + 8, 1);
    vmb_qcow2_put64(fixture->bytes + 24, G_MAXUINT64);
    expect(fixture, "size of the disk");
    vmb_qcow2_put64(fixture->bytes + 24, DISK_SIZE);
    vmb_qcow2_put64(entry, TABLE + 8);
    expect(fixture, "no cluster");
    vmb_qcow2_put64(entry, 0);
    expect(fixture, "no cluster");
    vmb_qcow2_put64(entry, G_MAXUINT64 - CLUSTER + 1);
    expect(fixture, "beyond the end");
    vmb_qcow2_put64(entry, TABLE);
    vmb_qcow2_put64(table, 4 * CLUSTER);
    expect(fixture, "beyond the end");
    vmb_qcow2_put64(table, 3 * CLUSTER + 512);
    expect(fixture, "no cluster");
    vmb_qcow2_put64(table, 3 * CLUSTER | 1);
    expect(fixture, "reserved");
    vmb_qcow2_put64(table, G_GUINT64_CONSTANT(1) << 63);
    expect(fixture, "reserved");
    vmb_qcow2_put64(table, 2);
    expect(fixture, "reserved");
}

static void
test_directory(Fixture *fixture, gconstpointer data)
{
    guint8 *extension = fixture->bytes + EXTENSIONS + 8, *entry = entry_of(fixture);
    guint64 length = entry_length("other") + entry_length(NAME);
    vmb_qcow2_put32(extension, 3);
    expect(fixture, "goes beyond");
    vmb_qcow2_put32(extension, 1);
    expect(fixture, "wrong length");
    vmb_qcow2_put32(extension, G_MAXUINT32);
    expect(fixture, "implausible size");
    vmb_qcow2_put32(extension, 2);
    vmb_qcow2_put64(extension + 8, G_MAXUINT64);
    expect(fixture, "implausible size");
    vmb_qcow2_put64(extension + 8, 8);
    expect(fixture, "implausible size");
    vmb_qcow2_put64(extension + 8, length + 8);
    expect(fixture, "wrong length");
    vmb_qcow2_put64(extension + 8, length);
    vmb_qcow2_put64(extension + 16, G_MAXUINT64 - CLUSTER + 1);
    expect(fixture, "beyond the end");
    vmb_qcow2_put64(extension + 16, 512);
    expect(fixture, "no cluster");
    vmb_qcow2_put64(extension + 16, DIRECTORY);
    vmb_qcow2_put32(entry + 20, G_MAXUINT32);
    expect(fixture, "goes beyond");
    vmb_qcow2_put32(entry + 20, 0);
    entry[18] = 0xff;
    expect(fixture, "goes beyond");
    entry[18] = 0;
    /* Twice the same name: neither is believed. */
    memset(fixture->bytes + DIRECTORY, 0, CLUSTER);
    put_entry(fixture->bytes + DIRECTORY, NAME);
    put_entry(fixture->bytes + DIRECTORY + entry_length(NAME), NAME);
    vmb_qcow2_put64(extension + 8, 2 * entry_length(NAME));
    expect(fixture, "twice");
}

/* Whatever the bytes are: no crash, and no lie is believed that reaches out of the file. */
static void
test_random(Fixture *fixture, gconstpointer data)
{
    guint32 seed = g_random_int();
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree guint8 *good = g_memdup2(fixture->bytes, FILE_SIZE);
    g_test_message("seed %u", seed);
    for (int round = 0; round < 400; round++) {
        VmbBitmapState state;
        memcpy(fixture->bytes, good, FILE_SIZE);
        for (int i = 0; i < 3; i++) {
            static const gsize regions[] = {0, EXTENSIONS, DIRECTORY, TABLE};
            gsize at = regions[g_rand_int_range(random, 0, 4)] +
                       (gsize)g_rand_int_range(random, 0, 104);
            fixture->bytes[at] = (guint8)g_rand_int(random);
        }
        save(fixture, (gsize)g_rand_int_range(random, 1, FILE_SIZE));
        vmb_bitmap_state_read(fixture->path, NAME, &state);
        g_assert_true(state.usable == (state.why == NULL));
        g_free(state.why);
    }
}

/* ---- headers and chains ---- */

static void
expect_header(Fixture *fixture, gsize length, const char *why)
{
    g_auto(VmbImageHeader) header = {0};
    g_autofree char *said = NULL;
    gboolean good = vmb_image_header_parse(fixture->bytes, length, &header, &said);
    g_assert_true(good == (why == NULL));
    g_assert_true(good || strstr(said, why) != NULL);
}

static void
test_header(Fixture *fixture, gconstpointer data)
{
    guint8 *bytes = fixture->bytes;
    expect_header(fixture, CLUSTER, NULL);
    expect_header(fixture, 0, "no qcow2 header");
    expect_header(fixture, 100, "wrong length");
    vmb_qcow2_put32(bytes + 100, G_MAXUINT32 - 7);
    expect_header(fixture, CLUSTER, "wrong length");
    vmb_qcow2_put32(bytes + 100, EXTENSIONS);
    vmb_qcow2_put64(bytes + 8, G_MAXUINT64);
    vmb_qcow2_put32(bytes + 16, 5);
    expect_header(fixture, CLUSTER, "no name");
    vmb_qcow2_put64(bytes + 8, CLUSTER - 2);
    expect_header(fixture, CLUSTER, "no name");
    vmb_qcow2_put64(bytes + 8, 4096);
    memcpy(bytes + 4096, "a\0bcd", 5);
    expect_header(fixture, CLUSTER, "no name");
    memcpy(bytes + 4096, "a/bcd", 5);
    expect_header(fixture, CLUSTER, NULL);
    vmb_qcow2_put32(bytes + EXTENSIONS + 4, G_MAXUINT32);
    expect_header(fixture, CLUSTER, "beyond the header");
    vmb_qcow2_put32(bytes + EXTENSIONS + 4, 16);
    expect_header(fixture, CLUSTER, "16 bytes");
    vmb_qcow2_put32(bytes + 20, 30);
    expect_header(fixture, CLUSTER, "2^30");
    vmb_qcow2_put32(bytes + 4, 4);
    expect_header(fixture, CLUSTER, "version 4");
}

static VmbDiskInfo *
disk_of(const char *path)
{
    VmbDiskInfo *disk = g_new0(VmbDiskInfo, 1);
    VmbDiskLayer *layer = g_new0(VmbDiskLayer, 1);
    disk->has_medium = TRUE;
    disk->layers = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_disk_layer_free);
    layer->path = g_strdup(path);
    layer->format = g_strdup("qcow2");
    g_ptr_array_add(disk->layers, layer);
    return disk;
}

static void
expect_chain(Fixture *fixture, guint n_layers, const char *why)
{
    save(fixture, FILE_SIZE);
    VmbDiskInfo *disk = disk_of(fixture->path);
    vmb_image_chain_find(disk);
    g_assert_cmpuint(disk->layers->len, ==, n_layers);
    if (why == NULL)
        g_assert_cmpstr(disk->offline_why, ==, NULL);
    else
        g_assert_nonnull(strstr(disk->offline_why, why));
    vmb_disk_info_free(disk);
}

static void
set_backing(Fixture *fixture, const char *name, const char *format)
{
    gsize at = EXTENSIONS;
    memset(fixture->bytes + EXTENSIONS, 0, CLUSTER - EXTENSIONS);
    if (format != NULL)
        put_extension(fixture->bytes, &at, VMB_QCOW2_EXTENSION_BACKING, format,
                      (guint32)strlen(format));
    vmb_qcow2_put64(fixture->bytes + 8, 4096);
    vmb_qcow2_put32(fixture->bytes + 16, (guint32)strlen(name));
    memcpy(fixture->bytes + 4096, name, strlen(name));
}

static void
test_chain(Fixture *fixture, gconstpointer data)
{
    g_autofree char *base = g_build_filename(fixture->directory, "base", NULL);
    expect_chain(fixture, 1, NULL);
    g_assert_true(g_file_set_contents(base, "base", -1, NULL));
    set_backing(fixture, base, "raw");
    expect_chain(fixture, 2, NULL);
    set_backing(fixture, "base", "raw");
    expect_chain(fixture, 2, NULL);
    set_backing(fixture, "base", "qcow2");
    expect_chain(fixture, 2, "not the qcow2 image");
    set_backing(fixture, "base", NULL);
    expect_chain(fixture, 1, "does not say");
    set_backing(fixture, "base", "vmdk");
    expect_chain(fixture, 1, "does not say");
    set_backing(fixture, "json:{\"driver\":\"null-co\"}", "raw");
    expect_chain(fixture, 1, "another way");
    set_backing(fixture, "nbd://host/x", "raw");
    expect_chain(fixture, 1, "another way");
    set_backing(fixture, "image", "qcow2");
    expect_chain(fixture, 201, "circles");
    vmb_qcow2_put32(fixture->bytes + 32, 2);
    expect_chain(fixture, 1, "encrypted");
}

static void
test_chain_of_xml(Fixture *fixture, gconstpointer data)
{
    g_autofree char *base = g_build_filename(fixture->directory, "base", NULL);
    g_assert_true(g_file_set_contents(base, "base", -1, NULL));
    set_backing(fixture, base, "raw");
    save(fixture, FILE_SIZE);
    VmbDiskInfo *disk = disk_of(fixture->path);
    disk->chain_given = TRUE; /* the domain's XML ends it here */
    vmb_image_chain_find(disk);
    g_assert_cmpuint(disk->layers->len, ==, 1);
    g_assert_null(disk->offline_why);
    vmb_disk_info_free(disk);
    disk = disk_of(fixture->path);
    disk->encrypted = TRUE;
    vmb_image_chain_find(disk);
    g_assert_nonnull(disk->offline_why);
    vmb_disk_info_free(disk);
}

/* ---- locks and evidence ---- */

static void
expect_writer(const char *path, const char *who)
{
    g_autofree char *found = NULL;
    GError *error = NULL;
    g_assert_true(vmb_image_writer(path, &found, &error));
    g_assert_no_error(error);
    if (who == NULL)
        g_assert_cmpstr(found, ==, NULL);
    else
        g_assert_nonnull(strstr(found, who));
}

static void
lock(int fd, off_t byte, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
}

static void
test_lock(Fixture *fixture, gconstpointer data)
{
    static const struct {
        off_t byte;
        const char *who;
    } rows[] = {{100, NULL}, {101, "write"}, {102, "rewrites"}, {103, "resize"}, {104, NULL},
                {200, "inconsistent"}, {201, NULL}, {203, NULL}};
    save(fixture, FILE_SIZE);
    expect_writer(fixture->path, NULL);
    g_auto(VmbFd) fd = open(fixture->path, O_RDONLY | O_CLOEXEC);
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        lock(fd, rows[i].byte, F_RDLCK);
        expect_writer(fixture->path, rows[i].who);
        lock(fd, rows[i].byte, F_UNLCK);
    }
    expect_writer(fixture->path, NULL);
    if (!vmb_image_has_leases(fixture->path)) {
        g_test_skip("no leases on this file system");
        return;
    }
    g_auto(VmbFd) writer = open(fixture->path, O_RDWR | O_CLOEXEC);
    expect_writer(fixture->path, "another process");
    vmb_fd_clear(&writer);
    expect_writer(fixture->path, NULL);
}

static void
expect_changed(const VmbImageEvidence *evidence, const char *what)
{
    g_autoptr(GError) error = NULL;
    gboolean same = vmb_image_evidence_check(evidence, -1, &error);
    g_assert_true(same == (what == NULL));
    g_assert_true(same || strstr(error->message, what) != NULL);
}

static void
test_evidence(Fixture *fixture, gconstpointer data)
{
    struct timespec times[2];
    struct stat st;
    save(fixture, FILE_SIZE);
    g_autoptr(VmbImageEvidence) evidence = vmb_image_evidence_new(fixture->path, FALSE, NULL);
    g_autoptr(VmbImageEvidence) shared = vmb_image_evidence_new(fixture->path, TRUE, NULL);
    g_assert_nonnull(evidence);
    expect_changed(evidence, NULL);
    g_auto(VmbFd) fd = open(fixture->path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    /* In the directory of bitmaps, and the times are put back: still it shows. */
    g_assert_cmpint(pwrite(fd, "x", 1, DIRECTORY + 20), ==, 1);
    g_assert_cmpint(futimens(fd, times), ==, 0);
    expect_changed(evidence, "bitmaps have changed");
    g_assert_cmpint(pwrite(fd, "\0", 1, DIRECTORY + 20), ==, 1);
    g_assert_cmpint(pwrite(fd, "x", 1, 3 * CLUSTER), ==, 1);
    expect_changed(evidence, "written to");
    g_assert_cmpint(futimens(fd, times), ==, 0);
    expect_changed(evidence, "times have changed");
    g_assert_cmpint(pwrite(fd, "\0", 1, 3 * CLUSTER), ==, 1);
    g_assert_cmpint(futimens(fd, times), ==, 0);
    expect_changed(shared, NULL);
    g_assert_true(vmb_image_evidence_renew(evidence, fd, NULL));
    expect_changed(evidence, NULL);
    g_assert_cmpint(ftruncate(fd, FILE_SIZE + 1), ==, 0);
    expect_changed(evidence, "size");
    save(fixture, FILE_SIZE);
    expect_changed(evidence, "another file");
    g_assert_cmpint(unlink(fixture->path), ==, 0);
    expect_changed(evidence, "cannot open");
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(Fixture *, gconstpointer);
    } tests[] = {
        {"/offline-image/usable", test_usable},       {"/offline-image/flags", test_flags},
        {"/offline-image/table", test_table},         {"/offline-image/directory", test_directory},
        {"/offline-image/random", test_random},       {"/offline-image/header", test_header},
        {"/offline-image/chain", test_chain},         {"/offline-image/xml", test_chain_of_xml},
        {"/offline-image/lock", test_lock},           {"/offline-image/evidence", test_evidence},
    };
    g_test_init(&argc, &argv, NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].name, Fixture, NULL, set_up, tests[i].test, tear_down);
    return g_test_run();
}
