/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What verbs that read the catalog tell of its domains: their names, and what is damaged. */
#pragma once
#include "job/catalog.h"

/* @domains: of vmb_catalog_read(). */

/* What a user can give to other verbs for this one of @domains, whatever its older points call it.
 */
const char *vmb_domains_usable_name(const GPtrArray *domains, const VmbCatalogDomain *domain);

/* A notice for domains that share a name. */
void vmb_domains_tell_shared_names(const GPtrArray *domains);

/* What is damaged, on standard error; returns the exit status. */
int vmb_domains_tell_damage(const GPtrArray *domains);
