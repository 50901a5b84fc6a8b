/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Our checkpoints: naming, asking for, validating and deleting them. */
#include "virt/checkpoint.h"
#include "virt/reconnect.h"
#include "virt/xml.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define RANDOM_BYTES 16

typedef virDomainCheckpoint VmbVirCheckpoint;
static void
free_checkpoint(VmbVirCheckpoint *checkpoint)
{
    virDomainCheckpointFree(checkpoint);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbVirCheckpoint, free_checkpoint)

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

/* *@checkpoint is NULL if libvirt does not know the name. */
static gboolean
look_up(VmbDomain *domain, const char *name, VmbVirCheckpoint **checkpoint, GError **error)
{
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
    if (!look_up(domain, question->name, &checkpoint, error))
        return FALSE;
    question->exists = checkpoint != NULL;
    return TRUE;
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
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    if (!look_up(domain, name, &checkpoint, error))
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
gboolean
vmb_checkpoint_validate(VmbDomain *domain, const char *name, const char *const *targets,
                        gboolean *usable, GError **error)
{
    g_autoptr(VmbXml) document = read_xml(domain, name, VIR_DOMAIN_CHECKPOINT_XML_SIZE, error);
    if (document == NULL)
        return FALSE;
    g_autoptr(GPtrArray) good = collect_targets(document, TRUE);
    for (gsize i = 0; targets[i] != NULL; i++)
        usable[i] = g_ptr_array_find_with_equal_func(good, targets[i], g_str_equal, NULL);
    return TRUE;
}

/* Replaces what libvirt stores of the checkpoint by one that has this disk alone. */
static gboolean
redefine_with_disk(VmbDomain *domain, const char *name, const char *target, GError **error)
{
    g_autofree char *xml = g_markup_printf_escaped(
        "<domaincheckpoint><name>%s</name><creationTime>%" G_GINT64_FORMAT "</creationTime>"
        "<disks><disk name='%s' checkpoint='bitmap' bitmap='%s'/></disks></domaincheckpoint>",
        name, g_get_real_time() / G_USEC_PER_SEC, target, name);
    g_autoptr(VmbVirCheckpoint) checkpoint = virDomainCheckpointCreateXML(
        vmb_domain_handle(domain), xml, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE);
    return checkpoint != NULL ||
           vmb_virt_error(error, VMB_ERROR_FAILED, "domain '%s': cannot redefine the checkpoint %s",
                          vmb_domain_name(domain), name);
}

static gboolean delete (VmbDomain *domain, const char *name, unsigned int flags, GError **error)
{
    g_autoptr(VmbVirCheckpoint) checkpoint = NULL;
    if (!look_up(domain, name, &checkpoint, error))
        return FALSE;
    if (checkpoint == NULL || virDomainCheckpointDelete(checkpoint, flags) == 0)
        return TRUE;
    return vmb_virt_error(error, VMB_ERROR_FAILED, "domain '%s': cannot delete the checkpoint %s",
                          vmb_domain_name(domain), name);
}

typedef struct {
    const char *name;
    GPtrArray
        *targets; /* all disks of the checkpoint, remembered while its record is taken apart */
} Deletion;

/* A bitmap that is missing on one disk makes libvirt refuse the whole deletion. So each disk's
 * bitmap is deleted alone, and what then remains is a record without bitmaps. */
static gboolean
delete_by_disk(VmbDomain *domain, Deletion *deletion, GError **error)
{
    const char *name = deletion->name;
    if (deletion->targets == NULL)
        deletion->targets = vmb_checkpoint_targets(domain, name, error);
    if (deletion->targets == NULL)
        return FALSE;
    for (guint i = 0; i < deletion->targets->len; i++) {
        const char *target = g_ptr_array_index(deletion->targets, i);
        g_autoptr(GError) local = NULL;
        if (redefine_with_disk(domain, name, target, &local) && delete (domain, name, 0, &local))
            continue;
        if (g_error_matches(local, VMB_ERROR, VMB_ERROR_LIBVIRT) ||
            g_error_matches(local, VMB_ERROR, VMB_ERROR_LOCKED)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        vmb_debug("disk %s: %s", target, local->message);
    }
    return delete (domain, name, VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY, error);
}

static gboolean
check_active(VmbDomain *domain, const char *name, GError **error)
{
    VmbDomainState state;
    if (!vmb_domain_state(domain, &state, error))
        return FALSE;
    return state.active ||
           vmb_error_set(error, VMB_ERROR_DOMAIN,
                         "domain '%s' is shut off, so the bitmaps of its checkpoint %s cannot be "
                         "deleted now; the next run while it is up does it",
                         vmb_domain_name(domain), name);
}

static gboolean
delete_step(VmbDomain *domain, gpointer data, GError **error)
{
    Deletion *deletion = data;
    Question question = {deletion->name, FALSE};
    if (deletion->targets != NULL)
        return delete_by_disk(domain, deletion, error);
    if (!exists_step(domain, &question, error))
        return FALSE;
    if (!question.exists)
        return TRUE;
    if (!check_active(domain, deletion->name, error))
        return FALSE;
    g_autoptr(GError) local = NULL;
    if (delete (domain, deletion->name, 0, &local))
        return TRUE;
    if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_FAILED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    vmb_debug("%s; deleting disk by disk", local->message);
    return delete_by_disk(domain, deletion, error);
}

gboolean
vmb_checkpoint_delete(VmbDomain *domain, const char *name, GError **error)
{
    Deletion deletion = {name, NULL};
    gboolean deleted = vmb_virt_reconnecting(domain, delete_step, &deletion, error);
    if (deletion.targets != NULL)
        g_ptr_array_unref(deletion.targets);
    return deleted;
}
