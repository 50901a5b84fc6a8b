/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finds what in a domain XML runs programs of, or attaches parts of, the host that defines it. */
#pragma once
#include "virt/restore-xml.h"
#include "virt/xml-node.h"

/* Names of the dangerous parts of @root, each once, in document order: GPtrArray of char *. Paths
 * that stand in @options are our own. @options NULL: writable disks are not named, whatever they
 * are. */
GPtrArray *vmb_restore_xml_scan(const xmlNode *root, const VmbRestoreXmlOptions *options);

/* The entry for a disk with this target, or NULL; both arguments may be NULL. */
const VmbRestoreXmlDisk *vmb_restore_xml_find_disk(const VmbRestoreXmlOptions *options,
                                                   const char *target);

/* A disk without an own medium of the guest: cdrom, floppy or read-only. */
gboolean vmb_restore_xml_is_medium(const xmlNode *disk);

/* TRUE if @path is where distributions install QEMU's system emulators. */
gboolean vmb_restore_xml_is_emulator(const char *path);

/* TRUE if @path is one of the restored files that @options names. */
gboolean vmb_restore_xml_is_own(const VmbRestoreXmlOptions *options, const char *path);
