/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a domain's points tell of its data: how well it compresses, and how fast the points grow. */
#pragma once
#include "repo/summary.h"

/* Growth is told from the points of so many days. */
#define VMB_MEASURE_DAYS 30

typedef struct {
    guint64 data;   /* bytes of the guest that the points hold themselves, zeroes left out */
    guint64 images; /* bytes of the images that hold them */
    guint64 added;  /* bytes that points of the last days have stored, but for the first of them */
    guint n_added;  /* number of these points */
    gint64 span_ns; /* from the first of them to the last */
} VmbMeasure;

/* Adds up @points (VmbSummary of one domain, retired ones as well; damaged ones do not count).
 * @disk: identity of the only disk that counts, with nothing but its files; NULL: all, with all
 * files. @now_ns: since 1970. */
VmbMeasure vmb_measure(const GPtrArray *points, const char *disk, gint64 now_ns);

/* Bytes of guest data per byte of image; 0 if nothing is known. */
double vmb_measure_ratio(const VmbMeasure *measure);

/* Bytes that are added per day if nothing is dropped; VMB_BYTES_UNKNOWN unless the points span half
 * a day at least. */
guint64 vmb_measure_growth(const VmbMeasure *measure);
