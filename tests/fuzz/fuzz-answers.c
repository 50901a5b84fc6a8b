/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: what libvirt and the guest's agent answer: XML of jobs and checkpoints, facts. */
#include "fuzz.h"
#include "virt/backup-xml.h"
#include "virt/checkpoint.h"
#include "virt/guest-facts.h"
#include "xml-mutator.h"

#include <dlfcn.h>

/* Input: u8 which question (0 job, 1 checkpoint, 2 facts); the XML, or for facts: lines KEY=VALUE.
 *
 * The connection is one to the driver that libvirt has for tests, inside this process. The calls
 * whose answers are the input are defined here, and so found before libvirt's own. */

static VmbConnection *connection;
static VmbDomain *domain;
static const char *answer; /* text of the input */

gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed);

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed)
{
    return fuzz_xml_mutate(data, size, max_size, seed, 1);
}

virConnectPtr
virConnectOpen(const char *name)
{
    virConnectPtr (*real)(const char *name) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "virConnectOpen");
    return real("test:///default");
}

const char *
virConnectGetType(virConnectPtr conn)
{
    return "QEMU";
}

char *
virDomainBackupGetXMLDesc(virDomainPtr handle, unsigned int flags)
{
    return strdup(answer);
}

char *
virDomainCheckpointGetXMLDesc(virDomainCheckpointPtr checkpoint, unsigned int flags)
{
    return strdup(answer);
}

int
virDomainAgentSetResponseTimeout(virDomainPtr handle, int timeout, unsigned int flags)
{
    return 0;
}

static void
add_fact(virTypedParameterPtr *params, int *n, int *max, char *line)
{
    char *value = strchr(line, '=');
    if (value == NULL || value - line >= VIR_TYPED_PARAM_FIELD_LENGTH)
        return;
    *value++ = '\0';
    if (value[0] == '#')
        virTypedParamsAddUInt(params, n, max, line, (guint)g_ascii_strtoull(value + 1, NULL, 10));
    else if (value[0] == '%')
        virTypedParamsAddULLong(params, n, max, line, g_ascii_strtoull(value + 1, NULL, 10));
    else
        virTypedParamsAddString(params, n, max, line, value);
}

int
virDomainGetGuestInfo(virDomainPtr handle, unsigned int types, virTypedParameterPtr *params,
                      int *nparams, unsigned int flags)
{
    g_auto(GStrv) lines = g_strsplit(answer, "\n", 4000);
    int max = 0;
    for (guint i = 0; lines[i] != NULL; i++)
        add_fact(params, nparams, &max, lines[i]);
    return 0;
}

void
fuzz_set_up(void)
{
    g_autoptr(GError) error = NULL;
    static const char xml[] = "<domaincheckpoint><name>c</name></domaincheckpoint>";
    connection = vmb_connection_open("test:///default", &error);
    domain = connection != NULL ? vmb_domain_lookup(connection, "test", &error) : NULL;
    if (domain == NULL)
        g_error("libvirt's test driver: %s", error->message);
    virDomainCheckpointPtr checkpoint =
        virDomainCheckpointCreateXML(vmb_domain_handle(domain), xml, 0);
    if (checkpoint == NULL)
        g_error("no checkpoint: %s", virGetLastErrorMessage());
    virDomainCheckpointFree(checkpoint);
}

static void
try_job(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *socket = NULL;
    gboolean active = FALSE;
    if (!vmb_backup_xml_active(domain, &active, &socket, &error)) {
        fuzz_check_error(error, VMB_ERROR_FAILED);
        FUZZ_CHECK(socket == NULL);
        return;
    }
    FUZZ_CHECK(active && (socket == NULL || socket[0] != '\0'));
}

static void
try_checkpoint(void)
{
    static const char *const targets[] = {"vda", "vdb", "", NULL};
    g_autoptr(GError) error = NULL, error2 = NULL;
    gboolean usable[G_N_ELEMENTS(targets)] = {FALSE};
    g_autoptr(GPtrArray) found = vmb_checkpoint_targets(domain, "c", &error);
    gboolean valid = vmb_checkpoint_validate(domain, "c", targets, usable, &error2);
    if (found == NULL || !valid) {
        fuzz_check_error(found == NULL ? error : error2, -1);
        return;
    }
    for (guint i = 0; i < found->len; i++)
        FUZZ_CHECK(found->pdata[i] != NULL && ((const char *)found->pdata[i])[0] != '\0');
    for (guint i = 0; targets[i] != NULL; i++)
        FUZZ_CHECK(!usable[i] ||
                   g_ptr_array_find_with_equal_func(found, targets[i], g_str_equal, NULL));
}

/* A guest may say what it likes; what is kept of it is limited, and text that can be read again. */
static void
try_facts(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJson) facts = vmb_guest_facts(domain, 5, &error);
    FUZZ_CHECK(facts != NULL);
    const char *text = json_object_to_json_string_ext(facts, JSON_C_TO_STRING_PLAIN);
    g_autoptr(VmbJson) again = vmb_json_parse(text, strlen(text), &error);
    FUZZ_CHECK(again != NULL && json_object_equal(facts, again));
    VmbJson *filesystems = NULL;
    FUZZ_CHECK(vmb_json_get_array(facts, "filesystems", &filesystems, NULL));
    FUZZ_CHECK(json_object_array_length(filesystems) <= 256);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    static void (*const questions[])(void) = {try_job, try_checkpoint, try_facts};
    g_autofree char *text = length > 0 ? fuzz_text(data + 1, length - 1) : g_strdup("");
    answer = text;
    questions[(length > 0 ? data[0] : 0) % G_N_ELEMENTS(questions)]();
    answer = NULL;
}

void
fuzz_seeds(void)
{
    static const struct {
        const char *name;
        guint8 question;
        const char *text;
    } seeds[] = {
        {"job", 0,
         "<domainbackup mode='pull'><server transport='unix' socket='/run/x/nbd.sock'/><disks>"
         "<disk name='vda' backup='yes' type='file' backupmode='incremental' incremental='c1' "
         "exportname='vda' index='1'><driver type='qcow2'/><scratch file='/s/vda'/></disk>"
         "</disks></domainbackup>"},
        {"job-tcp", 0,
         "<domainbackup mode='pull'><server name='localhost' port='1'/></domainbackup>"},
        {"checkpoint", 1,
         "<domaincheckpoint><name>c</name><parent><name>b</name></parent><creationTime>1"
         "</creationTime><disks><disk name='vda' checkpoint='bitmap' bitmap='c' size='65536'/>"
         "<disk name='vdb' checkpoint='bitmap' bitmap='c'/><disk name='sda' checkpoint='no'/>"
         "</disks></domaincheckpoint>"},
        {"facts", 2,
         "os.id=debian\nos.pretty-name=Debian \x1b[31m\nhostname=web01\ntimezone.name=UTC\n"
         "fs.count=#2\nfs.0.mountpoint=/"
         "\nfs.0.name=vda1\nfs.0.fstype=ext4\nfs.0.total-bytes=%1000\n"
         "fs.0.used-bytes=%10\nfs.0.disk.count=#1\nfs.0.disk.0.alias=vda\nfs.1.mountpoint=/b\n"
         "fs.1.disk.count=#4000000000\nfs.1.disk.0.device=/dev/sdx"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(seeds); i++) {
        g_autoptr(GByteArray) input = g_byte_array_new();
        g_byte_array_append(input, &seeds[i].question, 1);
        g_byte_array_append(input, (const guint8 *)seeds[i].text, (guint)strlen(seeds[i].text));
        fuzz_seed(seeds[i].name, input->data, input->len);
    }
}
