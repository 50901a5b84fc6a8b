/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2 version 3 as we write it and as we accept it: header, table entries, limits. */
#pragma once
#include "block/chunk.h"

/* To be completed by the image layer: see docs/interop/qcow2.txt of QEMU for the source. */
#define VMB_QCOW2_MAGIC 0x514649fbu
#define VMB_QCOW2_L2_ENTRIES 8192u /* 64 KiB / 8: one L2 table maps 512 MiB */
#define VMB_QCOW2_L2_SPAN (G_GUINT64_CONSTANT(8192) * VMB_BLOCK_SIZE)
