/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the producer's side of a chain and its decoders share. */
#pragma once
#include "image/chain.h"
#include "image/digest-file.h"

typedef struct {
    char *label;
    int image_fd;
    VmbQcow2Reader *reader;
    VmbDigestReader *digests; /* NULL: none */
    VmbDigestRecord record;   /* the next one that may still be needed */
    gboolean no_record;       /* there is none any more */
    gboolean is_full;         /* no backing file: absent blocks read as zero */
    guint64 n_blocks;
    guint64 visible; /* bytes of the disk in which this layer can show */
} VmbChainPart;

struct VmbChain {
    VmbChainPart *parts; /* [0] is the newest */
    guint n_parts;
    guint64 size;        /* bytes */
    guint64 next_window; /* smallest index that vmb_chain_window() may still get */
    VmbChainWindow window;
    gboolean window_used; /* its blocks are not all absent */
    gboolean tolerant;
    GError *disagreement; /* the first one, if tolerant */
    GMutex damage_lock;
};
