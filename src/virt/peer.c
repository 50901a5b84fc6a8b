/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking another host's libvirt whether it runs a domain, too. */
#include "virt/peer.h"
#include "virt/xml.h"

#define PATIENCE_S 30

/* Shared by the thread that asks and the one that waits for the answer. */
typedef struct {
    gatomicrefcount refs;
    char *uri, *uuid, *own_host_uuid;
    GMutex lock;
    GCond answered;
    gboolean done;
    /* the answer */
    gboolean runs;
    char *host;
    GError *error;
} Question;

static void
question_unref(Question *question)
{
    if (!g_atomic_ref_count_dec(&question->refs))
        return;
    g_mutex_clear(&question->lock);
    g_cond_clear(&question->answered);
    g_clear_error(&question->error);
    g_free(question->host);
    g_free(question->uri);
    g_free(question->uuid);
    g_free(question->own_host_uuid);
    g_free(question);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Question, question_unref)

/* The UUID that a libvirt has for its host; NULL if it does not tell. */
static char *
host_uuid(virConnectPtr connection)
{
    char *raw = virConnectGetCapabilities(connection);
    g_autoptr(VmbXml) document =
        raw != NULL
            ? vmb_xml_parse(raw, "capabilities", "libvirt's capabilities", VMB_ERROR_LIBVIRT, NULL)
            : NULL;
    free(raw);
    if (document == NULL)
        return NULL;
    return vmb_xml_text(
        vmb_xml_child(vmb_xml_child(xmlDocGetRootElement(document), "host"), "uuid"));
}

static gboolean
ask_domain(virConnectPtr connection, const Question *question, gboolean *runs, GError **error)
{
    g_autofree char *peer = host_uuid(connection);
    *runs = FALSE;
    if (peer != NULL && g_strcmp0(peer, question->own_host_uuid) == 0)
        return TRUE;
    virDomainPtr domain = virDomainLookupByUUIDString(connection, question->uuid);
    if (domain == NULL)
        return vmb_virt_error_code() == VIR_ERR_NO_DOMAIN ||
               vmb_virt_error(error, VMB_ERROR_LIBVIRT, "cannot look up the domain at '%s'",
                              question->uri);
    int active = virDomainIsActive(domain);
    if (active < 0)
        vmb_virt_error(error, VMB_ERROR_LIBVIRT, "cannot read the domain's state at '%s'",
                       question->uri);
    virDomainFree(domain);
    *runs = active > 0;
    return active >= 0;
}

/* A host that is down, or asks for a password, can make libvirt wait for minutes: so this thread is
 * left to itself when it is late. */
static gpointer
ask_thread(gpointer data)
{
    g_autoptr(Question) question = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *host = NULL;
    gboolean runs = FALSE;
    virConnectPtr connection = virConnectOpenReadOnly(question->uri);
    if (connection == NULL) {
        vmb_virt_error(&error, VMB_ERROR_LIBVIRT, "cannot connect to '%s'", question->uri);
    } else {
        char *raw = virConnectGetHostname(connection);
        host = g_strdup(raw);
        free(raw);
        ask_domain(connection, question, &runs, &error);
        virConnectClose(connection);
    }
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&question->lock);
    question->done = TRUE;
    question->runs = runs;
    question->host = g_steal_pointer(&host);
    question->error = g_steal_pointer(&error);
    g_cond_signal(&question->answered);
    g_clear_pointer(&locker, g_mutex_locker_free);
    return NULL;
}

gboolean
vmb_peer_runs(VmbConnection *own, const char *uri, const char *uuid, gboolean *runs, char **host,
              GError **error)
{
    g_autoptr(Question) question = g_new0(Question, 1);
    gint64 deadline = g_get_monotonic_time() + PATIENCE_S * G_TIME_SPAN_SECOND;
    g_atomic_ref_count_init(&question->refs);
    g_atomic_ref_count_inc(&question->refs);
    g_mutex_init(&question->lock);
    g_cond_init(&question->answered);
    question->uri = g_strdup(uri);
    question->uuid = g_strdup(uuid);
    question->own_host_uuid = host_uuid(vmb_connection_handle(own));
    g_thread_unref(g_thread_new("libvirt-peer", ask_thread, question));
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&question->lock);
    while (!question->done && g_cond_wait_until(&question->answered, &question->lock, deadline))
        continue;
    gboolean answered = question->done && question->error == NULL;
    if (!question->done)
        vmb_error_set(error, VMB_ERROR_LIBVIRT, "'%s' has not answered for %d s", uri, PATIENCE_S);
    else if (question->error != NULL)
        g_propagate_error(error, g_steal_pointer(&question->error));
    *runs = answered && question->runs;
    *host = g_strdup(question->host);
    g_clear_pointer(&locker, g_mutex_locker_free);
    return answered;
}
