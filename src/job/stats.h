/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much a repository and each of its domains hold, and how they grow. */
#pragma once
#include "job/catalog.h"

/* All sizes in bytes. */
typedef struct {
    guint n_points, n_damaged;   /* retired ones do not count */
    gint64 oldest_ns, newest_ns; /* since 1970; 0: no point can be read */
    guint64 size;                /* of the disks in the newest points */
    guint64 data;    /* of the guests that the points hold themselves, zeroes left out */
    guint64 images;  /* that hold them */
    guint64 stored;  /* all files of the points */
    guint64 retired; /* the same of retired points: what has not been folded yet */
    guint64 growth; /* per day, as by vmb_measure_growth(); of a repository: of the domains where it
                     * is known; VMB_BYTES_UNKNOWN */
} VmbStats;

/* Of one domain. @now_ns: since 1970. */
VmbStats vmb_stats_domain(const VmbCatalogDomain *domain, gint64 now_ns);
/* Adds those of a domain to those of a repository, which were VMB_STATS_NONE. */
#define VMB_STATS_NONE                                                                             \
    {                                                                                              \
        .growth = VMB_BYTES_UNKNOWN                                                                \
    }
void vmb_stats_add(VmbStats *sum, const VmbStats *one);

/* Bytes of guest data per byte of image; 0 if nothing is known. */
double vmb_stats_ratio(const VmbStats *stats);
/* Until @free_bytes are used up, if nothing is dropped; VMB_BYTES_UNKNOWN: nobody knows, or never.
 */
guint64 vmb_stats_days_left(const VmbStats *stats, guint64 free_bytes);
