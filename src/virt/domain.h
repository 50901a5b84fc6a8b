/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One libvirt domain: looking it up, and what it and its disks are at this moment. */
#pragma once
#include "virt/connection.h"

typedef struct VmbDomain VmbDomain;

/* By name or UUID. Errors: VMB_ERROR_DOMAIN. */
VmbDomain *vmb_domain_lookup(VmbConnection *connection, const char *name_or_uuid, GError **error);
VmbDomain *vmb_domain_ref(VmbDomain *domain);
void vmb_domain_unref(VmbDomain *domain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDomain, vmb_domain_unref)
virDomainPtr vmb_domain_handle(VmbDomain *domain);
VmbConnection *vmb_domain_connection(VmbDomain *domain);
const char *vmb_domain_name(VmbDomain *domain);
const char *vmb_domain_uuid(VmbDomain *domain);
/* Looks the domain up again by UUID, after the connection was reopened. */
gboolean vmb_domain_refresh(VmbDomain *domain, GError **error);

/* Names (char *) of all domains, or of the active ones, sorted. */
GPtrArray *vmb_domain_list(VmbConnection *connection, gboolean active_only, GError **error);

typedef struct {
    gboolean active;      /* there is a QEMU that is not about to end */
    gboolean paused;      /* any kind of pause */
    gboolean io_error;    /* paused by QEMU for an I/O error (full scratch) */
    gboolean persistent;
} VmbDomainState;
gboolean vmb_domain_state(VmbDomain *domain, VmbDomainState *state, GError **error);
gboolean vmb_domain_suspend(VmbDomain *domain, GError **error);
gboolean vmb_domain_resume(VmbDomain *domain, GError **error);

/* An image of a disk's chain, from the live XML. */
typedef struct {
    char *path;         /* NULL: not a local file or block device */
    char *format;
    char *data_file;    /* external data file or NULL */
} VmbDiskLayer;

typedef enum { VMB_DEVICE_DISK, VMB_DEVICE_LUN, VMB_DEVICE_CDROM, VMB_DEVICE_FLOPPY } VmbDeviceKind;

typedef struct {
    char *target;        /* "vda" */
    char *id;            /* "serial:X", or "alias:ua-X" if the user named it, else "target:vda";
                          * until vmb_bind_disks() says under which the points know it */
    char *alias, *serial, *bus, *wwn; /* may be NULL */
    VmbDeviceKind device;
    gboolean readonly, shareable, transient;
    gboolean has_medium; /* FALSE: an empty drive */
    char *source_type;   /* "file", "block", "network", "volume", ... */
    char *format;        /* driver type of the active layer; "raw" if absent */
    GPtrArray *layers;   /* VmbDiskLayer, the active one first */
    guint64 size;        /* virtual size in bytes (virDomainGetBlockInfo capacity) */
    guint64 allocation;  /* bytes used by the active image */
    guint32 cluster_size;/* of the active layer, bytes; 0 unless it is qcow2 and its header was read */
    gboolean bitmaps;    /* the active layer can hold dirty bitmaps (qcow2 version 3, no external data
                          * file that QEMU does not own) */
    char *no_bitmaps_why;/* a sentence when not */
    gboolean encrypted;  /* QEMU decrypts it */
    gboolean sliced;     /* the disk is only a part of its file */
    gboolean chain_given;/* the XML itself says where the chain of images ends */
    char *offline_why;   /* why it cannot be read while the domain is shut off; NULL if it can, or runs */
} VmbDiskInfo;
void vmb_disk_info_free(VmbDiskInfo *disk);

typedef struct {
    gboolean offline;     /* shut off: all is by the inactive XML and the images' headers */
    char *live_xml;       /* VIR_DOMAIN_XML_SECURE: never log it; NULL when shut off */
    char *inactive_xml;   /* INACTIVE | SECURE; for a transient domain that of the live one */
    GPtrArray *disks;     /* VmbDiskInfo in XML order */
    char *nvram, *loader, *kernel, *initrd, *dtb; /* paths or NULL */
    char *tpm_dir;        /* directory of the swtpm emulator's state, or NULL */
    gboolean agent_channel;   /* configured */
    gboolean agent_connected;
    guint64 qemu_uid, qemu_gid; /* from the DAC label; G_MAXUINT64: no label, QEMU has our user */
    char *security_model; /* "apparmor", "selinux" or NULL, for advice */
} VmbDomainInfo;
void vmb_domain_info_free(VmbDomainInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbDomainInfo, vmb_domain_info_free)

/* Reads both XMLs and what belongs to each disk, of an active or a shut-off domain. */
VmbDomainInfo *vmb_domain_inspect(VmbDomain *domain, GError **error);
/* The pure part: parses a live XML (sizes, bitmaps and tpm_dir are left unset). For tests as well.
 * Errors: VMB_ERROR_FAILED for broken XML. */
VmbDomainInfo *vmb_domain_info_from_xml(const char *live_xml, GError **error);
/* Gives disks of storage pools the paths that the pools know for them; @xml: what @info was parsed from. */
void vmb_domain_info_resolve_volumes(VmbDomain *domain, const char *xml, VmbDomainInfo *info);
/* Targets of disks that differ between two states of a domain (added, removed, other source), as one
 * comma-separated text, or NULL. */
char *vmb_domain_info_compare_disks(const VmbDomainInfo *before, const VmbDomainInfo *after);

/* TRUE while libvirt waits for an answer of QEMU's monitor, at this moment. */
gboolean vmb_domain_is_occupied(VmbDomain *domain);
/* Fails if it has waited for seconds: whatever else is asked of QEMU would only queue up behind.
 * Errors: VMB_ERROR_FAILED. */
gboolean vmb_domain_check_answers(VmbDomain *domain, GError **error);

/* A sentence, if libvirt keeps the record of a backup job that does not exist, which refuses all others; else
 * NULL. Takes 10 s if so. Free with g_free(). */
char *vmb_domain_lost_job(VmbDomain *domain);

/* A job, snapshot or migration that forbids a backup now: NULL if none, else a sentence that names it.
 * @own_socket: socket path of our journal; a backup job with it sets *@ours. */
gboolean vmb_domain_active_job(VmbDomain *domain, const char *own_socket, gboolean *ours,
                               char **what, GError **error);
