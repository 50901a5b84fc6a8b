/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Adds and removes bitmaps of images that nobody has open, so that nobody's start fails meanwhile. */
#pragma once
#include <glib.h>

/* A QEMU without a machine changes the image, through a descriptor that we have opened. While it does so,
 * for some milliseconds, we hold a lease on the file: it is only granted when no process has the file
 * open, and whoever opens it then, such as libvirt or QEMU at the start of the domain, is made to wait by
 * the kernel. (`qemu-img bitmap` would make the start fail by QEMU's lock.) One editor serves one thread. */
typedef struct VmbImageEditor VmbImageEditor;

/* Errors: VMB_ERROR_FAILED if there is no QEMU. */
VmbImageEditor *vmb_image_editor_new(GError **error);
void vmb_image_editor_free(VmbImageEditor *editor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbImageEditor, vmb_image_editor_free)

/* Called while nobody else is near the image, before the change (@changed FALSE) and after it, also when it
 * failed. It must not open the file. FALSE with @error calls the change off, or reports it as failed. */
typedef gboolean (*VmbImageEditCheck)(int fd, gboolean changed, gpointer user, GError **error);

/* Adds a persistent, recording bitmap of 64 KiB granularity to the qcow2 image at @path. @check may be
 * NULL. Errors: VMB_ERROR_LOCKED if the file is open somewhere or its file system has no leases: then
 * nothing was changed; VMB_ERROR_FAILED. Fault point image-open-alone. */
gboolean vmb_image_editor_add(VmbImageEditor *editor, const char *path, const char *name,
                              VmbImageEditCheck check, gpointer user, GError **error);
/* Removes the bitmap @name, also a broken one. Errors: as above. */
gboolean vmb_image_editor_remove(VmbImageEditor *editor, const char *path, const char *name,
                                 GError **error);
