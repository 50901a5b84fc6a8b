/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points can be restored, as far as manifests and past verifications tell. */
#pragma once
#include "repo/summary.h"

/* Pure. @summaries: all points of a domain, in order, the retired ones too. @restorable gets one
 * value for each: FALSE if its own state tells of damage, if the chain of one of its disks is
 * broken, or if a point that it builds on is damaged and was found so after it was made: what was
 * known before, a backup takes from the guest again. A point whose manifest cannot be read is none.
 */
void vmb_restorable_points(const GPtrArray *summaries, gboolean *restorable);
