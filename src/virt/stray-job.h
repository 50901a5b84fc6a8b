/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A backup job that QEMU has and libvirt does not know, as its daemon died while it began. */
#pragma once
#include "virt/domain.h"

/* If QEMU has images of @scratch_dir open, while libvirt says that the domain has no backup job: ends QEMU's
 * jobs that write to them, its NBD server if that listens on @socket, and takes the images from it, all by QEMU's
 * monitor, by which libvirt marks the domain as tainted; nothing else could end them but a stop of the guest.
 * *@ended tells whether there was anything. Only for a begin that is known to be over, as its caller is dead or
 * its daemon is. @scratch_dir may be gone. Errors: VMB_ERROR_FAILED, also if libvirt takes the domain for shut off
 * and QEMU does not leave the images, as libvirt has lost the domain. Fault points stray-job-cancelled,
 * stray-job-ended. Source: libvirt's virDomainQemuMonitorCommand(), QEMU's QMP reference. */
gboolean vmb_stray_job_end(VmbDomain *domain, const char *scratch_dir, const char *socket, gboolean *ended,
                           GError **error);

/* TRUE if another process has an image in @scratch_dir open. */
gboolean vmb_stray_images_in_use(const char *scratch_dir);
