/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checkpoints that libvirt has no record of, although their bitmaps are in the images: after a
 * domain was undefined, or has come from another host. */
#pragma once
#include "repo/repository.h"
#include "virt/domain.h"

/* Defines again what libvirt does not know of the checkpoints that the newest points of the disks
 * name, each with just the disks that hold a good bitmap of it, and adds the reason
 * checkpoint-redefined. What cannot be defined again is left to the plan, which finds it missing.
 * @info: after vmb_bind_disks(). @points: the domain's, in order; those of another repository do
 * not count. Works for shut-off domains. Errors: those of the connection. */
gboolean vmb_redefine_checkpoints(const char *repository_id, VmbDomain *domain,
                                  const VmbDomainInfo *info, GPtrArray *points, GPtrArray *reasons,
                                  GError **error);

/* What the function above would try to define: names (char *). Pure. @known: names that libvirt
 * knows. */
GPtrArray *vmb_redefine_missing(const char *repository_id, const VmbDomainInfo *info,
                                GPtrArray *points, const GPtrArray *known);
