/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A sparse raw file as the target of a restore. */
#pragma once
#include "block/chunk.h"

/* Makes the file @size bytes long, all holes. */
gboolean vmb_raw_writer_prepare(int fd, guint64 size, const char *label, GError **error);
/* Writes the DATA chunk, leaving holes for blocks that are zero; zero chunks need nothing. */
gboolean vmb_raw_writer_chunk(int fd, const VmbChunk *chunk, guint64 size, const char *label,
                              GError **error);
