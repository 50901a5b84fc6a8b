/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Several domains, some at a time; one that fails does not stop the others. */
#include "job/backup.h"
#include "util/error.h"
#include "util/log.h"
#include "util/parallel.h"

typedef struct {
    const VmbBackupOptions *options;
    void (*done)(const VmbBackupResult *, gpointer);
    gpointer data;
    GMutex lock;
} Group;

static VmbBackupResult *
not_begun(const char *domain)
{
    VmbBackupResult *result = vmb_backup_result_new(domain);
    vmb_error_set(&result->error, VMB_ERROR_CANCELLED,
                  "%s: cancelled before its backup began; nothing was changed", domain);
    return result;
}

static void
back_up(gpointer domain, gpointer user)
{
    Group *group = user;
    g_autoptr(VmbBackupResult) result = g_cancellable_is_cancelled(group->options->cancel)
                                            ? not_begun(domain)
                                            : vmb_backup_domain(group->options, domain);
    g_mutex_lock(&group->lock);
    if (group->done != NULL)
        group->done(result, group->data);
    g_mutex_unlock(&group->lock);
}

void
vmb_backup_domains(const VmbBackupOptions *options, const char *const *domains, guint jobs,
                   void (*done)(const VmbBackupResult *result, gpointer data), gpointer data)
{
    Group group = {.options = options, .done = done, .data = data};
    g_mutex_init(&group.lock);
    g_autoptr(GPtrArray) items = g_ptr_array_new();
    for (guint i = 0; domains[i] != NULL; i++)
        g_ptr_array_add(items, (gpointer)domains[i]);
    vmb_parallel_run(items, jobs, back_up, &group);
    g_mutex_clear(&group.lock);
}

GPtrArray *
vmb_backup_all_domains(const char *uri, gboolean active_only, GError **error)
{
    g_autoptr(VmbConnection) connection = vmb_connection_open(uri, error);
    return connection != NULL ? vmb_domain_list(connection, active_only, error) : NULL;
}

GPtrArray *
vmb_backup_distinct_domains(const char *uri, const char *const *names)
{
    GPtrArray *distinct = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gboolean several = names[0] != NULL && names[1] != NULL;
    g_autoptr(VmbConnection) connection = several ? vmb_connection_open(uri, NULL) : NULL;
    for (guint i = 0; names[i] != NULL; i++) {
        g_autoptr(VmbDomain) domain =
            connection != NULL ? vmb_domain_lookup(connection, names[i], NULL) : NULL;
        const char *key = domain != NULL ? vmb_domain_uuid(domain) : names[i];
        if (g_hash_table_add(seen, g_strdup(key)))
            g_ptr_array_add(distinct, g_strdup(names[i]));
        else
            vmb_info("%s is named twice, and backed up once", names[i]);
    }
    return distinct;
}
