/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the guest agent says of the system and filesystems inside. */
#include "virt/guest-facts.h"
#include "virt/agent.h"
#include "virt/call.h"

#include <string.h>

/* A guest is not trusted: longer texts are cut, further filesystems and disks left out. */
#define MAX_TEXT 1024
#define MAX_FILESYSTEMS 256
#define MAX_DISKS 64
/* An agent that hangs is waited for so often: libvirt first synchronizes with it. */
#define WAITS 2

typedef struct {
    virTypedParameterPtr params;
    int n;
} Facts;

static const char *
get_string(const Facts *facts, const char *name)
{
    const char *value = NULL;
    return virTypedParamsGetString(facts->params, facts->n, name, &value) == 1 ? value : NULL;
}

static guint
get_count(const Facts *facts, const char *name, guint limit)
{
    unsigned int value = 0;
    if (virTypedParamsGetUInt(facts->params, facts->n, name, &value) != 1)
        return 0;
    return MIN(value, limit);
}

/* Cuts at MAX_TEXT bytes and repairs the encoding; control characters are JSON's to escape. */
static char *
tame(const char *text)
{
    g_autofree char *cut = g_strndup(text, MAX_TEXT);
    return g_utf8_make_valid(cut, -1);
}

static void
copy_string(const Facts *facts, const char *name, VmbJson *object, const char *key)
{
    const char *value = get_string(facts, name);
    if (value == NULL)
        return;
    g_autofree char *tamed = tame(value);
    vmb_json_add_string(object, key, tamed);
}

static void
copy_uint(const Facts *facts, const char *name, VmbJson *object, const char *key)
{
    unsigned long long value = 0;
    if (virTypedParamsGetULLong(facts->params, facts->n, name, &value) == 1)
        vmb_json_add_uint(object, key, value);
}

static VmbJson *
system_facts(const Facts *facts)
{
    static const char *const keys[][2] = {
        {"os.id", "id"},
        {"os.name", "name"},
        {"os.pretty-name", "pretty_name"},
        {"os.version", "version"},
        {"os.version-id", "version_id"},
        {"os.variant", "variant"},
        {"os.machine", "machine"},
        {"os.kernel-release", "kernel_release"},
        {"os.kernel-version", "kernel_version"},
    };
    VmbJson *os = json_object_new_object();
    for (gsize i = 0; i < G_N_ELEMENTS(keys); i++)
        copy_string(facts, keys[i][0], os, keys[i][1]);
    return os;
}

/* Disk targets ("vda") where libvirt could match them, else the device's name in the guest. */
static VmbJson *
disks_of(const Facts *facts, guint index)
{
    VmbJson *disks = json_object_new_array();
    char name[64];
    g_snprintf(name, sizeof name, "fs.%u.disk.count", index);
    guint n = get_count(facts, name, MAX_DISKS);
    for (guint i = 0; i < n; i++) {
        g_snprintf(name, sizeof name, "fs.%u.disk.%u.alias", index, i);
        const char *disk = get_string(facts, name);
        g_snprintf(name, sizeof name, "fs.%u.disk.%u.device", index, i);
        if (disk == NULL)
            disk = get_string(facts, name);
        if (disk == NULL)
            continue;
        g_autofree char *tamed = tame(disk);
        json_object_array_add(disks, json_object_new_string(tamed));
    }
    return disks;
}

static VmbJson *
filesystem(const Facts *facts, guint index)
{
    static const char *const strings[][2] = {
        {"mountpoint", "mountpoint"}, {"name", "name"}, {"fstype", "type"}};
    static const char *const sizes[][2] = {{"total-bytes", "total"}, {"used-bytes", "used"}};
    VmbJson *object = json_object_new_object();
    char name[64];
    for (gsize i = 0; i < G_N_ELEMENTS(strings); i++) {
        g_snprintf(name, sizeof name, "fs.%u.%s", index, strings[i][0]);
        copy_string(facts, name, object, strings[i][1]);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_snprintf(name, sizeof name, "fs.%u.%s", index, sizes[i][0]);
        copy_uint(facts, name, object, sizes[i][1]);
    }
    vmb_json_add(object, "disks", disks_of(facts, index));
    return object;
}

static VmbJson *
to_json(const Facts *facts)
{
    VmbJson *document = json_object_new_object();
    VmbJson *filesystems = json_object_new_array();
    guint n = get_count(facts, "fs.count", MAX_FILESYSTEMS);
    vmb_json_add(document, "os", system_facts(facts));
    copy_string(facts, "hostname", document, "hostname");
    copy_string(facts, "timezone.name", document, "timezone");
    for (guint i = 0; i < n; i++)
        json_object_array_add(filesystems, filesystem(facts, i));
    vmb_json_add(document, "filesystems", filesystems);
    return document;
}

VmbJson *
vmb_guest_facts(VmbDomain *domain, int timeout_s, GError **error)
{
    Facts facts = {NULL, 0};
    VMB_DOMAIN_CALL(domain);
    vmb_agent_set_timeout(domain, MAX(timeout_s / WAITS, 1));
    /* Type 0 asks for all that this agent and this libvirt know, and is no error if some is
     * unknown. */
    int rc = virDomainGetGuestInfo(vmb_domain_handle(domain), 0, &facts.params, &facts.n, 0);
    if (rc < 0)
        vmb_virt_error(error, VMB_ERROR_FAILED, "the guest agent of '%s' gives no facts",
                       vmb_domain_name(domain));
    vmb_agent_reset_timeout(domain);
    if (rc < 0)
        return NULL;
    VmbJson *document = to_json(&facts);
    virTypedParamsFree(facts.params, facts.n);
    return document;
}
