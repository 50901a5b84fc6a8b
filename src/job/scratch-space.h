/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much scratch space is expected, and how much is left untouched. */
#pragma once
#include "util/units.h"

/* The slowest reading and the fastest lasting overwriting that the estimate reckons with; a guest that
 * writes faster is caught by the watch. Bytes per second. */
#define VMB_SCRATCH_READ_RATE (100 * VMB_MIB)
#define VMB_SCRATCH_DIRTY_RATE (10 * VMB_MIB)
/* Per disk, at least (but never more than the disk). */
#define VMB_SCRATCH_FLOOR (64 * VMB_MIB)

/* The backup gives up when less than this is free: a quarter of what was free at the start, between
 * 64 MiB and 2 GiB, which a fast guest needs some hundred milliseconds to fill. */
static inline guint64
vmb_scratch_reserve(guint64 available)
{
    return CLAMP(available / 4, 64 * VMB_MIB, 2 * VMB_GIB);
}
