/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What became of a domain since its newest point: another name, another host, or another domain. */
#pragma once
#include "repo/repository.h"
#include "virt/domain.h"

/* Adds the reasons domain-renamed, domain-recreated and other-host as they apply. If the newest
 * point was made on another host, each of @peers (libvirt URIs, NULL-terminated; NULL: none) is
 * asked whether it runs the domain, too. @points: the domain's, in order. Errors: VMB_ERROR_DOMAIN
 * if one does; a peer that cannot be asked is only warned of. */
gboolean vmb_identity_check(VmbRepository *repository, VmbDomain *domain, GPtrArray *points,
                            const char *const *peers, GPtrArray *reasons, GError **error);
