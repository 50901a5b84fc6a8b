/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Our checkpoints: naming, asking for and validating them. */
#include "virt/checkpoint-private.h"
#include "virt/call.h"
#include "virt/reconnect.h"
#include "virt/xml.h"
#include "util/text.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define RANDOM_BYTES 16

char *
vmb_checkpoint_new_name(const char *repository_id)
{
    guint8 bytes[RANDOM_BYTES];
    /* So few bytes come whole or, early at boot only, not at all. */
    while (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        if (errno != EINTR)
            g_error("no random numbers from the kernel: %s", g_strerror(errno));
    }
    g_autofree char *digits = vmb_text_hex(bytes, sizeof bytes);
    return g_strdup_printf("vmbackup-%.8s-%s", repository_id, digits);
}

static gboolean
list_step(VmbDomain *domain, gpointer names, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virDomainCheckpointPtr *all = NULL;
    int n = virDomainListAllCheckpoints(vmb_domain_handle(domain), &all, 0);
    if (n < 0)
        return vmb_virt_error(error, VMB_ERROR_DOMAIN,
                              "cannot list the checkpoints of the domain '%s'",
                              vmb_domain_name(domain));
    for (int i = 0; i < n; i++) {
        g_ptr_array_add(names, g_strdup(virDomainCheckpointGetName(all[i])));
        virDomainCheckpointFree(all[i]);
    }
    free(all);
    return TRUE;
}

GPtrArray *
vmb_checkpoint_list(VmbDomain *domain, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    return vmb_virt_reconnecting(domain, list_step, names, error) ? g_steal_pointer(&names) : NULL;
}

gboolean
vmb_checkpoint_look_up(VmbDomain *domain, const char *name, VmbVirCheckpoint **checkpoint,
                       GError **error)
{
    VMB_DOMAIN_CALL(domain);
    *checkpoint = virDomainCheckpointLookupByName(vmb_domain_handle(domain), name, 0);
    if (*checkpoint != NULL || vmb_virt_error_code() == VIR_ERR_NO_DOMAIN_CHECKPOINT)
        return TRUE;
    return vmb_virt_error(error, VMB_ERROR_DOMAIN, "domain '%s': cannot look up the checkpoint %s",
                          vmb_domain_name(domain), name);
}

typedef struct {
    const char *name;
    gboolean exists;
} Question;

static gboolean
exists_step(VmbDomain *domain, gpointer data, GError **error)
{
    Question *question = data;
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    if (!vmb_checkpoint_look_up(domain, question->name, &checkpoint, error))
        return FALSE;
    question->exists = checkpoint != NULL;
    return TRUE;
}

gboolean
vmb_checkpoint_is_ours(const char *name, const char *repository_id)
{
    guint8 digits[RANDOM_BYTES];
    g_autofree char *prefix = g_strdup_printf("vmbackup-%.8s-", repository_id);
    return g_str_has_prefix(name, prefix) &&
           vmb_text_unhex(name + strlen(prefix), digits, sizeof digits);
}

gboolean
vmb_checkpoint_exists(VmbDomain *domain, const char *name, gboolean *exists, GError **error)
{
    Question question = {name, FALSE};
    if (!vmb_virt_reconnecting(domain, exists_step, &question, error))
        return FALSE;
    *exists = question.exists;
    return TRUE;
}

static VmbXml *
read_xml(VmbDomain *domain, const char *name, unsigned int flags, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    if (!vmb_checkpoint_look_up(domain, name, &checkpoint, error))
        return NULL;
    if (checkpoint == NULL) {
        vmb_error_set(error, VMB_ERROR_NO_INCREMENTAL, "domain '%s' has no checkpoint %s",
                      vmb_domain_name(domain), name);
        return NULL;
    }
    char *raw =
        virDomainCheckpointGetXMLDesc(checkpoint, flags | VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN);
    if (raw == NULL) {
        vmb_virt_error(error, VMB_ERROR_DOMAIN, "domain '%s': cannot read the checkpoint %s",
                       vmb_domain_name(domain), name);
        return NULL;
    }
    VmbXml *document =
        vmb_xml_parse(raw, "domaincheckpoint", "the checkpoint's XML", VMB_ERROR_FAILED, error);
    free(raw);
    return document;
}

static xmlNode *
first_disk(VmbXml *document)
{
    return vmb_xml_child(vmb_xml_child(xmlDocGetRootElement(document), "disks"), "disk");
}

/* Targets of the document's disks with a bitmap; with @measured only those whose size libvirt could
 * tell, which is to say whose bitmap is there and good. */
static GPtrArray *
collect_targets(VmbXml *document, gboolean measured)
{
    GPtrArray *targets = g_ptr_array_new_with_free_func(g_free);
    for (xmlNode *disk = first_disk(document); disk != NULL; disk = vmb_xml_next(disk, "disk")) {
        g_autofree char *name = vmb_xml_attribute(disk, "name");
        g_autofree char *size = vmb_xml_attribute(disk, "size");
        if (name != NULL && vmb_xml_attribute_is(disk, "checkpoint", "bitmap") &&
            (!measured || size != NULL))
            g_ptr_array_add(targets, g_steal_pointer(&name));
    }
    return targets;
}

GPtrArray *
vmb_checkpoint_targets(VmbDomain *domain, const char *name, GError **error)
{
    g_autoptr(VmbXml) document = read_xml(domain, name, 0, error);
    return document != NULL ? collect_targets(document, FALSE) : NULL;
}

/* A redefinition with VALIDATE would say only that some disk is bad, and one that succeeds replaces
 * what libvirt has stored. The XML with sizes runs the same check disk by disk and stores nothing:
 * it merges each good bitmap into a temporary one, counts, and leaves the others without a size
 * (qemu_checkpoint.c of libvirt). */
GPtrArray *
vmb_checkpoint_good_targets(VmbDomain *domain, const char *name, GError **error)
{
    g_autoptr(VmbXml) document = read_xml(domain, name, VIR_DOMAIN_CHECKPOINT_XML_SIZE, error);
    return document != NULL ? collect_targets(document, TRUE) : NULL;
}

gboolean
vmb_checkpoint_validate(VmbDomain *domain, const char *name, const char *const *targets,
                        gboolean *usable, GError **error)
{
    g_autoptr(GPtrArray) good = vmb_checkpoint_good_targets(domain, name, error);
    if (good == NULL)
        return FALSE;
    for (gsize i = 0; targets[i] != NULL; i++)
        usable[i] = g_ptr_array_find_with_equal_func(good, targets[i], g_str_equal, NULL);
    return TRUE;
}
