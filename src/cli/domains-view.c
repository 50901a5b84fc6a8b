/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What verbs that read the catalog tell of its domains: their names, and what is damaged. */
#include "cli/domains-view.h"
#include "cli/exit-status.h"
#include "util/log.h"

#include <string.h>

const char *
vmb_domains_usable_name(const GPtrArray *domains, const VmbCatalogDomain *domain)
{
    for (guint i = 0; domain->name != NULL && i < domains->len; i++) {
        const VmbCatalogDomain *other = g_ptr_array_index(domains, i);
        if (strcmp(other->uuid, domain->uuid) != 0 && g_strcmp0(other->name, domain->name) == 0)
            return domain->uuid;
    }
    return domain->name != NULL ? domain->name : domain->uuid;
}

/* The first two: they stand side by side. */
void
vmb_domains_tell_shared_names(const GPtrArray *domains)
{
    for (guint i = 1; i < domains->len; i++) {
        const VmbCatalogDomain *before = g_ptr_array_index(domains, i - 1);
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        if (domain->name != NULL && g_strcmp0(before->name, domain->name) == 0)
            vmb_notice("two domains have had the name '%s' (%s and %s): give the UUID of the one "
                       "that is meant",
                       domain->name, before->uuid, domain->uuid);
    }
}

int
vmb_domains_tell_damage(const GPtrArray *domains)
{
    int status = VMB_EXIT_OK;
    for (guint i = 0; i < domains->len; i++) {
        const VmbCatalogDomain *domain = g_ptr_array_index(domains, i);
        if (domain->damage != NULL) {
            vmb_log(VMB_LOG_ERROR, "%s: %s", domain->uuid, domain->damage->message);
            status = vmb_exit_status(domain->damage);
        }
        for (guint k = 0; k < domain->points->len; k++) {
            const VmbSummary *point = g_ptr_array_index(domain->points, k);
            if (point->damage == NULL)
                continue;
            vmb_log(VMB_LOG_ERROR, "%s", point->damage->message);
            status = vmb_exit_status(point->damage);
        }
    }
    return status;
}
