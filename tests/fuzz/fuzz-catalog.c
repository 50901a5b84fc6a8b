/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the cache of a domain's points, and the summaries in it. */
#include "fuzz.h"
#include "../unit/repo-fixture.h"
#include "block/digest.h"
#include "repo/catalog.h"
#include "repo/repository-private.h"
#include "repo/summary-text.h"
#include "util/text.h"

/* Input: u8 mode (0: a summary; 1: a catalog as it is; else: a catalog to which header and digest
 * are added here); the bytes. */

static char *directory;
static VmbRepoDomain domain = {.fd = -1, .root_fd = -1};

void
fuzz_set_up(void)
{
    domain.uuid = (char *)FIXTURE_UUID;
    directory = fuzz_directory();
    domain.fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert(domain.fd >= 0);
}

static void
check_disk(const VmbSummaryDisk *disk)
{
    FUZZ_CHECK(vmb_text_is_name(disk->target) && disk->id[0] != '\0');
    FUZZ_CHECK(disk->size > 0 && disk->size <= VMB_SIZE_MAX);
    FUZZ_CHECK((disk->level == VMB_LEVEL_FULL) == (disk->parent == NULL));
    FUZZ_CHECK(disk->parent == NULL || vmb_layout_is_point_id(disk->parent));
    FUZZ_CHECK(disk->replaced_by == NULL || vmb_layout_is_point_id(disk->replaced_by));
    FUZZ_CHECK(disk->reason <= VMB_N_REASONS && vmb_method_name(disk->method)[0] != '?');
}

static void
try_summary(const guint8 *data, gsize length)
{
    g_autoptr(GBytes) text = g_bytes_new(data, length);
    g_autoptr(VmbSummary) summary = vmb_summary_decode(text, 0, length);
    const char *id = NULL;
    guint64 sequence = 0, frees = 0;
    if (summary == NULL)
        return;
    FUZZ_CHECK(vmb_summary_peek(text, 0, length, &id, &sequence));
    FUZZ_CHECK(strcmp(id, summary->id) == 0 && sequence == summary->sequence);
    FUZZ_CHECK(vmb_layout_is_point_id(id) && summary->domain[0] != '\0');
    FUZZ_CHECK(g_utf8_validate(summary->domain, -1, NULL));
    for (gsize i = 0; summary->tags[i] != NULL; i++)
        FUZZ_CHECK(vmb_text_is_name(summary->tags[i]));
    for (guint i = 0; i < summary->n_disks; i++)
        check_disk(&summary->disks[i]);
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_ptr_array_add(all, summary);
    vmb_summaries_frees(all, &frees);
    FUZZ_CHECK(frees == VMB_BYTES_UNKNOWN || frees <= vmb_summary_stored(summary));
}

static void
append32(GByteArray *out, guint32 value)
{
    value = GUINT32_TO_LE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

/* With a number of records that is the input's first byte. */
static GByteArray *
complete(const guint8 *data, gsize length)
{
    guint8 digest[VMB_DIGEST_SIZE], points[32] = {0};
    GByteArray *file = g_byte_array_new();
    g_autoptr(VmbDigest) sum = vmb_digest_new();
    g_byte_array_append(file, (const guint8 *)"VMBCATLG", 8);
    append32(file, VMB_SUMMARY_FORMAT);
    append32(file, length > 0 ? data[0] : 0);
    g_byte_array_append(file, points, sizeof points);
    if (length > 1)
        g_byte_array_append(file, data + 1, (guint)length - 1);
    vmb_digest_block(sum, file->data, file->len, digest);
    g_byte_array_append(file, digest, sizeof digest);
    return file;
}

static void
try_catalog(const guint8 *data, gsize length)
{
    guint n = 0;
    fuzz_directory_set(domain.fd, VMB_LAYOUT_CATALOG, data, length);
    g_autoptr(VmbCatalog) catalog = vmb_catalog_load(&domain);
    const VmbCatalogRecord *records = vmb_catalog_records(catalog, &n);
    FUZZ_CHECK(catalog != NULL || n == 0);
    for (guint i = 0; i < n; i++) {
        FUZZ_CHECK(vmb_layout_is_point_id(records[i].id));
        FUZZ_CHECK(i == 0 || strcmp(records[i - 1].id, records[i].id) < 0);
        FUZZ_CHECK(vmb_catalog_find_record(catalog, records[i].id) == &records[i]);
        FUZZ_CHECK(records[i].offset <= length && records[i].length <= length - records[i].offset);
        if (records[i].has_summary)
            try_summary(data + records[i].offset, records[i].length);
    }
}

void
fuzz_one(const guint8 *data, gsize length)
{
    FuzzInput input = {data, length};
    guint mode = (guint)fuzz_take(&input, 1);
    if (mode == 0) {
        try_summary(input.at, input.left);
        return;
    }
    if (mode == 1) {
        try_catalog(input.at, input.left);
        return;
    }
    g_autoptr(GByteArray) file = complete(input.at, input.left);
    try_catalog(file->data, file->len);
}

/* Of a point with a tag and damage. */
static GBytes *
encode(guint n)
{
    g_auto(VmbPointState) state = {.verified_ns = 5, .is_protected = n == 2};
    g_autoptr(VmbPoint) point = g_new0(VmbPoint, 1);
    vmb_point_state_add_tag(&state, "yearly");
    vmb_point_state_add_damage(&state, "target:vda", 0, 65536);
    point->id = fixture_id(n);
    point->manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    fixture_add_disk(point->manifest, fixture_disk("vda", n, n - 1));
    return vmb_summary_encode(point, &state);
}

void
fuzz_seeds(void)
{
    static const guint8 stamps[96] = {1};
    g_autoptr(GByteArray) file = g_byte_array_new();
    const guint8 head[] = {2, 2};
    g_byte_array_append(file, head, sizeof head);
    for (guint n = 1; n <= 2; n++) {
        gsize length = 0;
        g_autoptr(GBytes) text = encode(n);
        const guint8 *bytes = g_bytes_get_data(text, &length);
        g_autoptr(GByteArray) one = g_byte_array_new();
        g_byte_array_append(one, (const guint8 *)"", 1);
        g_byte_array_append(one, bytes, (guint)length);
        fuzz_seed(n == 1 ? "full" : "incremental", one->data, one->len);
        g_byte_array_append(file, stamps, sizeof stamps);
        append32(file, (guint32)length);
        g_byte_array_append(file, bytes, (guint)length);
    }
    fuzz_seed("catalog", file->data, file->len);
    g_autoptr(GByteArray) whole = complete(file->data + 1, file->len - 1);
    g_byte_array_prepend(whole, (const guint8 *)"\1", 1);
    fuzz_seed("whole", whole->data, whole->len);
}
