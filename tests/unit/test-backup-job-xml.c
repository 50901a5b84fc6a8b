/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The two XML documents that begin a backup job. */
#include "virt/backup-job.h"
#include "virt/checkpoint.h"
#include "virt/xml.h"
#include "util/text.h"

#include <string.h>

static VmbXml *
parse(const char *xml, const char *root)
{
    g_autoptr(GError) error = NULL;
    VmbXml *document = vmb_xml_parse(xml, root, "the document", VMB_ERROR_FAILED, &error);
    g_assert_no_error(error);
    return document;
}

static void
check_attribute(xmlNode *node, const char *name, const char *expected)
{
    g_autofree char *value = vmb_xml_attribute(node, name);
    g_assert_cmpstr(value, ==, expected);
}

static void
test_job(void)
{
    VmbBackupJobDisk disks[] = {{"vda", "/s/vda's <&>.qcow2", "c-1", TRUE},
                                {"vdb", "/s/vdb.qcow2", NULL, FALSE}};
    VmbBackupJobSpec spec = {"/r/so\"ck", "c-2", disks, 2};
    g_autofree char *xml = vmb_backup_job_xml(&spec);
    g_autoptr(VmbXml) document = parse(xml, "domainbackup");
    xmlNode *root = xmlDocGetRootElement(document);
    check_attribute(root, "mode", "pull");
    check_attribute(vmb_xml_child(root, "server"), "transport", "unix");
    check_attribute(vmb_xml_child(root, "server"), "socket", "/r/so\"ck");
    xmlNode *disk = vmb_xml_child(vmb_xml_child(root, "disks"), "disk");
    check_attribute(disk, "name", "vda");
    check_attribute(disk, "backupmode", "incremental");
    check_attribute(disk, "incremental", "c-1");
    check_attribute(vmb_xml_child(disk, "scratch"), "file", "/s/vda's <&>.qcow2");
    disk = vmb_xml_next(disk, "disk");
    check_attribute(disk, "name", "vdb");
    check_attribute(disk, "backup", "yes");
    check_attribute(disk, "backupmode", "full");
    check_attribute(disk, "incremental", NULL);
    g_assert_null(vmb_xml_next(disk, "disk"));
}

static void
test_checkpoint(void)
{
    VmbBackupJobDisk disks[] = {{"vda", "/s/a", NULL, TRUE}, {"vdb", "/s/b", NULL, FALSE}};
    VmbBackupJobSpec spec = {"/r/s", "c-2", disks, 2};
    g_autofree char *xml = vmb_backup_job_checkpoint_xml(&spec);
    g_autoptr(VmbXml) document = parse(xml, "domaincheckpoint");
    xmlNode *root = xmlDocGetRootElement(document);
    g_autofree char *name = vmb_xml_text(vmb_xml_child(root, "name"));
    g_assert_cmpstr(name, ==, "c-2");
    xmlNode *disk = vmb_xml_child(vmb_xml_child(root, "disks"), "disk");
    check_attribute(disk, "checkpoint", "bitmap");
    check_attribute(vmb_xml_next(disk, "disk"), "checkpoint", "no");
}

static void
test_no_checkpoint(void)
{
    VmbBackupJobDisk disk = {"vda", "/s/a", NULL, FALSE};
    VmbBackupJobSpec none = {"/r/s", "c-2", &disk, 1};
    g_assert_null(vmb_backup_job_checkpoint_xml(&none));
    disk.checkpoint = TRUE;
    VmbBackupJobSpec unnamed = {"/r/s", NULL, &disk, 1};
    g_assert_null(vmb_backup_job_checkpoint_xml(&unnamed));
}

static void
test_name(void)
{
    g_autofree char *a = vmb_checkpoint_new_name("0123456789abcdef");
    g_autofree char *b = vmb_checkpoint_new_name("0123456789abcdef");
    g_assert_true(g_str_has_prefix(a, "vmbackup-01234567-"));
    g_assert_cmpuint(strlen(a), ==, strlen("vmbackup-01234567-") + 32);
    g_assert_true(vmb_text_is_name(a));
    g_assert_cmpstr(a, !=, b);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup-job-xml/job", test_job);
    g_test_add_func("/backup-job-xml/checkpoint", test_checkpoint);
    g_test_add_func("/backup-job-xml/no-checkpoint", test_no_checkpoint);
    g_test_add_func("/backup-job-xml/name", test_name);
    return g_test_run();
}
