/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How what is mounted was mounted. */
#pragma once
#include <glib.h>

typedef struct {
    char *type;    /* of the filesystem: "nfs4" */
    char *options; /* of its superblock: "rw,vers=4.2,local_lock=none" */
} VmbMount;
void vmb_mount_free(VmbMount *mount);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbMount, vmb_mount_free)

/* The mount that the open file @fd is on; NULL if the kernel does not tell. */
VmbMount *vmb_mount_of(int fd);

/* The mount with the number @id in @mountinfo, the text of /proc/self/mountinfo (proc(5)); NULL if there is
 * none. */
VmbMount *vmb_mount_find(const char *mountinfo, guint64 id);

/* The option for whose sake locks (flock(2)) of the files on a network filesystem are not seen by other hosts;
 * NULL: there is none, or it is no such filesystem. nfs(5), mount.cifs(8). Free with g_free(). */
char *vmb_mount_local_locks(const VmbMount *mount);
