/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which disk of the domain is which disk of the repository. */
#pragma once
#include "repo/repository.h"
#include "virt/domain.h"

/* Gives each disk of @info the identity under which the points hold it, so that its chain goes on when
 * its target changes or two disks change places: by its serial number or its user's alias; else by
 * its image; else by its target, if the disk that had it has gone elsewhere or nowhere. A new disk gets
 * an identity that no other disk ever had. @points: the domain's, in order. Idempotent. */
void vmb_bind_disks(VmbDomainInfo *info, const GPtrArray *points);
