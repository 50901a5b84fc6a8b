/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files: nothing outside the directory is opened, nothing short passes for whole. */
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

typedef struct {
    char *path;
    VmbFd dir;
} Fixture;

static void
set_up(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    f->path = g_dir_make_tmp("vmb-fsio-XXXXXX", &error);
    g_assert_no_error(error);
    f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(f->dir, >=, 0);
}

static void
tear_down(Fixture *f, gconstpointer unused)
{
    vmb_fd_clear(&f->dir);
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, f->path, NULL));
    g_assert_false(g_file_test(f->path, G_FILE_TEST_EXISTS));
    g_free(f->path);
}

static void
put(Fixture *f, const char *name, const char *content)
{
    g_autofree char *path = g_build_filename(f->path, name, NULL);
    g_autoptr(GError) error = NULL;
    g_file_set_contents(path, content, -1, &error);
    g_assert_no_error(error);
}

static void
check_content(Fixture *f, const char *name, const char *expected)
{
    g_autofree char *content = NULL;
    g_autoptr(GError) error = NULL;
    gsize length = 0;
    vmb_fs_read_file(f->dir, name, 1000, &content, &length, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(content, ==, expected);
    g_assert_cmpuint(length, ==, strlen(expected));
}

static void
open_fails(Fixture *f, const char *name, int flags, int err)
{
    g_autoptr(GError) error = NULL;
    g_test_message("%s", name);
    errno = 0;
    g_assert_cmpint(vmb_fs_open_beneath(f->dir, name, flags, 0600, "REPO", &error), ==, -1);
    g_assert_cmpint(errno, ==, err);
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, "REPO/"));
}

static void
test_beneath(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(mkdirat(f->dir, "sub", 0700), ==, 0);
    put(f, "sub/file", "x");
    g_assert_cmpint(symlinkat("/etc/passwd", f->dir, "absolute"), ==, 0);
    g_assert_cmpint(symlinkat("sub/file", f->dir, "inside"), ==, 0);
    g_assert_cmpint(symlinkat("sub", f->dir, "directory"), ==, 0);
    g_assert_cmpint(symlinkat("nowhere", f->dir, "dangling"), ==, 0);
    g_auto(VmbFd) fd = vmb_fs_open_beneath(f->dir, "sub/file", O_RDONLY, 0, "REPO", &error);
    g_assert_no_error(error);
    g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, !=, 0);
    open_fails(f, "..", O_RDONLY, EXDEV);
    open_fails(f, "../../etc/passwd", O_RDONLY, EXDEV);
    open_fails(f, "sub/../../x", O_RDONLY, EXDEV);
    open_fails(f, "/etc/passwd", O_RDONLY, EXDEV);
    open_fails(f, "absolute", O_RDONLY, ELOOP);
    open_fails(f, "inside", O_RDONLY, ELOOP);
    open_fails(f, "directory/file", O_RDONLY, ELOOP);
    open_fails(f, "dangling", O_WRONLY | O_CREAT, ELOOP);
    open_fails(f, "absent", O_RDONLY, ENOENT);
    open_fails(f, "sub/file", O_WRONLY | O_CREAT | O_EXCL, EEXIST);
    g_auto(VmbFd) made =
        vmb_fs_open_beneath(f->dir, "sub/made", O_WRONLY | O_CREAT | O_EXCL, 0600, "REPO", &error);
    g_assert_no_error(error);
    struct stat st;
    g_assert_cmpint(fstat(made, &st), ==, 0);
    g_assert_cmphex(st.st_mode & 07777, ==, 0600);
}

static void
test_read_write(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    char buffer[16] = "";
    g_auto(VmbFd) fd = vmb_fs_open_beneath(f->dir, "disk", O_RDWR | O_CREAT, 0600, "", &error);
    g_assert_no_error(error);
    guint64 far = G_GUINT64_CONSTANT(5000000000);
    g_assert_true(vmb_fs_pwrite(fd, "content", 7, far, "disk", NULL));
    g_assert_true(vmb_fs_pread(fd, buffer, 7, far, "disk", NULL));
    g_assert_cmpstr(buffer, ==, "content");
    g_assert_true(vmb_fs_pread(fd, buffer, 0, far + 100, "disk", NULL));
    g_assert_true(vmb_fs_sync(fd, "disk", NULL));
    g_assert_false(vmb_fs_pread(fd, buffer, 8, far, "disk", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    g_assert_nonnull(strstr(error->message, "offset 5000000007"));
    g_clear_error(&error);
    g_assert_false(vmb_fs_pread(-1, buffer, 1, 0, "disk", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_clear_error(&error);
    g_auto(VmbFd) full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    g_assert_false(vmb_fs_pwrite(full, "x", 1, 0, "target", &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_NO_SPACE);
    g_assert_nonnull(strstr(error->message, "target"));
}

static void
read_fails(Fixture *f, const char *name, gsize limit, VmbErrorCode code)
{
    g_autofree char *content = NULL;
    g_autoptr(GError) error = NULL;
    gsize length = 0;
    g_assert_false(vmb_fs_read_file(f->dir, name, limit, &content, &length, &error));
    g_assert_error(error, VMB_ERROR, (int)code);
    g_assert_null(content);
}

static void
test_read_file(Fixture *f, gconstpointer unused)
{
    put(f, "ten", "0123456789");
    put(f, "empty", "");
    check_content(f, "ten", "0123456789");
    check_content(f, "empty", "");
    g_autofree char *content = NULL;
    gsize length = 0;
    g_assert_true(vmb_fs_read_file(f->dir, "ten", 10, &content, &length, NULL));
    read_fails(f, "ten", 9, VMB_ERROR_DAMAGE);
    read_fails(f, "absent", 10, VMB_ERROR_FAILED);
    g_assert_cmpint(mkdirat(f->dir, "sub", 0700), ==, 0);
    read_fails(f, "sub", 10, VMB_ERROR_DAMAGE);
    g_assert_cmpint(mkfifoat(f->dir, "pipe", 0600), ==, 0);
    read_fails(f, "pipe", 10, VMB_ERROR_DAMAGE); /* and does not wait for a writer */
    g_assert_cmpint(symlinkat("ten", f->dir, "link"), ==, 0);
    read_fails(f, "link", 10, VMB_ERROR_FAILED);
}

static void
write_file(Fixture *f, const char *name, const char *content)
{
    g_autoptr(GError) error = NULL;
    vmb_fs_write_file(f->dir, name, content, strlen(content), &error);
    g_assert_no_error(error);
    check_content(f, name, content);
}

static guint
count_entries(Fixture *f)
{
    g_autoptr(GDir) dir = g_dir_open(f->path, 0, NULL);
    guint n = 0;
    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

static void
test_write_file(Fixture *f, gconstpointer unused)
{
    struct stat st;
    write_file(f, "manifest", "one");
    write_file(f, "manifest", "another one");
    write_file(f, "manifest", "");
    g_assert_cmpint(fstatat(f->dir, "manifest", &st, 0), ==, 0);
    g_assert_cmphex(st.st_mode & 07777, ==, 0600);
    put(f, ".manifest.new", "what a killed run left"); /* in the way, and gone afterwards */
    write_file(f, "manifest", "three");
    g_assert_cmpint(symlinkat("/nonexistent/victim", f->dir, "link"), ==, 0);
    write_file(f, "link", "replaces the link"); /* does not write through it */
    g_assert_cmpuint(count_entries(f), ==, 2);
}

/* A write that fails leaves neither a new file nor a damaged old one. */
static void
test_write_file_fails(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(mkdirat(f->dir, "busy", 0700), ==, 0);
    g_assert_false(vmb_fs_write_file(f->dir, "busy", "x", 1, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    g_assert_cmpuint(count_entries(f), ==, 1);
    g_clear_error(&error);
    g_assert_false(vmb_fs_write_file(-1, "x", "x", 1, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

static void
test_remove_tree(Fixture *f, gconstpointer unused)
{
    g_autofree char *outside = g_dir_make_tmp("vmb-fsio-XXXXXX", NULL);
    g_autofree char *precious = g_build_filename(outside, "precious", NULL);
    g_assert_true(g_file_set_contents(precious, "x", 1, NULL));
    g_autoptr(GString) path = g_string_new(f->path);
    g_string_append(path, "/tree");
    for (int i = 0; i < 100; i++)
        g_string_append(path, "/d");
    g_assert_cmpint(g_mkdir_with_parents(path->str, 0700), ==, 0);
    put(f, "tree/file", "x");
    g_assert_cmpint(symlinkat(outside, f->dir, "tree/link"), ==, 0);
    g_assert_cmpint(mkfifoat(f->dir, "tree/pipe", 0600), ==, 0);
    g_autoptr(GError) error = NULL;
    vmb_fs_remove_tree(f->dir, "tree", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(count_entries(f), ==, 0);
    g_assert_true(g_file_test(precious, G_FILE_TEST_EXISTS));
    g_assert_true(vmb_fs_remove_tree(f->dir, "tree", NULL)); /* absent */
    put(f, "file", "x");
    g_assert_true(vmb_fs_remove_tree(f->dir, "file", NULL));
    g_assert_cmpint(symlinkat(outside, f->dir, "link"), ==, 0);
    g_assert_true(vmb_fs_remove_tree(f->dir, "link", NULL));
    g_assert_true(g_file_test(precious, G_FILE_TEST_EXISTS));
    g_assert_true(vmb_fs_remove_tree(AT_FDCWD, outside, NULL));
}

static void
test_digest(Fixture *f, gconstpointer unused)
{
    gsize length = 3 * 1024 * 1024 + 17;
    g_autofree char *content = g_strnfill(length, 'v');
    g_autofree char *expected = g_compute_checksum_for_string(G_CHECKSUM_SHA256, content, -1);
    g_autofree char *hex = NULL;
    put(f, "file", content);
    g_auto(VmbFd) fd = openat(f->dir, "file", O_RDONLY | O_CLOEXEC);
    g_assert_true(vmb_fs_digest(fd, length, &hex, "file", NULL));
    g_assert_cmpstr(hex, ==, expected);
    for (int more = -1; more <= 1; more += 2) {
        g_autoptr(GError) error = NULL;
        g_autofree char *other = NULL;
        g_assert_false(vmb_fs_digest(fd, length + (gsize)more, &other, "file", &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
}

static void
test_free_space(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    guint64 bytes = G_MAXUINT64;
    g_assert_true(vmb_fs_free_space(f->path, &bytes, NULL));
    g_assert_cmpuint(bytes, <, G_MAXUINT64);
    g_assert_false(vmb_fs_free_space("/nonexistent/path", &bytes, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
}

static void
test_fds(Fixture *f, gconstpointer unused)
{
    int number;
    {
        g_auto(VmbFd) fd = openat(f->dir, ".", O_RDONLY | O_CLOEXEC);
        number = fd;
        g_assert_cmpint(fcntl(number, F_GETFD), >=, 0);
    }
    g_assert_cmpint(fcntl(number, F_GETFD), ==, -1);
    VmbFd fd = openat(f->dir, ".", O_RDONLY | O_CLOEXEC);
    number = vmb_fd_steal(&fd);
    g_assert_cmpint(fd, ==, -1);
    g_assert_cmpint(fcntl(number, F_GETFD), >=, 0);
    vmb_fd_clear(&number);
    g_assert_cmpint(number, ==, -1);
}

#define ADD(name, function) g_test_add(name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/fsio/beneath", test_beneath);
    ADD("/fsio/read-write", test_read_write);
    ADD("/fsio/read-file", test_read_file);
    ADD("/fsio/write-file", test_write_file);
    ADD("/fsio/write-file-fails", test_write_file_fails);
    ADD("/fsio/remove-tree", test_remove_tree);
    ADD("/fsio/digest", test_digest);
    ADD("/fsio/free-space", test_free_space);
    ADD("/fsio/fds", test_fds);
    return g_test_run();
}
