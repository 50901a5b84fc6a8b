/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What reading and writing the catalog share. */
#pragma once
#include "repo/catalog.h"

#define VMB_CATALOG_MAGIC "VMBCATLG"
#define VMB_CATALOG_STAMP 32u
#define VMB_CATALOG_HEADER (16 + VMB_CATALOG_STAMP)
#define VMB_CATALOG_RECORD_HEAD (3 * VMB_CATALOG_STAMP + 4)
#define VMB_CATALOG_MAX_FILE (64 * 1024 * 1024)

struct VmbCatalog {
    GBytes *bytes;
    VmbStamp points; /* all zero: does not count */
    GArray *records; /* VmbCatalogRecord, by id */
};

static inline gint64
vmb_catalog_ns(const struct timespec *time)
{
    return (gint64)time->tv_sec * G_GINT64_CONSTANT(1000000000) + time->tv_nsec;
}

/* All zero if there is nothing of that name. */
VmbStamp vmb_catalog_stamp(int dir_fd, const char *path);
