/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which host this is, and which of its boots. */
#include "util/host.h"
#include "util/text.h"

#include <string.h>

/* Makes ids of this program differ from those that others make of the same machine-id. */
#define HOST_KEY "vmbackup: host that uses a repository"
#define ID_BYTES 16
#define BOOT_DIGITS 16

/* The 32 digits of a file that may group them by '-'; NULL if it holds something else. */
static char *
read_digits(const char *path)
{
    g_autofree char *text = NULL;
    guint8 bytes[ID_BYTES];
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return NULL;
    GString *digits = g_string_new(NULL);
    for (const char *p = text; *p != '\0' && *p != '\n'; p++)
        if (*p != '-')
            g_string_append_c(digits, g_ascii_tolower(*p));
    if (vmb_text_unhex(digits->str, bytes, sizeof bytes))
        return g_string_free(digits, FALSE);
    g_string_free(digits, TRUE);
    return NULL;
}

/* A keyed digest, as machine-id(5) asks for: the id itself is not to leave the host. */
char *
vmb_host_id_of(const char *path)
{
    g_autofree char *digits = read_digits(path);
    if (digits == NULL)
        return NULL;
    char *id = g_compute_hmac_for_string(G_CHECKSUM_SHA256, (const guchar *)digits, strlen(digits),
                                         HOST_KEY, -1);
    id[2 * ID_BYTES] = '\0';
    return id;
}

const char *
vmb_host_id(void)
{
    static gsize once;
    static char *id;
    if (g_once_init_enter(&once)) {
        id = vmb_host_id_of("/etc/machine-id");
        g_once_init_leave(&once, 1);
    }
    return id;
}

const char *
vmb_host_boot(void)
{
    static gsize once;
    static char *boot;
    if (g_once_init_enter(&once)) {
        boot = read_digits("/proc/sys/kernel/random/boot_id");
        if (boot != NULL)
            boot[BOOT_DIGITS] = '\0';
        g_once_init_leave(&once, 1);
    }
    return boot;
}

gboolean
vmb_host_is_other(const char *id, const char *name)
{
    const char *own = vmb_host_id();
    if (id != NULL && own != NULL)
        return strcmp(id, own) != 0;
    return name != NULL && strcmp(name, g_get_host_name()) != 0;
}
