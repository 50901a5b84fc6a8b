/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The true length of a zstd frame in a file, from its headers alone. */
#pragma once
#include <glib.h>

/* Gives the length in bytes of the zstd frame at byte @host of the file, reading only the frame's
 * header and its blocks' headers (RFC 8878, section 3.1.1). The frame must end within @limit bytes.
 * Errors: VMB_ERROR_DAMAGE with @label and offset if it is no such frame. */
gboolean vmb_zstd_frame_length(int fd, guint64 host, guint32 limit, guint32 *length,
                               const char *label, GError **error);

/* The same of @limit bytes in memory; FALSE (no GError) if no frame ends within them. */
gboolean vmb_zstd_frame_length_of(const guint8 *frame, guint32 limit, guint32 *length);
