/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Lines of proc(5)'s mountinfo, and options that keep locks on one host. */
#include "util/mount.h"

#include <fcntl.h>
#include <locale.h>
#include <unistd.h>

static const char *const text =
    "36 35 98:0 / / rw,noatime shared:1 - ext4 /dev/vda rw,errors=remount-ro\n"
    "361 36 0:51 / /backup rw shared:7 master:2 - nfs4 nas:/export\\040x rw,vers=4.2,local_lock=none\n"
    "37 36 0:52 / /old rw - nfs nas:/old rw,vers=3,nolock,local_lock=all\n"
    "38 36 0:53 / /smb rw - cifs //nas/x rw,nobrl\n"
    "39 36 0:54 / /odd\n"
    "40 36 0:55 / /short rw - nfs nas:/x\n"
    "x\n"
    "41 36 0:56 / /last rw - fuse.sshfs x rw,nolock";

static void
test_find(void)
{
    static const struct {
        guint64 id;
        const char *type, *local; /* type NULL: no such mount */
    } cases[] = {
        {36, "ext4", NULL}, {361, "nfs4", NULL}, {37, "nfs", "nolock"}, {38, "cifs", "nobrl"},
        {39, NULL, NULL},   {40, NULL, NULL},    {3, NULL, NULL},       {0, NULL, NULL},
        {41, "fuse.sshfs", NULL},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(VmbMount) mount = vmb_mount_find(text, cases[i].id);
        g_assert_cmpstr(mount != NULL ? mount->type : NULL, ==, cases[i].type);
        g_autofree char *local = mount != NULL ? vmb_mount_local_locks(mount) : NULL;
        g_assert_cmpstr(local, ==, cases[i].local);
    }
    g_assert_null(vmb_mount_find("", 1));
}

static void
test_here(void)
{
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_autoptr(VmbMount) mount = vmb_mount_of(fd);
    g_assert_nonnull(mount);
    g_assert_cmpstr(mount->type, !=, "");
    g_assert_true(g_str_has_prefix(mount->options, "r"));
    close(fd);
    g_assert_null(vmb_mount_of(-1));
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mount/find", test_find);
    g_test_add_func("/mount/here", test_here);
    return g_test_run();
}
