/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How what is mounted was mounted. */
#include "util/mount.h"

#include <fcntl.h>
#include <sys/stat.h>

void
vmb_mount_free(VmbMount *mount)
{
    if (mount == NULL)
        return;
    g_free(mount->type);
    g_free(mount->options);
    g_free(mount);
}

VmbMount *
vmb_mount_find(const char *mountinfo, guint64 id)
{
    g_auto(GStrv) lines = g_strsplit(mountinfo, "\n", -1);
    for (guint i = 0; lines[i] != NULL; i++) {
        char *end = NULL;
        guint64 number = g_ascii_strtoull(lines[i], &end, 10);
        const char *rest = end != lines[i] && *end == ' ' && number == id
                               ? strstr(lines[i], " - ") : NULL;
        g_auto(GStrv) words = rest != NULL ? g_strsplit(rest + strlen(" - "), " ", 3) : NULL;
        if (words == NULL || g_strv_length(words) != 3)
            continue;
        VmbMount *mount = g_new0(VmbMount, 1);
        mount->type = g_strdup(words[0]);
        mount->options = g_strdup(words[2]);
        return mount;
    }
    return NULL;
}

VmbMount *
vmb_mount_of(int fd)
{
    struct statx st;
    g_autofree char *text = NULL;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0 || (st.stx_mask & STATX_MNT_ID) == 0 ||
        !g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
        return NULL;
    return vmb_mount_find(text, st.stx_mnt_id);
}

char *
vmb_mount_local_locks(const VmbMount *mount)
{
    static const char *const nfs[] = {"nolock", "local_lock=flock", "local_lock=all", NULL};
    static const char *const smb[] = {"nobrl", NULL};
    const char *const *names = g_str_has_prefix(mount->type, "nfs")    ? nfs
                               : g_str_has_prefix(mount->type, "cifs") ||
                                       g_str_has_prefix(mount->type, "smb") ? smb
                                                                            : NULL;
    g_auto(GStrv) options = g_strsplit(mount->options, ",", -1);
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        if (g_strv_contains((const char *const *)options, names[i]))
            return g_strdup(names[i]);
    return NULL;
}
