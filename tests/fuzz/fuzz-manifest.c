/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the manifest of a point. */
#include "fuzz.h"
#include "json-mutator.h"
#include "../unit/repo-fixture.h"
#include "repo/manifest.h"
#include "util/text.h"

/* Input: u8 mode (0: the text is sealed here; else it is taken as it is); the text. */

gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed);

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed)
{
    return fuzz_json_mutate(data, size, max_size, seed, 1);
}

void
fuzz_set_up(void)
{
}

static void
check_disk(const VmbManifest *manifest, const VmbManifestDisk *disk)
{
    FUZZ_CHECK(vmb_text_is_name(disk->target) && disk->id != NULL);
    FUZZ_CHECK(disk->size > 0 && disk->size <= VMB_SIZE_MAX);
    FUZZ_CHECK((disk->level == VMB_LEVEL_FULL) == (disk->parent == NULL));
    FUZZ_CHECK(disk->parent == NULL || vmb_layout_is_point_id(disk->parent));
    FUZZ_CHECK(disk->checkpoint == NULL || vmb_text_is_name(disk->checkpoint));
    FUZZ_CHECK(vmb_layout_is_point_file(disk->image) && vmb_layout_is_point_file(disk->digests));
    FUZZ_CHECK(disk->stored_bytes <= disk->image_size);
    FUZZ_CHECK(vmb_manifest_find_disk(manifest, disk->id) == disk);
    FUZZ_CHECK(vmb_manifest_find_target(manifest, disk->target) == disk);
    FUZZ_CHECK(vmb_level_name(disk->level) != NULL && vmb_method_name(disk->method) != NULL);
}

/* What is read can be acted on: names are names, sizes are sizes, nothing is there twice. */
static void
check_manifest(const VmbManifest *manifest)
{
    FUZZ_CHECK(vmb_layout_is_point_id(manifest->id));
    FUZZ_CHECK(vmb_text_is_uuid(manifest->uuid) && manifest->domain != NULL);
    FUZZ_CHECK(manifest->sequence > 0);
    FUZZ_CHECK(vmb_consistency_name(manifest->consistency) != NULL);
    for (guint i = 0; i < manifest->disks->len; i++)
        check_disk(manifest, manifest->disks->pdata[i]);
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = manifest->files->pdata[i];
        FUZZ_CHECK(vmb_layout_is_point_file(file->name));
    }
    FUZZ_CHECK(vmb_manifest_stored(manifest) <= G_MAXINT64);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    FuzzInput input = {data, length};
    gboolean as_it_is = fuzz_take(&input, 1) != 0;
    gsize n = input.left;
    g_autofree char *text =
        as_it_is ? g_memdup2(input.at, n) : fuzz_reseal(input.at, input.left, &n);
    g_autoptr(VmbManifest) manifest = vmb_manifest_parse(text, n, &error);
    if (manifest == NULL) {
        fuzz_check_error(error, -1);
        FUZZ_CHECK(error->code == VMB_ERROR_DAMAGE || error->code == VMB_ERROR_NO_REPOSITORY);
        return;
    }
    check_manifest(manifest);
    /* Written and read again it is the same. */
    g_autofree char *first = vmb_manifest_serialise(manifest);
    g_autoptr(VmbManifest) again = vmb_manifest_parse(first, strlen(first), &error);
    FUZZ_CHECK(again != NULL);
    g_autofree char *second = vmb_manifest_serialise(again);
    FUZZ_CHECK(strcmp(first, second) == 0);
}

static void
add_file(VmbManifest *manifest, const char *name, const char *role, const char *origin)
{
    VmbManifestFile *file = g_new0(VmbManifestFile, 1);
    file->name = g_strdup(name);
    file->role = g_strdup(role);
    file->origin = g_strdup(origin);
    file->size = 1234;
    g_ptr_array_add(manifest->files, file);
}

static void
seed(const char *name, const VmbManifest *manifest)
{
    g_autofree char *text = vmb_manifest_serialise(manifest);
    g_autoptr(VmbManifest) read = vmb_manifest_parse(text, strlen(text), NULL);
    g_assert(read != NULL); /* or nothing would be reached from here */
    fuzz_seed_document(name, 0, 1, text);
}

void
fuzz_seeds(void)
{
    g_autoptr(VmbManifest) full = fixture_manifest("web01", FIXTURE_UUID, 1);
    fixture_add_disk(full, fixture_disk("vda", 1, 0));
    seed("full", full);
    g_autoptr(VmbManifest) rich = fixture_manifest("b\xc3\xa4r \x1b[1m", FIXTURE_UUID_2, 3);
    fixture_add_disk(rich, fixture_disk("vda", 3, 2));
    fixture_add_disk(rich, fixture_disk("vdb", 3, 0));
    add_file(rich, "domain.xml", "inactive-xml", NULL);
    add_file(rich, "nvram.fd", "nvram", "/var/lib/libvirt/qemu/nvram/x.fd");
    VmbSkippedDisk *skipped = g_new0(VmbSkippedDisk, 1);
    skipped->target = g_strdup("sda");
    skipped->id = g_strdup("target:sda");
    skipped->size = 5;
    g_ptr_array_add(rich->skipped, skipped);
    rich->guest =
        json_tokener_parse("{\"os\":{\"id\":\"debian\"},\"filesystems\":[{\"disks\":[]}]}");
    seed("rich", rich);
    g_autoptr(VmbManifest) empty = fixture_manifest("none", FIXTURE_UUID, 9);
    seed("empty", empty);
}
