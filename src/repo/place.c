/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a repository is, and whether that is where it was: what tells a copy from the original. */
#include "repo/place.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/host.h"
#include "util/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define MAX_HOSTS 64u

void
vmb_place_free(VmbPlace *place)
{
    if (place == NULL)
        return;
    g_free(place->path);
    g_free(place->filesystem);
    g_strfreev(place->hosts);
    g_free(place->local_locks);
    g_free(place);
}

/* ---- looking ---- */

/* Filesystems of one host's own disks (their f_type, as in statfs(2)). All others may be seen by
 * several hosts at a time. */
static gboolean
belongs_to_host(const struct statfs *fs)
{
    static const guint32 local[] = {
        0xef53,     /* ext2, ext3, ext4 */
        0x58465342, /* XFS */
        0x9123683e, /* Btrfs */
        0x2fc12fc1, /* ZFS */
        0xf2f52010, /* F2FS */
        0xca451a4e, /* bcachefs */
        0x3153464a, /* JFS */
        0x52654973, /* ReiserFS */
        0x3434,     /* NILFS2 */
        0x01021994, /* tmpfs */
        0x794c7630, /* overlayfs */
    };
    for (gsize i = 0; i < G_N_ELEMENTS(local); i++)
        if ((guint32)fs->f_type == local[i])
            return TRUE;
    return FALSE;
}

/* Filesystems that give a directory another number after each mount, or whenever they like. */
static gboolean
has_lasting_numbers(const struct statfs *fs)
{
    static const guint32 without[] = {
        0x4d44,     /* FAT */
        0x2011bab0, /* exFAT */
        0x65735546, /* FUSE */
        0x517b,     /* SMB */
        0xff534d42, /* CIFS */
        0xfe534d42, /* SMB2 */
    };
    for (gsize i = 0; i < G_N_ELEMENTS(without); i++)
        if ((guint32)fs->f_type == without[i])
            return FALSE;
    return TRUE;
}

/* The number of a disk is the kernel's own and lasts until the next boot. Btrfs, ZFS and the like
 * have numbers that are given out anew at each mount, but name their volumes by an id that its
 * clones do not have. (On ext4 and XFS that id is of no use: a clone has the same.) */
static char *
describe_filesystem(const struct stat *st, const struct statfs *fs)
{
    guint32 id[2];
    const char *boot = vmb_host_boot();
    if (major(st->st_dev) != 0)
        return boot != NULL
                   ? g_strdup_printf("%s:%u:%u", boot, major(st->st_dev), minor(st->st_dev))
                   : NULL;
    memcpy(id, &fs->f_fsid, sizeof id);
    return id[0] != 0 || id[1] != 0 ? g_strdup_printf("%08x%08x", id[0], id[1]) : NULL;
}

static char *
resolve(int fd, const char *path)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    char *raw = realpath(link, NULL);
    if (raw == NULL)
        raw = realpath(path, NULL);
    char *resolved = g_strdup(raw != NULL ? raw : path);
    free(raw);
    return resolved;
}

VmbPlace *
vmb_place_look(int root_fd, const char *path, GError **error)
{
    g_autoptr(VmbPlace) place = g_new0(VmbPlace, 1);
    g_autoptr(GPtrArray) hosts = g_ptr_array_new();
    struct stat st;
    struct statfs fs;
    struct statx domains;
    if (fstat(root_fd, &st) < 0 || fstatfs(root_fd, &fs) < 0 ||
        statx(root_fd, VMB_LAYOUT_DOMAINS, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &domains) <
            0) {
        vmb_error_errno(error, errno, "cannot look at the place of %s", path);
        return NULL;
    }
    place->path = resolve(root_fd, path);
    if (has_lasting_numbers(&fs)) {
        place->filesystem = describe_filesystem(&st, &fs);
        place->inode = (guint64)st.st_ino;
        place->domains_inode = (guint64)domains.stx_ino;
        if ((domains.stx_mask & STATX_BTIME) != 0)
            place->birth_ns = (gint64)domains.stx_btime.tv_sec * G_GINT64_CONSTANT(1000000000) +
                              domains.stx_btime.tv_nsec;
    }
    g_autoptr(VmbMount) mount = belongs_to_host(&fs) ? NULL : vmb_mount_of(root_fd);
    place->local_locks = mount != NULL ? vmb_mount_local_locks(mount) : NULL;
    if ((belongs_to_host(&fs) || place->local_locks != NULL) && vmb_host_id() != NULL)
        g_ptr_array_add(hosts, g_strdup(vmb_host_id()));
    g_ptr_array_add(hosts, NULL);
    place->hosts = (char **)g_ptr_array_free(g_steal_pointer(&hosts), FALSE);
    return g_steal_pointer(&place);
}

/* ---- judging ---- */

static gboolean
is_empty(char **list)
{
    return list == NULL || list[0] == NULL;
}

/* The same directories, as far as their own numbers tell. A copy cannot take these along, but a
 * clone of the blocks has them all. */
static gboolean
same_directories(const VmbPlace *recorded, const VmbPlace *now)
{
    if (recorded->inode != now->inode)
        return FALSE;
    if (recorded->domains_inode != 0 && now->domains_inode != 0 &&
        recorded->domains_inode != now->domains_inode)
        return FALSE;
    return recorded->birth_ns == 0 || now->birth_ns == 0 || recorded->birth_ns == now->birth_ns;
}

VmbPlaceVerdict
vmb_place_judge(const VmbPlace *recorded, const VmbPlace *now)
{
    gboolean same_path = g_strcmp0(recorded->path, now->path) == 0;
    gboolean same_filesystem =
        recorded->filesystem != NULL && g_strcmp0(recorded->filesystem, now->filesystem) == 0;
    if (!same_directories(recorded, now))
        return VMB_PLACE_COPY;
    /* Moved on its filesystem, or mounted again where it was. */
    if (!same_path && (!same_filesystem || now->inode == 0))
        return VMB_PLACE_COPY;
    if (is_empty(recorded->hosts) && now->local_locks != NULL)
        return VMB_PLACE_WITHOUT_LOCKS;
    if (!is_empty(recorded->hosts) && !is_empty(now->hosts) &&
        !g_strv_contains((const char *const *)recorded->hosts, now->hosts[0]))
        return VMB_PLACE_OTHER_HOST;
    return VMB_PLACE_SAME;
}

gboolean
vmb_place_is_outdated(const VmbPlace *recorded, const VmbPlace *now)
{
    /* Where nothing names the filesystem, another host may have recorded what it could tell. */
    return g_strcmp0(recorded->path, now->path) != 0 ||
           (now->filesystem != NULL && g_strcmp0(recorded->filesystem, now->filesystem) != 0) ||
           (recorded->domains_inode == 0 && now->domains_inode != 0);
}

/* ---- repository.json ---- */

void
vmb_place_write(const VmbPlace *place, VmbJson *object)
{
    VmbJson *hosts = json_object_new_array();
    for (guint i = 0; place->hosts != NULL && place->hosts[i] != NULL; i++)
        json_object_array_add(hosts, json_object_new_string(place->hosts[i]));
    vmb_json_add_string(object, "path", place->path);
    vmb_json_add_string(object, "filesystem", place->filesystem);
    vmb_json_add_uint(object, "inode", place->inode);
    vmb_json_add_uint(object, "domains_inode", place->domains_inode);
    vmb_json_add(object, "birth_ns", json_object_new_int64(place->birth_ns));
    vmb_json_add(object, "hosts", hosts);
}

static gboolean
read_hosts(VmbJson *object, VmbPlace *place, GError **error)
{
    VmbJson *array = NULL;
    if (json_object_object_get_ex(object, "hosts", NULL) &&
        !vmb_json_get_array(object, "hosts", &array, error))
        return FALSE;
    gsize n = array != NULL ? json_object_array_length(array) : 0;
    if (n > MAX_HOSTS)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "too many elements of 'hosts'");
    place->hosts = g_new0(char *, n + 1);
    for (gsize i = 0; i < n; i++) {
        VmbJson *host = json_object_array_get_idx(array, i);
        if (!json_object_is_type(host, json_type_string))
            return vmb_error_set(error, VMB_ERROR_DAMAGE, "'hosts' holds what is no text");
        place->hosts[i] = g_strdup(json_object_get_string(host));
    }
    return TRUE;
}

VmbPlace *
vmb_place_read(VmbJson *object, GError **error)
{
    g_autoptr(VmbPlace) place = g_new0(VmbPlace, 1);
    const char *path = NULL, *filesystem = NULL;
    if (!vmb_json_get_string_or_null(object, "path", &path, error) ||
        !vmb_json_get_string_or_null(object, "filesystem", &filesystem, error) ||
        !vmb_json_get_uint_or(object, "inode", 0, &place->inode, error) ||
        !vmb_json_get_uint_or(object, "domains_inode", 0, &place->domains_inode, error) ||
        (json_object_object_get_ex(object, "birth_ns", NULL) &&
         !vmb_json_get_int(object, "birth_ns", &place->birth_ns, error)) ||
        !read_hosts(object, place, error))
        return NULL;
    place->path = g_strdup(path);
    place->filesystem = g_strdup(filesystem);
    return g_steal_pointer(&place);
}
