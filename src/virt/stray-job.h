/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A backup job that QEMU has and libvirt does not know, as its daemon died while it began. */
#pragma once
#include "virt/domain.h"

/* If QEMU has images of @scratch_dir open, while libvirt says that the domain has no backup job: ends the jobs
 * that QEMU has of libvirt's backups, its NBD server if that listens on @socket, and takes the images from it, all by
 * QEMU's monitor, by which libvirt marks the domain as tainted; nothing else could end them but a stop of the guest.
 * *@ended tells whether there was anything. Waits for half a minute while QEMU is busy. Only for a begin that is
 * known to be over, as its caller is dead or its daemon is. @scratch_dir may be gone. Errors: VMB_ERROR_FAILED, also
 * if libvirt has lost the domain; VMB_ERROR_LOCKED while another backup is active. Fault points
 * stray-job-cancelled, stray-job-ended. Source: libvirt's virDomainQemuMonitorCommand(), QEMU's QMP reference. */
gboolean vmb_stray_job_end(VmbDomain *domain, const char *scratch_dir, const char *socket, gboolean *ended,
                           GError **error);

/* TRUE if another process has an image in @scratch_dir open. */
gboolean vmb_stray_images_in_use(const char *scratch_dir);

/* TRUE if libvirt knows of no QEMU of the domain (NULL: nor of the domain), and images in @scratch_dir stay in use
 * all the same, after 5 s: it runs, and must not be started. */
gboolean vmb_stray_domain_is_lost(VmbDomain *domain, const char *scratch_dir);
