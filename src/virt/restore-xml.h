/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Turns a stored domain XML into one that fits restored files, and refuses what is dangerous. */
#pragma once
#include <glib.h>

typedef struct {
    const char *target;
    const char *path;   /* absolute path of the restored disk; NULL: the disk is left out */
    const char *format; /* "qcow2" or "raw" */
} VmbRestoreXmlDisk;

typedef struct {
    /* Writable disks that are not named here are left out too, unless "disk:TARGET" is allowed:
     * they would be the original's. Cdroms, floppies and read-only disks keep a source that is an
     * image on this host; a drive whose medium is not here becomes empty. */
    const VmbRestoreXmlDisk *disks;
    guint n_disks;
    /* Absolute: files that serial ports and consoles write go there. NULL: such a port is a
     * dangerous part, because it writes to a file of this host. */
    const char *log_dir;
    const char *nvram, *kernel, *initrd, *dtb; /* new absolute paths, or NULL: as stored */
    const char *name;                          /* new name or NULL */
    gboolean new_identity;                     /* new UUID and new MAC addresses */
    gboolean keep_uuid, keep_macs;             /* exceptions from new_identity */
    const char *const *allow; /* NULL-terminated names of dangerous parts that are allowed */
} VmbRestoreXmlOptions;

/* Names of dangerous parts in the XML (each once): "qemu:commandline", "emulator:/path", "hostdev",
 * "interface:type=hostdev"..., whatever runs a program or attaches a device or file of the host
 * that is not in the point. What a point can hold (writable disks, NVRAM, kernel, initrd, dtb) is
 * not named. A GPtrArray of char *. Errors: VMB_ERROR_DAMAGE for broken XML. */
GPtrArray *vmb_restore_xml_dangers(const char *xml, GError **error);

/* The rewritten XML: an inactive definition. A generation id is always replaced by a new one,
 * because a restored guest must notice that it went back in time. Applying it twice changes nothing
 * more, random values aside. Errors: VMB_ERROR_DAMAGE; VMB_ERROR_FAILED that names each dangerous
 * part that is not allowed, and the option. Free with g_free(). */
char *vmb_restore_xml(const char *xml, const VmbRestoreXmlOptions *options, GError **error);
