/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Remembers what an image file looks like, to prove later that nobody has changed it. */
#pragma once
#include <glib.h>

typedef struct VmbImageEvidence VmbImageEvidence;

/* Device, inode, size, times of change, and the digest of the first cluster and of the directory of
 * bitmaps. A block device has no times that tell anything: there only the content counts. @shared: other
 * domains may have it below their images, and libvirt may give it to another owner when one of these
 * starts, which is no change then. Errors: VMB_ERROR_FAILED. */
VmbImageEvidence *vmb_image_evidence_new(const char *path, gboolean shared, GError **error);
void vmb_image_evidence_free(VmbImageEvidence *evidence);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbImageEvidence, vmb_image_evidence_free)
const char *vmb_image_evidence_path(const VmbImageEvidence *evidence);

/* Remembers anew what @fd, the same file, looks like: after a change of our own. */
gboolean vmb_image_evidence_renew(VmbImageEvidence *evidence, int fd, GError **error);
/* FALSE with VMB_ERROR_FAILED that says what is different now. @fd: the file, or -1 for whatever is at the
 * path now. */
gboolean vmb_image_evidence_check(const VmbImageEvidence *evidence, int fd, GError **error);
