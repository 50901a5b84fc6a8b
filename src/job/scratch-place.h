/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a directory may and can hold what QEMU must reach. */
#pragma once
#include <glib.h>

/* Refuses (VMB_ERROR_USAGE) the absolute @path, which need not exist yet, if it lies in
 * @repository, whatever symbolic links lead there: QEMU never gets a path inside of it. */
gboolean vmb_scratch_place_outside(const char *path, const char *repository, GError **error);

/* Refuses (VMB_ERROR_FAILED) @path if a directory on the way to it lets neither @uid nor @gid pass
 * through, and names that directory. Only those that exist are looked at, and one with an access
 * control list counts as open: QEMU's own attempt tells then. */
gboolean vmb_scratch_place_passable(const char *path, guint64 uid, guint64 gid, GError **error);

/* Both. @repository: NULL if none is known. @uid, @gid: of QEMU, which only root can tell from its
 * own; G_MAXUINT64: unknown. */
gboolean vmb_scratch_place_check(const char *path, const char *repository, guint64 uid, guint64 gid,
                                 GError **error);
