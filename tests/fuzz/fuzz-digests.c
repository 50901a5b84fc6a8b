/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the .digests file. */
#include "fuzz.h"
#include "image/digest-file.h"
#include "image/digest-format.h"
#include "util/units.h"

/* Input: u8 mode (bit 0: the header is the input's as well); u24 blocks of the disk; u16 bytes
 * less; then the file, without header if it is made here. */

static int in_fd, out_fd;

void
fuzz_set_up(void)
{
    in_fd = fuzz_file_new();
    out_fd = fuzz_file_new();
}

/* What was read is written once more. Runs that touch are joined by the writer, so that the second
 * file may be shorter; read again it must say the same. */
static void
write_again(GArray *records, guint64 disk_size)
{
    g_autoptr(GError) error = NULL;
    guint8 digest[VMB_DIGEST_SIZE];
    guint64 length = 0;
    fuzz_file_set(out_fd, "", 0);
    g_autoptr(VmbDigestWriter) writer = vmb_digest_writer_new(out_fd, disk_size, "fuzz", &error);
    FUZZ_CHECK(writer != NULL);
    for (guint i = 0; i < records->len; i++) {
        const VmbDigestRecord *record = &g_array_index(records, VmbDigestRecord, i);
        guint64 bytes = MIN(record->n_blocks * VMB_BLOCK_SIZE, disk_size - record->offset);
        FUZZ_CHECK(record->zero ? vmb_digest_writer_zero(writer, record->offset, bytes, &error)
                                : vmb_digest_writer_data(writer, record->offset, record->digest,
                                                         record->check, &error));
    }
    FUZZ_CHECK(vmb_digest_writer_finish(writer, &length, digest, &error));
    FUZZ_CHECK(length <= VMB_DIGEST_FILE_HEADER + records->len * VMB_DIGEST_FILE_RECORD);
    g_autoptr(VmbDigestReader) reader = vmb_digest_reader_open(out_fd, disk_size, "fuzz", &error);
    FUZZ_CHECK(reader != NULL);
    VmbDigestRecord record;
    gboolean end = FALSE;
    guint64 left = 0; /* blocks of the joined run that older records have not told yet */
    for (guint i = 0; i < records->len; i++) {
        const VmbDigestRecord *old = &g_array_index(records, VmbDigestRecord, i);
        if (left == 0) {
            FUZZ_CHECK(vmb_digest_reader_next(reader, &record, &end, &error) && !end);
            FUZZ_CHECK(record.offset == old->offset);
            left = record.n_blocks;
        }
        FUZZ_CHECK(record.zero == old->zero && left >= old->n_blocks);
        FUZZ_CHECK(record.check == old->check &&
                   memcmp(record.digest, old->digest, VMB_DIGEST_SIZE) == 0);
        left -= old->n_blocks;
    }
    FUZZ_CHECK(left == 0 && vmb_digest_reader_next(reader, &record, &end, &error) && end);
}

static void
read_file(const guint8 *file, gsize length, guint64 disk_size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbDigestReader) reader = vmb_digest_reader_open(in_fd, disk_size, "fuzz", &error);
    g_autoptr(GArray) records = g_array_new(FALSE, FALSE, sizeof(VmbDigestRecord));
    gboolean end = FALSE;
    guint64 next = 0;
    if (reader == NULL) {
        fuzz_check_error(error, VMB_ERROR_DAMAGE);
        return;
    }
    while (!end) {
        VmbDigestRecord record = {0};
        if (!vmb_digest_reader_next(reader, &record, &end, &error)) {
            fuzz_check_error(error, VMB_ERROR_DAMAGE);
            return;
        }
        if (end)
            break;
        FUZZ_CHECK(record.offset % VMB_BLOCK_SIZE == 0 && record.offset >= next);
        FUZZ_CHECK(record.n_blocks > 0 && record.offset < disk_size);
        next = record.offset + record.n_blocks * VMB_BLOCK_SIZE;
        FUZZ_CHECK(next <= vmb_round_up(disk_size, VMB_BLOCK_SIZE));
        g_array_append_val(records, record);
    }
    guint8 digest[VMB_DIGEST_SIZE], expected[VMB_DIGEST_SIZE];
    gsize expected_length = sizeof expected;
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    g_checksum_update(checksum, file, (gssize)length);
    g_checksum_get_digest(checksum, expected, &expected_length);
    vmb_digest_reader_digest(reader, digest);
    FUZZ_CHECK(memcmp(digest, expected, sizeof digest) == 0);
    write_again(records, disk_size);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    FuzzInput input = {data, length};
    gboolean own_header = (fuzz_take(&input, 1) & 1) != 0;
    guint64 disk_size = (1 + fuzz_take(&input, 3)) * VMB_BLOCK_SIZE;
    disk_size -= fuzz_take(&input, 2);
    g_autoptr(GByteArray) file = g_byte_array_new();
    if (!own_header) {
        guint8 header[VMB_DIGEST_FILE_HEADER];
        vmb_digest_file_header(disk_size, header);
        g_byte_array_append(file, header, sizeof header);
    }
    g_byte_array_append(file, input.at, (guint)input.left);
    fuzz_file_set(in_fd, file->data, file->len);
    read_file(file->data, file->len, disk_size);
}

static void
seed(const char *name, guint8 mode, const guint64 (*records)[3], guint n)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    guint8 head[] = {mode, 99, 0, 0, 7, 0};
    guint8 bytes[VMB_DIGEST_FILE_HEADER];
    g_byte_array_append(out, head, sizeof head);
    if (mode & 1) {
        vmb_digest_file_header(100 * VMB_BLOCK_SIZE - 7, bytes);
        g_byte_array_append(out, bytes, sizeof bytes);
    }
    for (guint i = 0; i < n; i++) {
        memset(bytes, records[i][1] == VMB_DIGEST_FILE_DATA ? 0x5a : 0, sizeof bytes);
        vmb_digest_file_put64(bytes, records[i][0] * VMB_BLOCK_SIZE);
        vmb_digest_file_put32(bytes + 8, (guint32)records[i][1]);
        vmb_digest_file_put32(bytes + 12, (guint32)records[i][2]);
        g_byte_array_append(out, bytes, VMB_DIGEST_FILE_RECORD);
    }
    fuzz_seed(name, out->data, out->len);
}

void
fuzz_seeds(void)
{
    static const guint64 records[][3] = {{0, 1, 0},   {1, 2, 5},  {6, 2, 2},
                                         {20, 1, 77}, {98, 1, 0}, {99, 2, 1}};
    seed("good", 0, records, G_N_ELEMENTS(records));
    seed("header", 1, records, G_N_ELEMENTS(records));
    seed("empty", 1, records, 0);
    seed("one", 0, records + 5, 1);
}
