/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmaps in qcow2 images, as qemu-img makes them, and as damage makes them. */
#include "virt/image-bitmaps.h"
#include "virt/bitmap-disks.h"
#include "repo-fixture.h"

#define FIRST "vmbackup-01234567-0123456789abcdef0123456789abcdef"
#define SECOND "second"

static void
qemu_img(const char *first, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    g_autofree char *err = NULL;
    int status = 0;
    va_list args;
    g_ptr_array_add(argv, (gpointer) "qemu-img");
    va_start(args, first);
    for (const char *arg = first; arg != NULL; arg = va_arg(args, const char *))
        g_ptr_array_add(argv, (gpointer)arg);
    va_end(args);
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                 NULL, NULL, NULL, &err, &status, &error);
    g_assert_no_error(error);
    if (!g_spawn_check_wait_status(status, &error))
        g_error("qemu-img %s: %s", first, err);
}

static gboolean
have_qemu(void)
{
    g_autofree char *path = g_find_program_in_path("qemu-img");
    if (path != NULL)
        return TRUE;
    g_assert_cmpstr(g_getenv("VMBACKUP_TEST_MUST_RUN"), !=, "1");
    g_test_skip("qemu-img is not installed");
    return FALSE;
}

/* An image with two bitmaps. Free with g_free(). */
static char *
make(const Fixture *fixture, const char *name)
{
    char *path = g_build_filename(fixture->path, name, NULL);
    qemu_img("create", "-q", "-f", "qcow2", path, "8M", NULL);
    qemu_img("bitmap", "--add", "-f", "qcow2", path, FIRST, NULL);
    qemu_img("bitmap", "--add", "-f", "qcow2", path, SECOND, NULL);
    return path;
}

static GPtrArray *
read_bitmaps(const char *path)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *bitmaps = vmb_image_bitmaps_read(path, &error);
    g_assert_no_error(error);
    return bitmaps;
}

/* Changes @length bytes at @offset. */
static void
patch(const char *path, guint64 offset, const void *bytes, gsize length)
{
    g_auto(VmbFd) fd = open(path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, bytes, length, (off_t)offset), ==, (ssize_t)length);
}

static guint64
get64(const char *path, guint64 offset)
{
    guint64 value = 0;
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(pread(fd, &value, sizeof value, (off_t)offset), ==, sizeof value);
    return GUINT64_FROM_BE(value);
}

/* Where the data of the extension for bitmaps is in the header. */
static guint64
extension_at(const char *path)
{
    for (guint64 at = get64(path, 100) >> 32;;) {
        guint64 head = get64(path, at);
        g_assert_cmpuint(head >> 32, !=, 0);
        if (head >> 32 == 0x23852875)
            return at + 8;
        at += 8 + (((head & G_MAXUINT32) + 7) & ~G_GUINT64_CONSTANT(7));
    }
}

static void
test_read_and_remove(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    if (!have_qemu())
        return;
    g_autofree char *path = make(fixture, "two.qcow2");
    g_autoptr(GPtrArray) two = read_bitmaps(path);
    g_assert_cmpuint(two->len, ==, 2);
    g_assert_true(vmb_image_bitmaps_have(two, FIRST) && vmb_image_bitmaps_have(two, SECOND));
    g_assert_false(vmb_image_bitmaps_have(two, "vmbackup-01234567"));
    g_assert_false(((VmbImageBitmap *)two->pdata[0])->in_use);
    g_assert_true(vmb_image_bitmap_remove(path, FIRST, &error));
    g_assert_no_error(error);
    g_autoptr(GPtrArray) one = read_bitmaps(path);
    g_assert_cmpuint(one->len, ==, 1);
    g_assert_true(vmb_image_bitmaps_have(one, SECOND));
    g_assert_false(vmb_image_bitmap_remove(path, FIRST, &error));
    g_assert_nonnull(strstr(error->message, FIRST));
    g_clear_error(&error);
    g_assert_true(vmb_image_bitmap_remove(path, SECOND, &error));
    g_autoptr(GPtrArray) none = read_bitmaps(path);
    g_assert_cmpuint(none->len, ==, 0);
    qemu_img("check", "-q", "-f", "qcow2", path, NULL);
}

static void
test_in_use(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    if (!have_qemu())
        return;
    g_autofree char *path = make(fixture, "in-use.qcow2");
    guint64 directory = get64(path, extension_at(path) + 16);
    guint32 flags = GUINT32_TO_BE(3);
    patch(path, directory + 12, &flags, sizeof flags);
    g_autoptr(GPtrArray) bitmaps = read_bitmaps(path);
    g_assert_true(((VmbImageBitmap *)bitmaps->pdata[0])->in_use);
    g_assert_false(((VmbImageBitmap *)bitmaps->pdata[1])->in_use);
    g_assert_true(
        vmb_image_bitmap_remove(path, ((VmbImageBitmap *)bitmaps->pdata[0])->name, &error));
    g_assert_no_error(error);
}

/* Written by something that knows nothing of bitmaps: QEMU drops them all. */
static void
test_not_trusted(Fixture *fixture, gconstpointer data)
{
    guint64 zero = 0;
    if (!have_qemu())
        return;
    g_autofree char *path = make(fixture, "old-writer.qcow2");
    patch(path, 88, &zero, sizeof zero);
    g_autoptr(GPtrArray) bitmaps = read_bitmaps(path);
    g_assert_cmpuint(bitmaps->len, ==, 0);
}

static void
assert_refused(const char *path, VmbErrorCode code)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_image_bitmaps_read(path, &error));
    g_assert_error(error, VMB_ERROR, (gint)code);
    g_assert_nonnull(strstr(error->message, path));
}

static void
test_damage(Fixture *fixture, gconstpointer data)
{
    static const struct {
        gint64 from_extension, from_directory; /* one of them is not negative */
        guint64 value;
    } damages[] = {
        {0, -1, G_MAXUINT64},                 /* number of bitmaps */
        {0, -1, G_GUINT64_CONSTANT(9) << 32}, /* more than there are */
        {8, -1, G_MAXUINT64},                 /* size of the directory */
        {8, -1, 24},
        {16, -1, G_MAXINT64}, /* its place */
        {-1, 16, 0},          /* type, granularity, no name, no extra data */
        {-1, 16, G_GUINT64_CONSTANT(0x1000ffff) << 16}, /* a name that is too long */
        {-1, 16, 0x01100001fffffff0},                   /* extra data without end */
    };
    if (!have_qemu())
        return;
    for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autofree char *name = g_strdup_printf("damaged-%u.qcow2", i);
        g_autofree char *path = make(fixture, name);
        guint64 at = extension_at(path), value = GUINT64_TO_BE(damages[i].value);
        at = damages[i].from_extension >= 0
                 ? at + (guint64)damages[i].from_extension
                 : get64(path, at + 16) + (guint64)damages[i].from_directory;
        patch(path, at, &value, sizeof value);
        assert_refused(path, VMB_ERROR_DAMAGE);
    }
}

static void
test_other_files(Fixture *fixture, gconstpointer data)
{
    g_autofree char *path = g_build_filename(fixture->path, "other", NULL);
    assert_refused(path, VMB_ERROR_FAILED);
    fixture_write(fixture->fd, "other", "no image at all");
    assert_refused(path, VMB_ERROR_FAILED);
    assert_refused(fixture->path, VMB_ERROR_FAILED);
    g_autoptr(GPtrArray) chain = vmb_image_bitmaps_chain(path);
    g_assert_cmpuint(chain->len, ==, 0);
    if (!have_qemu())
        return;
    g_assert_cmpint(unlink(path), ==, 0);
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "1M", NULL);
    g_autoptr(GPtrArray) bitmaps = read_bitmaps(path);
    g_assert_cmpuint(bitmaps->len, ==, 0);
}

static void
test_chain(Fixture *fixture, gconstpointer data)
{
    if (!have_qemu())
        return;
    g_autofree char *base = make(fixture, "base.qcow2");
    g_autofree char *middle = g_build_filename(fixture->path, "middle.qcow2", NULL);
    g_autofree char *top = g_build_filename(fixture->path, "top.qcow2", NULL);
    g_autofree char *odd = g_build_filename(fixture->path, "odd.qcow2", NULL);
    g_autofree char *json =
        g_strdup_printf("json:{\"driver\":\"qcow2\",\"file.filename\":\"%s\"}", base);
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", middle, NULL);
    qemu_img("create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", top, NULL);
    qemu_img("create", "-q", "-f", "qcow2", "-b", json, "-F", "qcow2", odd, "8M", NULL);
    g_autoptr(GPtrArray) chain = vmb_image_bitmaps_chain(top);
    g_assert_cmpuint(chain->len, ==, 3);
    g_assert_cmpstr(chain->pdata[0], ==, top);
    g_assert_cmpstr(chain->pdata[1], ==, middle);
    g_assert_cmpstr(chain->pdata[2], ==, base);
    /* A name that is more than a path is followed nowhere. */
    g_autoptr(GPtrArray) one = vmb_image_bitmaps_chain(odd);
    g_assert_cmpuint(one->len, ==, 1);
    /* A loop ends. */
    qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-b", top, "-F", "qcow2", base, NULL);
    g_autoptr(GPtrArray) loop = vmb_image_bitmaps_chain(top);
    g_assert_cmpuint(loop->len, <=, 200);
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    fixture_add("/image-bitmaps/read-and-remove", test_read_and_remove);
    fixture_add("/image-bitmaps/in-use", test_in_use);
    fixture_add("/image-bitmaps/not-trusted", test_not_trusted);
    fixture_add("/image-bitmaps/damage", test_damage);
    fixture_add("/image-bitmaps/other-files", test_other_files);
    fixture_add("/image-bitmaps/chain", test_chain);
    return g_test_run();
}
