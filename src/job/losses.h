/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which ranges of a disk cannot be read, in memory that does not grow with their number. */
#pragma once
#include "block/chunk.h"

#define VMB_LOSSES_MAX 10000u

typedef struct {
    guint64 offset, length; /* bytes of the disk */
    guint layer;            /* of the chain that was read, 0 is the newest */
    VmbLoss loss;
} VmbLostRange;

typedef struct {
    GArray *ranges;           /* VmbLostRange, ascending; the first VMB_LOSSES_MAX */
    guint64 count, bytes;     /* of all */
    guint64 rest, rest_end;   /* between which bytes those that are too many lie; equal: there are none */
} VmbLosses;

VmbLosses *vmb_losses_new(void);
void vmb_losses_free(VmbLosses *losses);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbLosses, vmb_losses_free)

/* Offsets ascend over the calls; ranges of one kind and layer that touch become one. */
void vmb_losses_add(VmbLosses *losses, guint64 offset, guint64 length, guint layer, VmbLoss loss);
