/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Giving libvirt back its record of a checkpoint whose bitmaps are still in the images. */
#pragma once
#include "virt/domain.h"

/* Makes libvirt's record of the checkpoint @name one that has @targets as well: as many of them as
 * hold a good bitmap of that name in their present image. A disk that the record has already stays
 * in it, unless it has no such bitmap any more. Of an active domain QEMU is asked, of a shut-off
 * one the images are read. No record is ever made of a bitmap that is not there. @time: of the
 * checkpoint, seconds since 1970.
 * *@defined gets the targets (char *) that the record has now, or NULL if nothing was changed.
 * Errors: those of the connection; that a bitmap is no good is none. Survives a restart of the
 * daemon. */
gboolean vmb_checkpoint_redefine(VmbDomain *domain, const char *name, gint64 time,
                                 const char *const *targets, GPtrArray **defined, GError **error);
