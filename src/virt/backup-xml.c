/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The XML documents of a backup job: writing ours, reading that of the active one. */
#include "virt/backup-xml.h"
#include "virt/backup-job.h"
#include "virt/call.h"
#include "virt/xml.h"

#include <string.h>

static void append(GString *xml, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* printf with every %s escaped for XML attributes. */
static void
append(GString *xml, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_markup_vprintf_escaped(format, args);
    va_end(args);
    g_string_append(xml, text);
}

/* libvirt: formatbackup.html. Disks that are not listed are left out of the job. */
char *
vmb_backup_job_xml(const VmbBackupJobSpec *spec)
{
    GString *xml = g_string_new("<domainbackup mode='pull'>\n");
    append(xml, "  <server transport='unix' socket='%s'/>\n  <disks>\n", spec->socket);
    for (guint i = 0; i < spec->n_disks; i++) {
        const VmbBackupJobDisk *disk = &spec->disks[i];
        append(xml, "    <disk name='%s' backup='yes' type='file'", disk->target);
        if (disk->incremental != NULL)
            append(xml, " backupmode='incremental' incremental='%s'>\n", disk->incremental);
        else
            g_string_append(xml, " backupmode='full'>\n");
        append(xml, "      <driver type='qcow2'/>\n      <scratch file='%s'/>\n    </disk>\n",
               disk->scratch);
    }
    g_string_append(xml, "  </disks>\n</domainbackup>\n");
    return g_string_free(xml, FALSE);
}

static gboolean
has_checkpoint(const VmbBackupJobSpec *spec)
{
    if (spec->checkpoint == NULL)
        return FALSE;
    for (guint i = 0; i < spec->n_disks; i++) {
        if (spec->disks[i].checkpoint)
            return TRUE;
    }
    return FALSE;
}

/* libvirt: formatcheckpoint.html. Disks that are not listed get no bitmap, as do disks of the job
 * that cannot hold one. NULL if there is nothing to make. */
char *
vmb_backup_job_checkpoint_xml(const VmbBackupJobSpec *spec)
{
    if (!has_checkpoint(spec))
        return NULL;
    GString *xml = g_string_new("<domaincheckpoint>\n");
    append(xml, "  <name>%s</name>\n  <disks>\n", spec->checkpoint);
    for (guint i = 0; i < spec->n_disks; i++)
        append(xml, "    <disk name='%s' checkpoint='%s'/>\n", spec->disks[i].target,
               spec->disks[i].checkpoint ? "bitmap" : "no");
    g_string_append(xml, "  </disks>\n</domaincheckpoint>\n");
    return g_string_free(xml, FALSE);
}

gboolean
vmb_backup_xml_active(VmbDomain *domain, gboolean *active, char **socket, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    *active = FALSE;
    *socket = NULL;
    char *raw = virDomainBackupGetXMLDesc(vmb_domain_handle(domain), 0);
    if (raw == NULL) {
        int code = vmb_virt_error_code();
        if (code == VIR_ERR_NO_DOMAIN_BACKUP || code == VIR_ERR_OPERATION_INVALID ||
            code == VIR_ERR_NO_DOMAIN)
            return TRUE;
        return vmb_virt_error(error, VMB_ERROR_DOMAIN,
                              "cannot ask the domain '%s' for its backup job",
                              vmb_domain_name(domain));
    }
    g_autoptr(VmbXml) document =
        vmb_xml_parse(raw, "domainbackup", "the XML of the backup job", VMB_ERROR_FAILED, error);
    free(raw);
    if (document == NULL)
        return FALSE;
    xmlNode *server = vmb_xml_child(xmlDocGetRootElement(document), "server");
    *active = TRUE;
    *socket = vmb_xml_attribute(server, "socket");
    return TRUE;
}

char *
vmb_backup_xml_scratch(VmbDomain *domain)
{
    VMB_DOMAIN_CALL(domain);
    char *raw = virDomainBackupGetXMLDesc(vmb_domain_handle(domain), 0);
    g_autoptr(VmbXml) document =
        raw != NULL ? vmb_xml_parse(raw, "domainbackup", "the XML of the backup job",
                                    VMB_ERROR_FAILED, NULL)
                    : NULL;
    free(raw);
    if (document == NULL)
        return NULL;
    xmlNode *disks = vmb_xml_child(xmlDocGetRootElement(document), "disks");
    for (xmlNode *disk = vmb_xml_child(disks, "disk"); disk != NULL;
         disk = vmb_xml_next(disk, "disk")) {
        char *path = vmb_xml_attribute(vmb_xml_child(disk, "scratch"), "file");
        if (path != NULL)
            return path;
    }
    return NULL;
}
