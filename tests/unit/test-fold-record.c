/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The record of a fold: what readers see in each of its states, wherever the files are just then. */
#include "block/digest.h"
#include "point-fixture.h"
#include "repo/fold-record.h"

#define OLD_PARENT 'p' /* what the images' first bytes are */
#define OLD_CHILD 'c'
#define NEW 'n'
#define NEW_SIZE (20 * VMB_BLOCK_SIZE)
#define NEW_DIGESTS (64 + 48 * 7)

/* Point 1 is a retired full, 2 and 3 build on it; 1 is being folded into 2. */
typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    VmbFoldRecord *record;
    guint64 old_size;
} Folding;

static void
put(const Folding *folding, const char *id, const char *name, char fill, guint64 size)
{
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, id, name, NULL);
    char header[VMB_FOLD_RECORD_HEADER];
    int fd = openat(vmb_repo_domain_fd(folding->domain), path,
                    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    memset(header, fill, sizeof header);
    g_assert_cmpint(pwrite(fd, header, MIN(size, sizeof header), 0), >, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    close(fd);
}

static void
move(const Folding *folding, const char *from_id, const char *from, const char *to_id,
     const char *to)
{
    g_autofree char *old = g_build_filename(VMB_LAYOUT_POINTS, from_id, from, NULL);
    g_autofree char *new = g_build_filename(VMB_LAYOUT_POINTS, to_id, to, NULL);
    int fd = vmb_repo_domain_fd(folding->domain);
    g_assert_cmpint(renameat(fd, old, fd, new), ==, 0);
}

static VmbManifestDisk *
new_entry(void)
{
    VmbManifestDisk *entry = fixture_disk("vda", 2, 1);
    entry->level = VMB_LEVEL_FULL;
    entry->method = VMB_METHOD_FULL;
    entry->reason = VMB_REASON_FIRST_BACKUP;
    g_clear_pointer(&entry->parent, g_free);
    g_clear_pointer(&entry->base_checkpoint, g_free);
    entry->folded = 1;
    entry->image_size = NEW_SIZE;
    entry->data_blocks = 4;
    entry->digests_size = NEW_DIGESTS;
    return entry;
}

static VmbFoldRecord *
new_record(const Folding *folding, VmbFoldMode mode, gboolean ready)
{
    VmbFoldRecord *record = g_new0(VmbFoldRecord, 1);
    g_autoptr(VmbDigest) digest = vmb_digest_new();
    char header[VMB_FOLD_RECORD_HEADER];
    memset(header, NEW, sizeof header);
    record->parent = fixture_id(1);
    record->child = fixture_id(2);
    record->disk = g_strdup("target:vda");
    record->mode = mode;
    record->parent_image = g_strdup("vda.qcow2");
    record->parent_size = 10 * VMB_MIB + 512;
    record->old_size = folding->old_size;
    record->ready = ready;
    if (!ready)
        return record;
    record->entry = new_entry();
    vmb_digest_block(digest, header, sizeof header, record->header_digest);
    memset(record->old_header, OLD_PARENT, sizeof record->old_header);
    return record;
}

static void
begin(Folding *folding, VmbFoldMode mode, gboolean ready)
{
    g_autoptr(GError) error = NULL;
    vmb_fold_record_free(folding->record);
    folding->record = new_record(folding, mode, ready);
    vmb_fold_record_write(folding->domain, folding->record, &error);
    g_assert_no_error(error);
}

static void
set_up(Folding *folding, gconstpointer data)
{
    fixture_set_up(&folding->base, data);
    folding->repository = fixture_repository(&folding->base);
    folding->domain = fixture_domain(folding->repository, FIXTURE_UUID);
    g_autoptr(VmbManifestDisk) disk = fixture_disk("vda", 1, 0);
    folding->old_size = disk->image_size;
    for (guint n = 1; n <= 3; n++)
        fixture_publish(folding->domain, n);
    g_autofree char *first = fixture_id(1), *second = fixture_id(2);
    put(folding, first, "vda.qcow2", OLD_PARENT, folding->old_size);
    put(folding, second, "vda.qcow2", OLD_CHILD, folding->old_size);
    put(folding, first, VMB_LAYOUT_RETIRED, 'x', 1);
}

static void
tear_down(Folding *folding, gconstpointer data)
{
    vmb_fold_record_free(folding->record);
    vmb_repo_domain_free(folding->domain);
    vmb_repository_free(folding->repository);
    fixture_tear_down(&folding->base, data);
}

/* ---- what is seen ---- */

static char
first_byte(const VmbPoint *point, const char *name, guint64 size)
{
    g_autoptr(GError) error = NULL;
    char byte = 0;
    struct stat st;
    g_auto(VmbFd) fd = vmb_point_open_file(point, name, &error);
    g_assert_no_error(error);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpuint((guint64)st.st_size, ==, size);
    g_assert_cmpint(pread(fd, &byte, 1, 0), ==, 1);
    return byte;
}

static guint
chain_length(GPtrArray *points, guint n)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) links = vmb_repo_chain(points, points->pdata[n - 1], "target:vda", &error);
    g_assert_no_error(error);
    return links->len;
}

static void
check_place(const Folding *folding, VmbFoldPlace expected)
{
    g_autoptr(GError) error = NULL;
    VmbFoldPlace place = VMB_FOLD_NOT_SWITCHED;
    vmb_fold_record_place(folding->domain, folding->record, &place, &error);
    g_assert_no_error(error);
    g_assert_cmpint(place, ==, expected);
}

/* Two layers below the newest; the parent's image may have grown. */
static void
expect_old(const Folding *folding, guint64 parent_size)
{
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    const VmbPoint *parent = points->pdata[0], *child = points->pdata[1];
    check_place(folding, VMB_FOLD_NOT_SWITCHED);
    g_assert_cmpuint(points->len, ==, 3);
    g_assert_cmpuint(chain_length(points, 3), ==, 3);
    g_assert_cmpint(first_byte(parent, "vda.qcow2", parent_size), ==, OLD_PARENT);
    g_assert_cmpint(first_byte(child, "vda.qcow2", folding->old_size), ==, OLD_CHILD);
    g_assert_null(child->growing);
    /* Only what is appended to may be longer than its manifest says. */
    if (folding->record->mode == VMB_FOLD_APPEND)
        g_assert_cmpstr(parent->growing, ==, "vda.qcow2");
    else
        g_assert_null(parent->growing);
}

static void
expect_new(const Folding *folding, VmbFoldPlace place)
{
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    const VmbPoint *parent = points->pdata[0], *child = points->pdata[1];
    check_place(folding, place);
    g_assert_cmpuint(points->len, ==, 3);
    g_assert_cmpuint(chain_length(points, 3), ==, 2);
    g_assert_cmpuint(parent->manifest->disks->len, ==, 0);
    g_assert_null(parent->growing);
    const VmbManifestDisk *disk = child->manifest->disks->pdata[0];
    g_assert_cmpint(child->manifest->level, ==, VMB_LEVEL_FULL);
    g_assert_cmpint(disk->level, ==, VMB_LEVEL_FULL);
    g_assert_cmpuint(disk->folded, ==, 1);
    g_assert_cmpuint(disk->digests_size, ==, NEW_DIGESTS);
    g_assert_cmpint(first_byte(child, "vda.qcow2", NEW_SIZE), ==, NEW);
    g_assert_cmpint(first_byte(child, "vda.digests", NEW_DIGESTS), ==, NEW);
}

/* ---- the states ---- */

static void
test_append(Folding *folding, gconstpointer data)
{
    g_autofree char *first = fixture_id(1), *second = fixture_id(2);
    begin(folding, VMB_FOLD_APPEND, FALSE);
    expect_old(folding, folding->old_size);
    put(folding, first, "vda.qcow2", OLD_PARENT, NEW_SIZE);
    put(folding, second, ".fold-vda.digests", NEW, NEW_DIGESTS);
    expect_old(folding, NEW_SIZE);
    begin(folding, VMB_FOLD_APPEND, TRUE);
    expect_old(folding, NEW_SIZE);
    put(folding, first, "vda.qcow2", NEW, NEW_SIZE);
    expect_new(folding, VMB_FOLD_AT_PARENT);
    move(folding, first, "vda.qcow2", second, "vda.qcow2");
    expect_new(folding, VMB_FOLD_AT_CHILD);
    move(folding, second, ".fold-vda.digests", second, "vda.digests");
    expect_new(folding, VMB_FOLD_AT_CHILD);
}

/* A clone, or a file that was written anew, counts when it has its name. */
static void
test_beside(Folding *folding, gconstpointer data)
{
    g_autofree char *first = fixture_id(1), *second = fixture_id(2);
    VmbFoldMode mode = (VmbFoldMode)GPOINTER_TO_INT(data);
    begin(folding, mode, FALSE);
    put(folding, second, ".fold-vda.qcow2", NEW, NEW_SIZE);
    put(folding, second, ".fold-vda.digests", NEW, NEW_DIGESTS);
    expect_old(folding, folding->old_size);
    begin(folding, mode, TRUE);
    expect_old(folding, folding->old_size);
    /* A parent that looks like it is not what this mode makes. */
    put(folding, first, "vda.qcow2", NEW, NEW_SIZE);
    check_place(folding, VMB_FOLD_NOT_SWITCHED);
    put(folding, first, "vda.qcow2", OLD_PARENT, folding->old_size);
    move(folding, second, ".fold-vda.qcow2", second, "vda.qcow2");
    expect_new(folding, VMB_FOLD_AT_CHILD);
    move(folding, second, ".fold-vda.digests", second, "vda.digests");
    expect_new(folding, VMB_FOLD_AT_CHILD);
}

/* Both the header and the size tell the new image. */
static void
test_likeness(Folding *folding, gconstpointer data)
{
    g_autofree char *first = fixture_id(1), *second = fixture_id(2);
    begin(folding, VMB_FOLD_APPEND, TRUE);
    put(folding, first, "vda.qcow2", NEW, NEW_SIZE + VMB_BLOCK_SIZE);
    check_place(folding, VMB_FOLD_NOT_SWITCHED);
    put(folding, first, "vda.qcow2", NEW + 1, NEW_SIZE);
    check_place(folding, VMB_FOLD_NOT_SWITCHED);
    put(folding, second, "vda.qcow2", NEW, 511);
    check_place(folding, VMB_FOLD_NOT_SWITCHED);
    put(folding, second, "vda.qcow2", NEW, NEW_SIZE);
    check_place(folding, VMB_FOLD_AT_CHILD);
}

/* Who has looked at the points before the next run moves the files still finds them. */
static void
test_moved_meanwhile(Folding *folding, gconstpointer data)
{
    g_autofree char *first = fixture_id(1), *second = fixture_id(2);
    begin(folding, VMB_FOLD_APPEND, TRUE);
    put(folding, first, "vda.qcow2", NEW, NEW_SIZE);
    put(folding, second, ".fold-vda.digests", NEW, NEW_DIGESTS);
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    const VmbPoint *child = points->pdata[1];
    g_assert_cmpint(first_byte(child, "vda.qcow2", NEW_SIZE), ==, NEW);
    move(folding, first, "vda.qcow2", second, "vda.qcow2");
    move(folding, second, ".fold-vda.digests", second, "vda.digests");
    g_assert_cmpint(first_byte(child, "vda.qcow2", NEW_SIZE), ==, NEW);
    g_assert_cmpint(first_byte(child, "vda.digests", NEW_DIGESTS), ==, NEW);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, second, "vda.qcow2", NULL);
    g_assert_cmpint(unlinkat(vmb_repo_domain_fd(folding->domain), path, 0), ==, 0);
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(vmb_point_open_file(child, "vda.qcow2", &error), <, 0);
    assert_error_contains(error, VMB_ERROR_DAMAGE, "vda.qcow2 is missing");
}

/* What cannot be looked at is not taken for anything. */
static void
test_unknown(Folding *folding, gconstpointer data)
{
    g_autofree char *second = fixture_id(2);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, second, "vda.qcow2", NULL);
    g_autoptr(GError) error = NULL;
    VmbFoldPlace place = VMB_FOLD_AT_CHILD;
    int fd = vmb_repo_domain_fd(folding->domain);
    begin(folding, VMB_FOLD_APPEND, TRUE);
    g_assert_cmpint(unlinkat(fd, path, 0), ==, 0);
    g_assert_cmpint(symlinkat("domain.xml", fd, path), ==, 0);
    g_assert_false(vmb_fold_record_place(folding->domain, folding->record, &place, &error));
    assert_error_contains(error, VMB_ERROR_FAILED, "vda.qcow2");
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    g_assert_cmpuint(chain_length(points, 3), ==, 3);
}

/* ---- the file ---- */

static void
test_file(Folding *folding, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbFoldRecord) none = NULL, writing = NULL, ready = NULL, cleared = NULL;
    vmb_fold_record_read(folding->domain, &none, &error);
    g_assert_no_error(error);
    g_assert_null(none);
    begin(folding, VMB_FOLD_REWRITE, FALSE);
    vmb_fold_record_read(folding->domain, &writing, &error);
    g_assert_no_error(error);
    g_assert_false(writing->ready);
    g_assert_null(writing->entry);
    g_assert_cmpint(writing->mode, ==, VMB_FOLD_REWRITE);
    g_assert_cmpstr(writing->parent, ==, folding->record->parent);
    g_assert_cmpstr(writing->child, ==, folding->record->child);
    g_assert_cmpstr(writing->disk, ==, "target:vda");
    g_assert_cmpstr(writing->parent_image, ==, "vda.qcow2");
    g_assert_cmpuint(writing->parent_size, ==, folding->record->parent_size);
    g_assert_cmpuint(writing->old_size, ==, folding->old_size);
    begin(folding, VMB_FOLD_APPEND, TRUE);
    vmb_fold_record_read(folding->domain, &ready, &error);
    g_assert_no_error(error);
    g_assert_true(ready->ready);
    g_assert_cmpint(ready->mode, ==, VMB_FOLD_APPEND);
    g_assert_cmpuint(ready->entry->image_size, ==, NEW_SIZE);
    g_assert_cmpmem(ready->header_digest, VMB_DIGEST_SIZE, folding->record->header_digest,
                    VMB_DIGEST_SIZE);
    g_assert_cmpmem(ready->old_header, VMB_FOLD_RECORD_HEADER, folding->record->old_header,
                    VMB_FOLD_RECORD_HEADER);
    vmb_fold_record_clear(folding->domain, &error);
    g_assert_no_error(error);
    vmb_fold_record_clear(folding->domain, &error);
    g_assert_no_error(error);
    vmb_fold_record_read(folding->domain, &cleared, &error);
    g_assert_no_error(error);
    g_assert_null(cleared);
}

static VmbJson *
read_object(const Folding *folding)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    gsize length = 0;
    vmb_fs_read_file(vmb_repo_domain_fd(folding->domain), VMB_LAYOUT_FOLD, VMB_MIB, &text, &length,
                     &error);
    g_assert_no_error(error);
    VmbJson *object = vmb_json_unseal(text, length, &error);
    g_assert_no_error(error);
    json_object_object_del(object, "digest");
    return object;
}

/* Takes @value. */
static void
expect_refused(Folding *folding, const char *key, VmbJson *value, VmbErrorCode code,
               const char *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbFoldRecord) record = NULL;
    begin(folding, VMB_FOLD_APPEND, TRUE);
    g_autoptr(VmbJson) object = read_object(folding);
    json_object_object_del(object, key);
    if (value != NULL)
        json_object_object_add(object, key, value);
    g_autofree char *text = vmb_json_seal(object);
    fixture_write(vmb_repo_domain_fd(folding->domain), VMB_LAYOUT_FOLD, text);
    g_assert_false(vmb_fold_record_read(folding->domain, &record, &error));
    assert_error_contains(error, code, message);
    g_assert_null(record);
}

static void
test_hostile(Folding *folding, gconstpointer data)
{
    VmbJson *(*text)(const char *) = json_object_new_string;
    g_autofree char *zeroes = g_strnfill(2 * VMB_FOLD_RECORD_HEADER - 1, '0');
    expect_refused(folding, "format", json_object_new_int(2), VMB_ERROR_NO_REPOSITORY,
                   "newer version");
    expect_refused(folding, "parent", text("../../etc"), VMB_ERROR_DAMAGE, "parent");
    expect_refused(folding, "child", text(""), VMB_ERROR_DAMAGE, "child");
    expect_refused(folding, "child", NULL, VMB_ERROR_DAMAGE, "child");
    expect_refused(folding, "disk", text(""), VMB_ERROR_DAMAGE, "disk");
    expect_refused(folding, "disk", text("target:vdb"), VMB_ERROR_DAMAGE, "another disk's");
    expect_refused(folding, "parent_image", text("../x"), VMB_ERROR_DAMAGE, "parent_image");
    expect_refused(folding, "parent_image", text(VMB_LAYOUT_MANIFEST), VMB_ERROR_DAMAGE,
                   "parent_image");
    expect_refused(folding, "mode", text("prepend"), VMB_ERROR_DAMAGE, "unknown mode");
    expect_refused(folding, "stage", text("done"), VMB_ERROR_DAMAGE, "unknown stage");
    expect_refused(folding, "old_size", json_object_new_int(-1), VMB_ERROR_DAMAGE, "old_size");
    expect_refused(folding, "entry", NULL, VMB_ERROR_DAMAGE, "entry");
    expect_refused(folding, "entry", json_object_new_object(), VMB_ERROR_DAMAGE, "");
    expect_refused(folding, "header", text("00"), VMB_ERROR_DAMAGE, "header");
    expect_refused(folding, "old_header", text(zeroes), VMB_ERROR_DAMAGE, "old_header");
    /* Readers go by the manifests then. */
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    g_assert_cmpuint(chain_length(points, 3), ==, 3);
}

/* ---- the end ---- */

static void
test_manifest(Folding *folding, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *first = fixture_id(1), *second = fixture_id(2);
    begin(folding, VMB_FOLD_APPEND, TRUE);
    put(folding, first, "vda.qcow2", NEW, NEW_SIZE);
    move(folding, first, "vda.qcow2", second, "vda.qcow2");
    put(folding, second, "vda.digests", NEW, NEW_DIGESTS);
    for (guint i = 0; i < 2; i++) { /* a kill may come in between */
        vmb_fold_record_write_manifest(folding->domain, folding->record, &error);
        g_assert_no_error(error);
    }
    for (guint i = 0; i < 2; i++) {
        vmb_fold_record_clear_parent(folding->domain, folding->record, &error);
        g_assert_no_error(error);
    }
    vmb_fold_record_clear(folding->domain, &error);
    g_assert_no_error(error);
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    const VmbPoint *parent = points->pdata[0], *child = points->pdata[1];
    g_assert_cmpuint(chain_length(points, 3), ==, 2);
    g_assert_cmpuint(chain_length(points, 2), ==, 1);
    g_assert_cmpint(child->manifest->level, ==, VMB_LEVEL_FULL);
    g_assert_null(child->moved);
    g_assert_cmpint(first_byte(child, "vda.qcow2", NEW_SIZE), ==, NEW);
    g_assert_cmpint(vmb_point_open_file(parent, "vda.digests", NULL), <, 0);
    g_assert_cmpuint(parent->manifest->disks->len, ==, 1);
}

/* Not of a point that counts. */
static void
test_parent_not_retired(Folding *folding, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *first = fixture_id(1);
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, first, VMB_LAYOUT_RETIRED, NULL);
    begin(folding, VMB_FOLD_CLONE, TRUE);
    g_assert_cmpint(unlinkat(vmb_repo_domain_fd(folding->domain), path, 0), ==, 0);
    vmb_fold_record_clear_parent(folding->domain, folding->record, &error);
    g_assert_no_error(error);
    g_autoptr(GPtrArray) points = fixture_points(folding->domain);
    g_assert_cmpint(first_byte(points->pdata[0], "vda.qcow2", folding->old_size), ==, OLD_PARENT);
}

#define add(path, data, function)                                                                  \
    g_test_add("/fold-record/" path, Folding, data, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    add("append", NULL, test_append);
    add("clone", GINT_TO_POINTER(VMB_FOLD_CLONE), test_beside);
    add("rewrite", GINT_TO_POINTER(VMB_FOLD_REWRITE), test_beside);
    add("likeness", NULL, test_likeness);
    add("moved-meanwhile", NULL, test_moved_meanwhile);
    add("unknown", NULL, test_unknown);
    add("file", NULL, test_file);
    add("hostile", NULL, test_hostile);
    add("manifest", NULL, test_manifest);
    add("parent-not-retired", NULL, test_parent_not_retired);
    return g_test_run();
}
