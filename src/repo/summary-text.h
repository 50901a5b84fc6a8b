/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A summary as bytes, in which all its strings are: for the catalog and for what makes summaries.
 */
#pragma once
#include "repo/summary.h"

/* To be raised whenever the bytes, or what they mean, change. */
#define VMB_SUMMARY_FORMAT 1u

/* @point has a manifest. @state: NULL if it cannot be read. */
GBytes *vmb_summary_encode(const VmbPoint *point, const VmbPointState *state);

/* The @length bytes at @offset of @text, which the summary keeps a reference of. NULL if they are
 * not what vmb_summary_encode() makes. */
VmbSummary *vmb_summary_decode(GBytes *text, gsize offset, gsize length);

/* Only id (borrowed from @text) and number. */
gboolean vmb_summary_peek(GBytes *text, gsize offset, gsize length, const char **id,
                          guint64 *sequence);

/* Of a point whose manifest cannot be read. Takes @damage. */
VmbSummary *vmb_summary_new_damaged(const char *id, gboolean retired, GError *damage);
