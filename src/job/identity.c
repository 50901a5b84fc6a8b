/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What became of a domain since its newest point: another name, another host, or another domain. */
#include "job/identity.h"
#include "util/host.h"
#include "util/log.h"
#include "virt/peer.h"

#include <string.h>

static const VmbManifest *
newest_manifest(const GPtrArray *points)
{
    for (guint i = points->len; i-- > 0;) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL)
            return point->manifest;
    }
    return NULL;
}

/* Only before its first point: later on it was said. */
static gboolean
report_recreated(VmbRepository *repository, VmbDomain *domain, GPtrArray *reasons, GError **error)
{
    const char *name = vmb_domain_name(domain);
    g_autoptr(GPtrArray) uuids = vmb_repository_domains_named(repository, name, error);
    if (uuids == NULL || uuids->len == 0)
        return uuids != NULL;
    g_ptr_array_add(uuids, NULL);
    g_autofree char *list = g_strjoinv(", ", (char **)uuids->pdata);
    vmb_reason_add(reasons, VMB_REASON_DOMAIN_RECREATED, NULL,
                   "%s: the repository holds points of another domain of that name (%s); this one "
                   "is %s and begins anew. From now on the name alone does not tell them apart",
                   name, list, vmb_domain_uuid(domain));
    return TRUE;
}

static gboolean
ask_peer(VmbDomain *domain, const VmbManifest *newest, const char *uri, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *host = NULL;
    gboolean runs = FALSE;
    if (!vmb_peer_runs(vmb_domain_connection(domain), uri, vmb_domain_uuid(domain), &runs, &host,
                       &local))
        vmb_warning("%s: nobody knows whether another host runs the domain, too: %s",
                    vmb_domain_name(domain), local->message);
    return !runs ||
           vmb_error_set(
               error, VMB_ERROR_DOMAIN,
               "%s: the host %s (%s) runs the same domain, and the newest point was made "
               "on the host %s: nothing was changed. Back it up where it belongs, and shut "
               "the other one down or give it a UUID of its own",
               vmb_domain_name(domain), host != NULL ? host : "?", uri, newest->host);
}

gboolean
vmb_identity_check(VmbRepository *repository, VmbDomain *domain, GPtrArray *points,
                   const char *const *peers, GPtrArray *reasons, GError **error)
{
    const char *name = vmb_domain_name(domain);
    const VmbManifest *newest = newest_manifest(points);
    if (newest == NULL)
        return points->len > 0 || report_recreated(repository, domain, reasons, error);
    if (strcmp(newest->domain, name) != 0)
        vmb_reason_add(reasons, VMB_REASON_DOMAIN_RENAMED, NULL,
                       "%s: it was called %s in its newest point; its chain goes on", name,
                       newest->domain);
    if (!vmb_host_is_other(newest->host_id, newest->host))
        return TRUE;
    vmb_reason_add(reasons, VMB_REASON_OTHER_HOST, NULL,
                   "%s: the newest point was made on the host %s, this is %s", name, newest->host,
                   g_get_host_name());
    for (gsize i = 0; peers != NULL && peers[i] != NULL; i++)
        if (!ask_peer(domain, newest, peers[i], error))
            return FALSE;
    return TRUE;
}
