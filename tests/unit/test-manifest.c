/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The manifest: round trips, every flipped byte, every truncation, hostile values. */
#include "repo-fixture.h"
#include "util/json.h"

#include <json-c/json_pointer.h>

static VmbManifest *
sample(void)
{
    VmbManifest *manifest = fixture_manifest("w\xc3\xa4 \"01\"", FIXTURE_UUID, 7);
    VmbSkippedDisk *skipped = g_new0(VmbSkippedDisk, 1);
    VmbManifestFile *file = g_new0(VmbManifestFile, 1);
    fixture_add_disk(manifest, fixture_disk("vda", 7, 6));
    fixture_add_disk(manifest, fixture_disk("vdb", 7, 0));
    skipped->target = g_strdup("sda");
    skipped->reason = VMB_REASON_CDROM;
    g_ptr_array_add(manifest->skipped, skipped);
    file->name = g_strdup("domain.xml");
    file->role = g_strdup("inactive-xml");
    file->size = 4711;
    file->digest[5] = 200;
    g_ptr_array_add(manifest->files, file);
    vmb_reason_add(manifest->reasons, VMB_REASON_NEW_DISK, "vdb", "vdb is new");
    vmb_reason_add(manifest->reasons, VMB_REASON_LEFTOVERS_REMOVED, NULL, "gone");
    manifest->guest = vmb_json_parse("{\"os\":{\"id\":\"debian\"}}", 22, NULL);
    return manifest;
}

static void
test_round_trip(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbManifest) before = sample();
    g_autofree char *text = vmb_manifest_serialise(before);
    g_autoptr(VmbManifest) manifest = vmb_manifest_parse(text, strlen(text), &error);
    g_assert_no_error(error);
    g_autofree char *again = vmb_manifest_serialise(manifest);
    g_assert_cmpstr(text, ==, again);
    g_assert_cmpstr(manifest->domain, ==, before->domain);
    g_assert_cmpint(manifest->time_ns, ==, before->time_ns);
    g_assert_cmpint(manifest->level, ==, VMB_LEVEL_INCREMENTAL);
    g_assert_cmpint(manifest->consistency, ==, VMB_CONSISTENCY_FILESYSTEM);
    g_assert_nonnull(manifest->guest);
    const VmbManifestDisk *vda = vmb_manifest_find_disk(manifest, "target:vda");
    const VmbManifestDisk *vdb = vmb_manifest_find_target(manifest, "vdb");
    g_assert_null(vmb_manifest_find_disk(manifest, "vda"));
    g_assert_null(vmb_manifest_find_target(manifest, "vdc"));
    g_assert_cmpstr(vda->parent, ==, "20261121T020006Z");
    g_assert_cmpint(vda->reason, ==, VMB_N_REASONS);
    g_assert_null(vdb->parent);
    g_assert_cmpint(vdb->reason, ==, VMB_REASON_FIRST_BACKUP);
    const VmbSourceLayer *layer = vda->layers->pdata[0];
    g_assert_cmpint(layer->mtime_ns, ==, -5);
    g_assert_cmpuint(layer->ctime_ns, ==, 1800000000123456789);
    g_assert_cmpuint(layer->birth_ns, ==, 1700000000123456789);
    g_assert_cmpuint(layer->inode, ==, G_MAXUINT64);
    g_assert_cmpmem(vda->head_digest, 32, ((VmbManifestDisk *)before->disks->pdata[0])->head_digest,
                    32);
    g_assert_cmpuint(vmb_manifest_stored(manifest), ==,
                     2 * (vda->image_size + vda->digests_size) + 4711);
}

static void
test_empty(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbManifest) before = fixture_manifest("a", FIXTURE_UUID, 1);
    g_autofree char *text = vmb_manifest_serialise(before);
    g_autoptr(VmbManifest) manifest = vmb_manifest_parse(text, strlen(text), &error);
    g_assert_no_error(error);
    g_assert_cmpuint(manifest->disks->len, ==, 0);
    g_assert_null(manifest->guest);
    g_autoptr(VmbManifest) nothing = vmb_manifest_new();
    g_autofree char *bad = vmb_manifest_serialise(nothing);
    g_assert_null(vmb_manifest_parse(bad, strlen(bad), &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
assert_damaged(const char *text, gsize length)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbManifest) manifest = vmb_manifest_parse(text, length, &error);
    g_assert_null(manifest);
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
test_every_byte(void)
{
    g_autoptr(VmbManifest) manifest = sample();
    g_autofree char *text = vmb_manifest_serialise(manifest);
    gsize length = strlen(text);
    for (gsize i = 0; i < length; i++) {
        char kept = text[i];
        for (int bit = 0; bit < 8; bit += 5) {
            text[i] = (char)(kept ^ (1 << bit));
            assert_damaged(text, length);
        }
        text[i] = '\0';
        assert_damaged(text, length);
        text[i] = kept;
    }
}

/* The end is as the manual says, so that a shell can check it. */
static void
test_end(void)
{
    g_autoptr(VmbManifest) manifest = sample();
    g_autofree char *text = vmb_manifest_serialise(manifest);
    gsize covered = strlen(text) - 89;
    g_autofree char *digest =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text, covered);
    g_autofree char *end = g_strdup_printf(",\n  \"digest\":\"sha256:%s\"\n}\n", digest);
    g_assert_cmpstr(text + covered, ==, end);
}

static void
test_truncated(void)
{
    g_autoptr(VmbManifest) manifest = sample();
    g_autofree char *text = vmb_manifest_serialise(manifest);
    gsize length = strlen(text);
    for (gsize i = 0; i < length; i++) {
        g_autofree char *copy = g_memdup2(text, i + 1); /* so that reading further is found */
        assert_damaged(copy, i);
    }
    g_autofree char *longer = g_strconcat(text, "\n", NULL);
    assert_damaged(longer, length + 1);
}

/* The sample with the member at @path replaced by the JSON text @value (NULL: gone), sealed. */
static char *
changed(const char *path, const char *value)
{
    g_autoptr(VmbManifest) manifest = sample();
    g_autofree char *text = vmb_manifest_serialise(manifest);
    VmbJson *object = vmb_json_parse(text, strlen(text), NULL);
    json_object_object_del(object, "digest");
    if (value != NULL) {
        VmbJson *json = json_tokener_parse(value);
        g_assert_true(json != NULL || strcmp(value, "null") == 0);
        g_assert_cmpint(json_pointer_set(&object, path, json), ==, 0);
    } else {
        g_autofree char *parent = g_path_get_dirname(path);
        g_autofree char *name = g_path_get_basename(path);
        VmbJson *holder = NULL;
        g_assert_cmpint(json_pointer_get(object, strcmp(parent, "/") == 0 ? "" : parent, &holder),
                        ==, 0);
        json_object_object_del(holder, name);
    }
    char *sealed = vmb_json_seal(object);
    json_object_put(object);
    return sealed;
}

static void
test_hostile(void)
{
    static const struct {
        const char *path, *value;
    } cases[] = {
        {"/format", "0"},
        {"/format", "\"1\""},
        {"/format", "-1"},
        {"/format", NULL},
        {"/id", "\"latest\""},
        {"/id", "\"../20261121T020007Z\""},
        {"/id", "\"20261121T020007Z-1\""},
        {"/sequence", "0"},
        {"/sequence", "-1"},
        {"/sequence", "18446744073709551615"},
        {"/sequence", "7.0"},
        {"/repository", "\"cc\""},
        {"/host", "5"},
        {"/host_id", "5"},
        {"/tool", "\"\""},
        {"/domain", "[]"},
        {"/domain/name", "\"\""},
        {"/domain/name", "\"a\\u0000b\""},
        {"/domain/uuid", "\"5F0C7A52-7D0F-4A57-9B6E-0F3D2C1B0A99\""},
        {"/domain/transient", "0"},
        {"/time", "\"2026-11-21T02:00:08Z\""},
        {"/time_ns", "-5"},
        {"/duration_ns", "-1"},
        {"/level", "\"full\""},
        {"/level", "\"differential\""},
        {"/consistency", "\"perfect\""},
        {"/quiesce/mode", "null"},
        {"/quiesce/filesystems", "-2"},
        {"/quiesce", "null"},
        {"/reasons", "{}"},
        {"/reasons/0", "7"},
        {"/reasons/0/code", "\"no-such-code\""},
        {"/reasons/0/message", NULL},
        {"/disks", "null"},
        {"/disks/0", "null"},
        {"/disks/0/target", "\"a/b\""},
        {"/disks/0/target", "\"..\""},
        {"/disks/0/target", "\".vda\""},
        {"/disks/0/target", "\"vdb\""},
        {"/disks/0/target", "\"sda\""},
        {"/disks/0/target", "\"v\\u001bda\""},
        {"/disks/0/id", "\"target:vdb\""},
        {"/disks/0/id", "\"\""},
        {"/disks/0/size", "0"},
        {"/disks/0/size", "70368744177665"},
        {"/disks/0/size", "-512"},
        {"/disks/0/size", "99999999999999999999999"},
        {"/disks/0/size", "1e9"},
        {"/disks/0/level", "\"full\""},
        {"/disks/0/level", "\"Full\""},
        {"/disks/0/method", "\"full\""},
        {"/disks/0/method", "\"magic\""},
        {"/disks/0/reason", "\"because\""},
        {"/disks/0/parent", "null"},
        {"/disks/0/parent", "\"../../x\""},
        {"/disks/0/parent", "\"20261121T020007Z\""},
        {"/disks/0/base_checkpoint", "null"},
        {"/disks/0/base_checkpoint", "\"a/b\""},
        {"/disks/0/checkpoint", "\".x\""},
        {"/disks/1/parent", "\"20261121T020006Z\""},
        {"/disks/1/base_checkpoint", "\"x\""},
        {"/disks/1/method", "\"compare\""},
        {"/disks/0/layers", "null"},
        {"/disks/0/layers/0/mtime_ns", "18446744073709551615"},
        {"/disks/0/layers/0/header_digest", "\"zz\""},
        {"/disks/0/layers/0/device", "-1"},
        {"/disks/0/image", "null"},
        {"/disks/0/image/file", "\"../vda.qcow2\""},
        {"/disks/0/image/file", "\"manifest.json\""},
        {"/disks/0/image/file", "\"state.json\""},
        {"/disks/0/image/file", "\"lock\""},
        {"/disks/0/image/file", "\"vdb.qcow2\""},
        {"/disks/0/image/file", "\"domain.xml\""},
        {"/disks/0/image/size", "66535"},
        {"/disks/0/image/size", "1152921504606846976"},
        {"/disks/0/image/compression", "\"lz4\""},
        {"/disks/0/image/compression", "\"none\""},
        {"/disks/0/image/data_blocks", "162"},
        {"/disks/0/image/zero_blocks", "18446744073709551615"},
        {"/disks/0/image/zero_blocks", "159"},
        {"/disks/0/image/stored_bytes", "196609"},
        {"/disks/0/image/head_digest", "\"00\""},
        {"/disks/0/image/tables_digest", NULL},
        {"/disks/0/digests/size", "63"},
        {"/disks/0/digests/size", "65"},
        {"/disks/0/digests/size", "160"},
        {"/disks/0/digests/size", "48000064"},
        {"/disks/0/digests/file", "\"vda.qcow2\""},
        {"/disks/0/digests/digest", "null"},
        {"/skipped/0/reason", "null"},
        {"/skipped/0/target", "\"vda\""},
        {"/skipped", "7"},
        {"/files/0/name", "\"/etc/passwd\""},
        {"/files/0/name", "\"..\""},
        {"/files/0/name", "\".hidden\""},
        {"/files/0/name", "\"vda.qcow2\""},
        {"/files/0/name", "\"manifest.json\""},
        {"/files/0/size", "-1"},
        {"/files/0/size", "70368744177665"},
        {"/files/0/digest", "5"},
        {"/files/0/role", "null"},
        {"/guest", "[]"},
        {"/guest", "\"x\""},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_test_message("%s = %s", cases[i].path, cases[i].value != NULL ? cases[i].value : "gone");
        g_autofree char *text = changed(cases[i].path, cases[i].value);
        assert_damaged(text, strlen(text));
    }
}

static void
test_tolerated(void)
{
    static const struct {
        const char *path, *value;
    } cases[] = {
        {"/new_member", "{\"a\":[1,2]}"},
        {"/disks/0/new_member", "true"},
        {"/guest", "null"},
        {"/guest", NULL},
        {"/disks/0/checkpoint", "null"},
        {"/disks/0/bus", "null"},
        {"/disks/0/size", "70368744177664"},
        {"/files/0/origin", "\"/a/b\""},
        {"/files/0/role", "\"something-new\""},
        {"/disks/0/layers", "[]"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = changed(cases[i].path, cases[i].value);
        g_autoptr(VmbManifest) manifest = vmb_manifest_parse(text, strlen(text), &error);
        g_assert_no_error(error);
    }
}

static void
test_newer(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = changed("/format", "3");
    g_assert_null(vmb_manifest_parse(text, strlen(text), &error));
    assert_error_contains(error, VMB_ERROR_NO_REPOSITORY, "newer version");
}

static void
test_not_utf8(void)
{
    g_autoptr(VmbManifest) manifest = sample();
    g_free(manifest->host);
    manifest->host = g_strdup("h\xff\xfe");
    g_autofree char *text = vmb_manifest_serialise(manifest);
    g_assert_true(g_utf8_validate(text, -1, NULL));
    g_autoptr(VmbManifest) again = vmb_manifest_parse(text, strlen(text), NULL);
    g_assert_nonnull(again);
    VmbJson *object = vmb_json_parse(text, strlen(text), NULL);
    json_object_object_del(object, "digest");
    json_object_object_add(object, "host", json_object_new_string("h\xff\xfe"));
    g_autofree char *raw = vmb_json_seal(object);
    json_object_put(object);
    assert_damaged(raw, strlen(raw));
}

static void
test_many_disks(void)
{
    g_autoptr(VmbManifest) manifest = fixture_manifest("many", FIXTURE_UUID, 1);
    for (guint i = 0; i < 4096; i++) {
        g_autofree char *target = g_strdup_printf("vd%u", i);
        fixture_add_disk(manifest, fixture_disk(target, 1, 0));
    }
    g_autofree char *most = vmb_manifest_serialise(manifest);
    g_autoptr(VmbManifest) again = vmb_manifest_parse(most, strlen(most), NULL);
    g_assert_nonnull(again);
    g_assert_cmpuint(again->disks->len, ==, 4096);
    fixture_add_disk(manifest, fixture_disk("one-more", 1, 0));
    g_autofree char *too_many = vmb_manifest_serialise(manifest);
    assert_damaged(too_many, strlen(too_many));
}

static void
test_deep(void)
{
    g_autofree char *opening = g_strnfill(100000, '[');
    g_autofree char *text = g_strdup_printf("{\n  \"x\":%s", opening);
    g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, text, -1);
    g_autofree char *sealed = g_strdup_printf("%s,\n  \"digest\":\"sha256:%s\"\n}\n", text, digest);
    assert_damaged(sealed, strlen(sealed));
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    g_test_add_func("/manifest/round-trip", test_round_trip);
    g_test_add_func("/manifest/empty", test_empty);
    g_test_add_func("/manifest/every-byte", test_every_byte);
    g_test_add_func("/manifest/end", test_end);
    g_test_add_func("/manifest/truncated", test_truncated);
    g_test_add_func("/manifest/hostile", test_hostile);
    g_test_add_func("/manifest/tolerated", test_tolerated);
    g_test_add_func("/manifest/newer", test_newer);
    g_test_add_func("/manifest/not-utf8", test_not_utf8);
    g_test_add_func("/manifest/many-disks", test_many_disks);
    g_test_add_func("/manifest/deep", test_deep);
    return g_test_run();
}
