/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which calls wait for a filesystem, and since when: what tells that a target is dead. */
#include "util/stall.h"
#include "util/units.h"

#include <stdatomic.h>
#include <stdint.h>

#define PATIENCE_NS (60 * G_GUINT64_CONSTANT(1000000000))
/* More threads than can be in such a call at once; those beyond are not seen. */
#define PLACES 256

static atomic_uint_fast64_t since[PLACES]; /* monotonic ns; 0: free */
static atomic_uint_fast64_t last_return;   /* monotonic ns: of any marked call */

VmbIoMark
vmb_io_mark(void)
{
    static _Thread_local guint hint; /* the place that this thread had last is free most of the time */
    guint64 now = MAX(vmb_units_monotonic(), 1);
    for (guint i = 0; i < PLACES; i++) {
        guint place = (hint + i) % PLACES;
        uint_fast64_t nobody = 0;
        if (atomic_compare_exchange_strong(&since[place], &nobody, now)) {
            hint = place;
            return place + 1;
        }
    }
    return 0;
}

void
vmb_io_mark_clear(VmbIoMark *mark)
{
    atomic_store(&last_return, vmb_units_monotonic());
    if (*mark > 0)
        atomic_store(&since[*mark - 1], 0);
    *mark = 0;
}

guint64
vmb_io_standstill(void)
{
    guint64 oldest = G_MAXUINT64;
    for (guint i = 0; i < PLACES; i++) {
        guint64 start = atomic_load(&since[i]);
        if (start > 0)
            oldest = MIN(oldest, start);
    }
    if (oldest == G_MAXUINT64)
        return 0;
    guint64 moved = MAX(oldest, atomic_load(&last_return));
    guint64 now = vmb_units_monotonic();
    return now > moved ? now - moved : 0;
}

guint64
vmb_io_patience(void)
{
    const char *text = g_getenv("VMBACKUP_TEST_IO_PATIENCE_MS");
    guint64 ms = text != NULL ? g_ascii_strtoull(text, NULL, 10) : 0;
    return ms > 0 ? ms * 1000000 : PATIENCE_NS;
}
