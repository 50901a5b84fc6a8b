/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The locks by which QEMU's programs keep out of each other's way, for the instant in which an image changes. */
#pragma once
#include <glib.h>

/* Says through @fd (open for reading; until it is closed) that the image is not consistent for others, as QEMU
 * does: who opens it meanwhile is refused. Fails with VMB_ERROR_LOCKED if a QEMU program has it open that
 * relies on that. Source: raw_apply_lock_bytes() in block/file-posix.c of QEMU: byte 100 + n is
 * locked by who has the permission n, 200 + n by who lets nobody have it; 0 is consistent reading. A
 * filesystem without such locks is no hindrance. */
gboolean vmb_qemu_lock(int fd, const char *label, GError **error);
