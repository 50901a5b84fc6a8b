/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every name inside a repository: the only place where they are spelled or put together. */
#include "repo/layout.h"
#include "util/text.h"
#include "util/units.h"

#include <string.h>

#define POINT_TIME_LENGTH 16 /* "20261121T020000Z" */
#define MAX_COUNTER 999999
#define MAX_LINK_NAME 200
#define JOURNAL_ASIDE VMB_LAYOUT_JOURNAL "-"
#define TRASH "trash-"
#define FOLD_FILE ".fold-"
#define CATALOG_NEW "." VMB_LAYOUT_CATALOG "-"

char *
vmb_layout_domain(const char *uuid)
{
    return g_strconcat(VMB_LAYOUT_DOMAINS "/", uuid, NULL);
}

char *
vmb_layout_journal_aside(const char *nonce)
{
    return g_strconcat(JOURNAL_ASIDE, nonce, NULL);
}

gboolean
vmb_layout_is_journal_aside(const char *name)
{
    guint8 nonce[16];
    return g_str_has_prefix(name, JOURNAL_ASIDE) &&
           vmb_text_unhex(name + strlen(JOURNAL_ASIDE), nonce, sizeof nonce);
}

char *
vmb_layout_trash(const char *id)
{
    return g_strconcat(TRASH, id, NULL);
}

gboolean
vmb_layout_is_trash(const char *name)
{
    return g_str_has_prefix(name, TRASH) && vmb_layout_is_point_id(name + strlen(TRASH));
}

char *
vmb_layout_fold_file(const char *name)
{
    return g_strconcat(FOLD_FILE, name, NULL);
}

gboolean
vmb_layout_is_fold_file(const char *name)
{
    return g_str_has_prefix(name, FOLD_FILE);
}

char *
vmb_layout_catalog_new(const char *token)
{
    return g_strconcat(CATALOG_NEW, token, NULL);
}

gboolean
vmb_layout_is_catalog_new(const char *name)
{
    guint8 token[16];
    return g_str_has_prefix(name, CATALOG_NEW) &&
           vmb_text_unhex(name + strlen(CATALOG_NEW), token, sizeof token);
}

char *
vmb_layout_image(const char *target)
{
    return g_strconcat(target, ".qcow2", NULL);
}

char *
vmb_layout_digests(const char *target)
{
    return g_strconcat(target, ".digests", NULL);
}

char *
vmb_layout_backing_file(const char *parent_id, const char *parent_image)
{
    return g_strdup_printf("../%s/%s", parent_id, parent_image);
}

char *
vmb_layout_point_id(gint64 unix_ns, guint counter)
{
    g_autofree char *time = vmb_units_format_point_time(unix_ns);
    return counter < 2 ? g_steal_pointer(&time) : g_strdup_printf("%s-%u", time, counter);
}

static gboolean
is_counter(const char *text)
{
    gsize length = strlen(text);
    if (length == 0 || length > 6 || text[0] == '0' || strspn(text, "0123456789") != length)
        return FALSE;
    guint64 counter = g_ascii_strtoull(text, NULL, 10);
    return counter >= 2 && counter <= MAX_COUNTER;
}

gboolean
vmb_layout_is_point_id(const char *name)
{
    static const char form[] = "ddddddddTddddddZ";
    for (gsize i = 0; i < POINT_TIME_LENGTH; i++)
        if (form[i] == 'd' ? !g_ascii_isdigit(name[i]) : name[i] != form[i])
            return FALSE;
    const char *rest = name + POINT_TIME_LENGTH;
    return rest[0] == '\0' || (rest[0] == '-' && is_counter(rest + 1));
}

gboolean
vmb_layout_is_point_file(const char *name)
{
    return vmb_text_is_name(name) && strcmp(name, VMB_LAYOUT_MANIFEST) != 0 &&
           strcmp(name, VMB_LAYOUT_STATE) != 0 && strcmp(name, VMB_LAYOUT_LOCK) != 0 &&
           strcmp(name, VMB_LAYOUT_RETIRED) != 0;
}

gboolean
vmb_layout_is_leftover(const char *name)
{
    /* The temporary names of vmb_fs_write_file(), and of folds. */
    return vmb_layout_is_fold_file(name) ||
           strcmp(name, "." VMB_LAYOUT_STATE ".new") == 0 ||
           strcmp(name, "." VMB_LAYOUT_MANIFEST ".new") == 0;
}

char *
vmb_layout_link_name(const char *domain)
{
    char *name = g_strndup(domain, MAX_LINK_NAME);
    for (char *p = name; *p != '\0'; p++)
        if (!g_ascii_isalnum(*p) && strchr("._-", *p) == NULL)
            *p = '_';
    if (name[0] == '.')
        name[0] = '_';
    return name;
}

char *
vmb_layout_link_target(const char *uuid)
{
    return g_strconcat("../" VMB_LAYOUT_DOMAINS "/", uuid, NULL);
}

char *
vmb_layout_path(const char *repository, const char *uuid, const char *id)
{
    if (uuid == NULL)
        return g_build_filename(repository, VMB_LAYOUT_DOMAINS, NULL);
    if (id == NULL)
        return g_build_filename(repository, VMB_LAYOUT_DOMAINS, uuid, NULL);
    return g_build_filename(repository, VMB_LAYOUT_DOMAINS, uuid, VMB_LAYOUT_POINTS, id, NULL);
}
