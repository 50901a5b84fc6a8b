/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The .digests file: round trips, merged runs, and every kind of damage. */
#include "block/digest.h"
#include "image/digest-file.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/units.h"

#include <string.h>
#include <sys/mman.h>

#define BLOCK G_GUINT64_CONSTANT(65536)

typedef struct {
    int fd;
    guint64 disk_size;
    guint64 length;
    guint8 digest[VMB_DIGEST_SIZE];
} File;

static void
file_clear(File *file)
{
    close(file->fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(File, file_clear)

static void
expected_digest(guint64 block, guint8 digest[VMB_DIGEST_SIZE])
{
    for (guint i = 0; i < VMB_DIGEST_SIZE; i++)
        digest[i] = (guint8)(block * 37 + i * 11 + 1);
}

static VmbDigestWriter *
begin(File *file, guint64 disk_size)
{
    g_autoptr(GError) error = NULL;
    file->fd = memfd_create("digests", MFD_CLOEXEC);
    g_assert_cmpint(file->fd, >=, 0);
    file->disk_size = disk_size;
    VmbDigestWriter *writer = vmb_digest_writer_new(file->fd, disk_size, "test", &error);
    g_assert_no_error(error);
    return writer;
}

static void
put_data(VmbDigestWriter *writer, guint64 block)
{
    g_autoptr(GError) error = NULL;
    guint8 digest[VMB_DIGEST_SIZE];
    expected_digest(block, digest);
    vmb_digest_writer_data(writer, block * BLOCK, digest, (guint32)block, &error);
    g_assert_no_error(error);
}

static void
put_zero(VmbDigestWriter *writer, guint64 block, guint64 length)
{
    g_autoptr(GError) error = NULL;
    vmb_digest_writer_zero(writer, block * BLOCK, length, &error);
    g_assert_no_error(error);
}

static void
finish(File *file, VmbDigestWriter *writer)
{
    g_autoptr(GError) error = NULL;
    vmb_digest_writer_finish(writer, &file->length, file->digest, &error);
    g_assert_no_error(error);
    g_assert_cmpint(lseek(file->fd, 0, SEEK_END), ==, (gint64)file->length);
}

/* Reads the whole file; TRUE if it is valid and has the digest of when it was written. */
static gboolean
read_all(const File *file, GArray *records, GError **error)
{
    guint8 digest[VMB_DIGEST_SIZE];
    g_autoptr(VmbDigestReader) reader =
        vmb_digest_reader_open(file->fd, file->disk_size, "test", error);
    if (reader == NULL)
        return FALSE;
    for (;;) {
        VmbDigestRecord record;
        gboolean end;
        if (!vmb_digest_reader_next(reader, &record, &end, error))
            return FALSE;
        if (end)
            break;
        if (records != NULL)
            g_array_append_val(records, record);
    }
    vmb_digest_reader_digest(reader, digest);
    if (memcmp(digest, file->digest, sizeof digest) != 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "another digest");
    return TRUE;
}

static void
test_round_trip(void)
{
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    for (guint round = 0; round < 30; round++) {
        g_auto(File) file = {0};
        g_autoptr(GError) error = NULL;
        g_autoptr(GArray) expected = g_array_new(FALSE, TRUE, sizeof(VmbDigestRecord));
        g_autoptr(GArray) got = g_array_new(FALSE, TRUE, sizeof(VmbDigestRecord));
        guint64 n_blocks = (guint64)g_rand_int_range(rand, 1, 9000);
        g_autoptr(VmbDigestWriter) writer =
            begin(&file, n_blocks * BLOCK - (guint64)g_rand_int_range(rand, 0, 65536));
        for (guint64 block = 0; block < n_blocks;) {
            VmbDigestRecord record = {.offset = block * BLOCK, .n_blocks = 1};
            guint what = (guint)g_rand_int_range(rand, 0, 3);
            if (what == 0) {
                expected_digest(block, record.digest);
                record.check = (guint32)block;
                put_data(writer, block);
                g_array_append_val(expected, record);
            } else if (what == 1) {
                /* In several calls that touch: one record. */
                guint64 n = (guint64)g_rand_int_range(rand, 1, 50);
                n = MIN(n, n_blocks - block);
                for (guint64 i = 0; i < n; i++)
                    put_zero(writer, block + i, MIN(BLOCK, file.disk_size - (block + i) * BLOCK));
                record.zero = TRUE;
                record.n_blocks = n;
                g_array_append_val(expected, record);
                block += n;
                continue;
            }
            block++;
        }
        /* Runs of neighbouring rounds of the loop may touch as well. */
        for (guint i = 1; i < expected->len; i++) {
            VmbDigestRecord *a = &g_array_index(expected, VmbDigestRecord, i - 1), *b = a + 1;
            if (a->zero && b->zero && a->offset + a->n_blocks * BLOCK == b->offset) {
                a->n_blocks += b->n_blocks;
                g_array_remove_index(expected, i--);
            }
        }
        finish(&file, writer);
        g_assert_cmpuint(file.length, ==, 64 + 48 * (guint64)expected->len);
        g_assert_true(read_all(&file, got, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(got->len, ==, expected->len);
        for (guint i = 0; i < got->len; i++) {
            const VmbDigestRecord *a = &g_array_index(got, VmbDigestRecord, i);
            const VmbDigestRecord *b = &g_array_index(expected, VmbDigestRecord, i);
            g_assert_cmpuint(a->offset, ==, b->offset);
            g_assert_cmpuint(a->n_blocks, ==, b->n_blocks);
            g_assert_cmpint(a->zero, ==, b->zero);
            g_assert_cmpuint(a->check, ==, b->check);
            g_assert_cmpmem(a->digest, VMB_DIGEST_SIZE, b->digest, VMB_DIGEST_SIZE);
        }
    }
}

static void
test_empty_and_largest(void)
{
    g_auto(File) empty = {0}, largest = {0};
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) records = g_array_new(FALSE, TRUE, sizeof(VmbDigestRecord));
    g_autoptr(VmbDigestWriter) writer = begin(&empty, 1);
    finish(&empty, writer);
    g_assert_cmpuint(empty.length, ==, 64);
    g_assert_true(read_all(&empty, records, &error));
    g_assert_cmpuint(records->len, ==, 0);

    g_autoptr(VmbDigestWriter) huge = begin(&largest, VMB_SIZE_MAX);
    put_zero(huge, 0, VMB_SIZE_MAX / 2);
    put_zero(huge, VMB_SIZE_MAX / 2 / BLOCK, VMB_SIZE_MAX / 2);
    finish(&largest, huge);
    g_assert_true(read_all(&largest, records, &error));
    g_assert_cmpuint(records->len, ==, 1);
    g_assert_cmpuint(g_array_index(records, VmbDigestRecord, 0).n_blocks, ==, 1u << 30);
}

static void
small_file(File *file)
{
    g_autoptr(VmbDigestWriter) writer = begin(file, 20 * BLOCK - 100);
    put_data(writer, 0);
    put_data(writer, 1);
    put_zero(writer, 3, 4 * BLOCK);
    put_data(writer, 7);
    put_zero(writer, 12, 8 * BLOCK - 100);
    finish(file, writer);
}

/* Every changed byte is found, by what it breaks or by the digest. */
static void
test_flips(void)
{
    g_auto(File) file = {0};
    small_file(&file);
    for (guint64 at = 0; at < file.length; at++) {
        guint8 old, new;
        g_assert_cmpint(pread(file.fd, &old, 1, (off_t)at), ==, 1);
        for (guint bit = 0; bit < 8; bit++) {
            g_autoptr(GError) error = NULL;
            new = (guint8)(old ^ 1u << bit);
            g_assert_cmpint(pwrite(file.fd, &new, 1, (off_t)at), ==, 1);
            g_assert_false(read_all(&file, NULL, &error));
            g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
        }
        g_assert_cmpint(pwrite(file.fd, &old, 1, (off_t)at), ==, 1);
    }
    g_assert_true(read_all(&file, NULL, NULL));
}

static void
test_lengths(void)
{
    g_auto(File) file = {0};
    small_file(&file);
    g_autofree guint8 *content = g_malloc(file.length);
    g_assert_cmpint(pread(file.fd, content, file.length, 0), ==, (gint64)file.length);
    for (guint64 length = 0; length < file.length + 100; length++) {
        g_autoptr(GError) error = NULL;
        if (length == file.length)
            continue;
        g_assert_cmpint(ftruncate(file.fd, (off_t)length), ==, 0);
        g_assert_cmpint(pwrite(file.fd, content, MIN(length, file.length), 0), >=, 0);
        g_assert_false(read_all(&file, NULL, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
}

static void
test_garbage(void)
{
    g_auto(File) file = {0};
    guint32 seed = (guint32)g_test_rand_int();
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    small_file(&file);
    g_autofree guint8 *content = g_malloc(file.length);
    g_assert_cmpint(pread(file.fd, content, file.length, 0), ==, (gint64)file.length);
    for (guint round = 0; round < 20000; round++) {
        g_autofree guint8 *bad = g_memdup2(content, file.length);
        guint at = (guint)g_rand_int_range(rand, 0, (gint32)file.length);
        guint n = (guint)g_rand_int_range(rand, 1, 20);
        for (guint i = at; i < MIN(at + n, file.length); i++)
            bad[i] = (guint8)g_rand_int(rand);
        g_assert_cmpint(pwrite(file.fd, bad, file.length, 0), ==, (gint64)file.length);
        g_assert_true(read_all(&file, NULL, NULL) == (memcmp(bad, content, file.length) == 0));
    }
}

static void
test_another_disk(void)
{
    g_auto(File) file = {0};
    g_autoptr(GError) error = NULL;
    small_file(&file);
    file.disk_size -= 1;
    g_assert_false(read_all(&file, NULL, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
test_misuse(void)
{
    g_auto(File) file = {0};
    guint8 digest[VMB_DIGEST_SIZE] = {0};
    g_autoptr(VmbDigestWriter) writer = begin(&file, 10 * BLOCK);
    put_data(writer, 4);
    g_assert_false(vmb_digest_writer_data(writer, 4 * BLOCK, digest, 0, NULL));
    g_assert_false(vmb_digest_writer_data(writer, 5 * BLOCK + 1, digest, 0, NULL));
    g_assert_false(vmb_digest_writer_data(writer, 10 * BLOCK, digest, 0, NULL));
    g_assert_false(vmb_digest_writer_zero(writer, 3 * BLOCK, BLOCK, NULL));
    g_assert_false(vmb_digest_writer_zero(writer, 5 * BLOCK, 6 * BLOCK, NULL));
    g_assert_false(vmb_digest_writer_zero(writer, 5 * BLOCK, G_MAXUINT64, NULL));
    g_assert_true(vmb_digest_writer_zero(writer, 5 * BLOCK, 0, NULL));
    g_assert_null(vmb_digest_writer_new(file.fd, 0, "test", NULL));
    g_assert_null(vmb_digest_writer_new(file.fd, VMB_SIZE_MAX + 1, "test", NULL));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/digest-file/round-trip", test_round_trip);
    g_test_add_func("/digest-file/empty-and-largest", test_empty_and_largest);
    g_test_add_func("/digest-file/flips", test_flips);
    g_test_add_func("/digest-file/lengths", test_lengths);
    g_test_add_func("/digest-file/garbage", test_garbage);
    g_test_add_func("/digest-file/another-disk", test_another_disk);
    g_test_add_func("/digest-file/misuse", test_misuse);
    return g_test_run();
}
