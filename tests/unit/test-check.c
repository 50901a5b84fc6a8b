/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The structure of a point: whatever is missing, too much, or changed is found and named. */
#include "point-fixture.h"
#include "repo/check.h"
#include "repo/state.h"

typedef struct {
    Fixture base;
    VmbRepository *repository;
    VmbRepoDomain *domain;
    char *path; /* the point's directory */
    int fd;
} Checked;

static void
set_up(Checked *checked, gconstpointer data)
{
    fixture_set_up(&checked->base, NULL);
    checked->repository = fixture_repository(&checked->base);
    checked->domain = fixture_domain(checked->repository, FIXTURE_UUID);
    fixture_publish(checked->domain, 1);
    checked->path = g_build_filename(checked->base.path, "repo", "domains", FIXTURE_UUID, "points",
                                     "20261121T020001Z", NULL);
    checked->fd = open(checked->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(checked->fd, >=, 0);
}

static void
tear_down(Checked *checked, gconstpointer data)
{
    close(checked->fd);
    g_free(checked->path);
    vmb_repo_domain_free(checked->domain);
    vmb_repository_free(checked->repository);
    fixture_tear_down(&checked->base, NULL);
}

static GPtrArray *
check(Checked *checked)
{
    g_autoptr(GPtrArray) points = fixture_points(checked->domain);
    GPtrArray *findings = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_finding_free);
    g_assert_cmpuint(points->len, ==, 1);
    vmb_check_point(points->pdata[0], NULL, "web01/x", findings);
    return findings;
}

/* Just one finding, about @file of @disk, with @text in its message. */
static void
assert_finding(Checked *checked, const char *disk, const char *file, const char *text)
{
    g_autoptr(GPtrArray) findings = check(checked);
    g_assert_cmpuint(findings->len, ==, 1);
    const VmbFinding *finding = findings->pdata[0];
    g_test_message("%s", finding->message);
    g_assert_cmpstr(finding->point, ==, "web01/x");
    g_assert_cmpstr(finding->disk, ==, disk);
    g_assert_cmpstr(finding->file, ==, file);
    g_assert_cmpint(finding->offset, ==, -1);
    g_assert_nonnull(strstr(finding->message, text));
}

static void
assert_none(Checked *checked)
{
    g_autoptr(GPtrArray) findings = check(checked);
    g_assert_cmpuint(findings->len, ==, 0);
}

static void
test_whole(Checked *checked, gconstpointer data)
{
    assert_none(checked);
    /* What a rewrite that was killed leaves behind is no damage. */
    fixture_write(checked->fd, ".state.json.new", "{");
    assert_none(checked);
}

static void
test_missing(Checked *checked, gconstpointer data)
{
    static const struct {
        const char *disk, *file;
    } files[] = {{"vda", "vda.qcow2"}, {"vda", "vda.digests"}, {NULL, "domain.xml"},
                 {NULL, "state.json"}, {NULL, "lock"},         {NULL, "manifest.json"}};
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        g_assert_cmpint(renameat(checked->fd, files[i].file, checked->base.fd, "kept"), ==, 0);
        assert_finding(checked, files[i].disk, files[i].file, files[i].file);
        g_assert_cmpint(renameat(checked->base.fd, "kept", checked->fd, files[i].file), ==, 0);
        assert_none(checked);
    }
}

static void
test_sizes(Checked *checked, gconstpointer data)
{
    static const struct {
        const char *disk, *file;
        int change;
    } cases[] = {{"vda", "vda.qcow2", -1}, {"vda", "vda.qcow2", 1}, {"vda", "vda.digests", -48},
                 {NULL, "lock", 1},        {NULL, "domain.xml", 1}, {NULL, "domain.xml", -1}};
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct stat st;
        g_auto(VmbFd) fd = openat(checked->fd, cases[i].file, O_RDWR | O_CLOEXEC);
        g_assert_cmpint(fstat(fd, &st), ==, 0);
        g_assert_cmpint(ftruncate(fd, st.st_size + cases[i].change), ==, 0);
        assert_finding(checked, cases[i].disk, cases[i].file, "instead of");
        g_assert_cmpint(ftruncate(fd, st.st_size), ==, 0);
    }
    g_auto(VmbFd) xml = openat(checked->fd, "domain.xml", O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pwrite(xml, "<domain/>", 9, 0), ==, 9);
    assert_none(checked);
}

/* Every byte of the small files, flipped. */
static void
test_content(Checked *checked, gconstpointer data)
{
    static const char *const files[] = {"domain.xml", "manifest.json", "state.json"};
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        g_auto(VmbFd) fd = openat(checked->fd, files[i], O_RDWR | O_CLOEXEC);
        struct stat st;
        g_assert_cmpint(fstat(fd, &st), ==, 0);
        for (off_t offset = 0; offset < st.st_size; offset++) {
            char byte, flipped;
            g_assert_cmpint(pread(fd, &byte, 1, offset), ==, 1);
            flipped = (char)(byte ^ (1 << (offset % 8)));
            g_assert_cmpint(pwrite(fd, &flipped, 1, offset), ==, 1);
            g_autoptr(GPtrArray) findings = check(checked);
            g_assert_cmpuint(findings->len, ==, 1);
            g_assert_cmpstr(((VmbFinding *)findings->pdata[0])->file, ==, files[i]);
            g_assert_cmpint(pwrite(fd, &byte, 1, offset), ==, 1);
        }
    }
    assert_none(checked);
}

static void
test_extra(Checked *checked, gconstpointer data)
{
    fixture_write(checked->fd, "vdb.qcow2", "x");
    assert_finding(checked, NULL, "vdb.qcow2", "does not belong");
    g_assert_cmpint(unlinkat(checked->fd, "vdb.qcow2", 0), ==, 0);
    g_assert_cmpint(mkdirat(checked->fd, "a\033[31m", 0700), ==, 0);
    assert_finding(checked, NULL, "a\033[31m", "a?[31m does not belong");
    g_assert_cmpint(unlinkat(checked->fd, "a\033[31m", AT_REMOVEDIR), ==, 0);
    fixture_write(checked->fd, ".hidden", "x");
    assert_finding(checked, NULL, ".hidden", "does not belong");
}

static void
test_strange(Checked *checked, gconstpointer data)
{
    g_assert_cmpint(renameat(checked->fd, "vda.qcow2", checked->base.fd, "image"), ==, 0);
    g_assert_cmpint(symlinkat("../../../../../../image", checked->fd, "vda.qcow2"), ==, 0);
    assert_finding(checked, "vda", "vda.qcow2", "symbolic link");
    g_assert_cmpint(unlinkat(checked->fd, "vda.qcow2", 0), ==, 0);
    g_assert_cmpint(mkdirat(checked->fd, "vda.qcow2", 0700), ==, 0);
    assert_finding(checked, "vda", "vda.qcow2", "no regular file");
    g_assert_cmpint(unlinkat(checked->fd, "vda.qcow2", AT_REMOVEDIR), ==, 0);
    g_assert_cmpint(mkfifoat(checked->fd, "vda.qcow2", 0600), ==, 0);
    assert_finding(checked, "vda", "vda.qcow2", "no regular file");
}

/* Several things at once are all told. */
static void
test_several(Checked *checked, gconstpointer data)
{
    fixture_write(checked->fd, "extra", "x");
    fixture_write(checked->fd, "domain.xml", "<DOMAIN/>");
    g_assert_cmpint(unlinkat(checked->fd, "vda.qcow2", 0), ==, 0);
    g_autoptr(GPtrArray) findings = check(checked);
    g_assert_cmpuint(findings->len, ==, 3);
    fixture_write(checked->fd, "manifest.json", "{}");
    fixture_write(checked->fd, "state.json", "{}");
    g_autoptr(GPtrArray) both = check(checked);
    g_assert_cmpuint(both->len, ==, 2);
}

static void
test_new_finding(void)
{
    VmbFinding *finding = vmb_finding_new("p", "vda", NULL, "%d of %s", 3, "x");
    g_assert_cmpstr(finding->message, ==, "3 of x");
    g_assert_cmpint(finding->offset, ==, -1);
    g_assert_cmpuint(finding->length, ==, 0);
    g_assert_null(finding->file);
    vmb_finding_free(finding);
    vmb_finding_free(NULL);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*function)(Checked *, gconstpointer);
    } tests[] = {
        {"/check/whole", test_whole},     {"/check/missing", test_missing},
        {"/check/sizes", test_sizes},     {"/check/content", test_content},
        {"/check/extra", test_extra},     {"/check/strange", test_strange},
        {"/check/several", test_several},
    };
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    vmb_log_set_level(VMB_LOG_ERROR);
    for (gsize i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].path, Checked, NULL, set_up, tests[i].function, tear_down);
    g_test_add_func("/check/new-finding", test_new_finding);
    return g_test_run();
}
