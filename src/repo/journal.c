/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The run in progress, written before anything outside changes: what a dead run may have left. */
#include "repo/journal.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/host.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define JOURNAL_FORMAT 1
#define MAX_STALE 4096u
#define MAX_TEXT 4096u
#define MAX_BYTES (1024 * 1024)
#define NONCE_DIGITS 32

void
vmb_journal_free(VmbJournal *journal)
{
    if (journal == NULL)
        return;
    g_free(journal->nonce);
    g_free(journal->host);
    g_free(journal->host_id);
    g_free(journal->uri);
    g_free(journal->checkpoint);
    g_free(journal->socket);
    g_free(journal->run_dir);
    g_free(journal->scratch_dir);
    g_free(journal->point);
    g_strfreev(journal->stale);
    g_free(journal);
}

static gboolean
is_nonce(const char *text)
{
    guint8 nonce[16];
    return vmb_text_unhex(text, nonce, sizeof nonce);
}

static gboolean
is_some_text(const char *text)
{
    return text[0] != '\0' && strlen(text) <= MAX_TEXT;
}

/* What it names gets deleted: an absolute path in its shortest form, and not a directory at the
 * top. */
static gboolean
is_path(const char *text)
{
    if (text[0] != '/' || text[1] == '/' || strlen(text) > MAX_TEXT)
        return FALSE;
    g_autofree char *canonical = g_canonicalize_filename(text, "/");
    return strcmp(canonical, text) == 0 && strchr(text + 1, '/') != NULL;
}

static const struct {
    const char *key;
    gsize offset;
    gboolean (*is_valid)(const char *text);
} members[] = {
    {"nonce", offsetof(VmbJournal, nonce), is_nonce},
    {"host", offsetof(VmbJournal, host), is_some_text},
    {"host_id", offsetof(VmbJournal, host_id), is_nonce},
    {"uri", offsetof(VmbJournal, uri), is_some_text},
    {"checkpoint", offsetof(VmbJournal, checkpoint), vmb_text_is_name},
    {"socket", offsetof(VmbJournal, socket), is_path},
    {"run_dir", offsetof(VmbJournal, run_dir), is_path},
    {"scratch_dir", offsetof(VmbJournal, scratch_dir), is_path},
    {"point", offsetof(VmbJournal, point), vmb_layout_is_point_id},
};

static VmbJson *
write_stale(char **stale)
{
    VmbJson *array = json_object_new_array();
    for (guint i = 0; stale != NULL && stale[i] != NULL; i++)
        json_object_array_add(array, json_object_new_string(stale[i]));
    return array;
}

/* Names of checkpoints go where the domain goes, but paths do not. */
static gboolean
is_bound_to_host(const VmbJournal *journal)
{
    gboolean bound = journal->nonce != NULL;
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        bound |= journal->stale[i][0] == '/';
    return bound;
}

gboolean
vmb_journal_write(int domain_fd, const VmbJournal *journal, GError **error)
{
    g_autoptr(VmbJson) object = json_object_new_object();
    VmbJournal full = *journal;
    if (is_bound_to_host(journal) && full.host == NULL && full.host_id == NULL) {
        full.host = (char *)g_get_host_name();
        full.host_id = (char *)vmb_host_id();
    }
    vmb_json_add_uint(object, "format", JOURNAL_FORMAT);
    for (gsize i = 0; i < G_N_ELEMENTS(members); i++) {
        const char *given = G_STRUCT_MEMBER(char *, &full, members[i].offset);
        gboolean shorten = given != NULL && members[i].is_valid == is_path;
        g_autofree char *text = shorten ? g_canonicalize_filename(given, NULL) : g_strdup(given);
        if (text != NULL && !members[i].is_valid(text))
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "the journal cannot hold '%s' as its '%s': nothing was changed",
                                 text, members[i].key);
        vmb_json_add_string(object, members[i].key, text);
    }
    vmb_json_add_bool(object, "may_freeze", journal->may_freeze);
    vmb_json_add_bool(object, "may_pause", journal->may_pause);
    vmb_json_add_bool(object, "was_running", journal->was_running);
    vmb_json_add_bool(object, "io_paused", journal->io_paused);
    vmb_json_add(object, "time_ns", json_object_new_int64(journal->time_ns));
    vmb_json_add(object, "pid", json_object_new_int64(journal->pid));
    vmb_json_add(object, "stale", write_stale(journal->stale));
    if (vmb_sealed_write(domain_fd, VMB_LAYOUT_JOURNAL, object, error))
        return TRUE;
    g_prefix_error(error, "the journal of the run: ");
    return FALSE;
}

static gboolean
read_texts(VmbJson *object, VmbJournal *journal, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(members); i++) {
        const char *text = NULL;
        if (!vmb_json_get_string_or_null(object, members[i].key, &text, error))
            return FALSE;
        if (text != NULL && !members[i].is_valid(text))
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "member '%s' has a value that is not allowed", members[i].key);
        G_STRUCT_MEMBER(char *, journal, members[i].offset) = g_strdup(text);
    }
    return TRUE;
}

static gboolean
read_stale(VmbJson *object, VmbJournal *journal, GError **error)
{
    VmbJson *array = NULL;
    if (!vmb_json_get_array(object, "stale", &array, error))
        return FALSE;
    gsize n = json_object_array_length(array);
    if (n > MAX_STALE)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "too many elements of 'stale'");
    if (n == 0)
        return TRUE;
    journal->stale = g_new0(char *, n + 1);
    for (gsize i = 0; i < n; i++) {
        VmbJson *name = json_object_array_get_idx(array, i);
        if (!json_object_is_type(name, json_type_string) ||
            !(vmb_text_is_name(json_object_get_string(name)) ||
              is_path(json_object_get_string(name))))
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "'stale' holds what is neither name nor path");
        journal->stale[i] = g_strdup(json_object_get_string(name));
    }
    return TRUE;
}

/* Journals of older versions lack it: then nothing is claimed. */
static gboolean
read_newer_bool(VmbJson *object, const char *key, gboolean *value, GError **error)
{
    return !json_object_object_get_ex(object, key, NULL) ||
           vmb_json_get_bool(object, key, value, error);
}

static gboolean
read_members(VmbJson *object, VmbJournal *journal, GError **error)
{
    return read_texts(object, journal, error) &&
           vmb_json_get_bool(object, "may_freeze", &journal->may_freeze, error) &&
           vmb_json_get_bool(object, "may_pause", &journal->may_pause, error) &&
           read_newer_bool(object, "was_running", &journal->was_running, error) &&
           read_newer_bool(object, "io_paused", &journal->io_paused, error) &&
           vmb_json_get_int(object, "time_ns", &journal->time_ns, error) &&
           vmb_json_get_int(object, "pid", &journal->pid, error) &&
           read_stale(object, journal, error);
}

/* *@journal is NULL if there is no file @name. */
static gboolean
read_file(int domain_fd, const char *name, VmbJournal **journal, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbJournal) found = g_new0(VmbJournal, 1);
    *journal = NULL;
    g_autoptr(VmbJson) object = vmb_sealed_read(domain_fd, name, JOURNAL_FORMAT, "domain", &local);
    if (object != NULL && read_members(object, found, &local))
        *journal = g_steal_pointer(&found);
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

gboolean
vmb_journal_read(int domain_fd, VmbJournal **journal, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (read_file(domain_fd, VMB_LAYOUT_JOURNAL, journal, &local))
        return TRUE;
    if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    return vmb_error_set(
        error, VMB_ERROR_DAMAGE,
        "the journal of an earlier run is damaged (%s), so what that run left behind "
        "is not known; all points are intact. `vmbackup doctor` shows jobs and "
        "checkpoints; when none of vmbackup's jobs is left, delete the file journal "
        "in the domain's directory of the repository",
        local->message);
}

static gboolean
remove_file(int domain_fd, const char *name, GError **error)
{
    if (unlinkat(domain_fd, name, 0) < 0) {
        if (errno == ENOENT)
            return TRUE;
        return vmb_error_errno(error, errno, "cannot remove the journal of the run");
    }
    return vmb_fs_sync(domain_fd, "the domain's directory", error);
}

gboolean
vmb_journal_clear(int domain_fd, GError **error)
{
    return remove_file(domain_fd, VMB_LAYOUT_JOURNAL, error);
}

/* ---- journals of other hosts ---- */

gboolean
vmb_journal_is_elsewhere(const VmbJournal *journal)
{
    return is_bound_to_host(journal) && vmb_host_is_other(journal->host_id, journal->host);
}

/* That of a run by the run; one that holds only paths by these. */
static char *
aside_name(const VmbJournal *journal)
{
    if (journal->nonce != NULL)
        return vmb_layout_journal_aside(journal->nonce);
    g_autofree char *paths = journal->stale != NULL ? g_strjoinv("\n", journal->stale) : NULL;
    g_autofree char *key =
        g_compute_checksum_for_string(G_CHECKSUM_SHA256, paths != NULL ? paths : "", -1);
    key[NONCE_DIGITS] = '\0';
    return vmb_layout_journal_aside(key);
}

gboolean
vmb_journal_set_aside(int domain_fd, const VmbJournal *journal, GError **error)
{
    g_autofree char *name = aside_name(journal);
    g_autofree char *text = NULL;
    gsize length = 0;
    /* What is there already may say more: the journal of a guest that is still frozen is kept shortened. */
    if (faccessat(domain_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return TRUE;
    if (vmb_fs_read_file(domain_fd, VMB_LAYOUT_JOURNAL, MAX_BYTES, &text, &length, error) &&
        vmb_fs_write_file(domain_fd, name, text, length, error))
        return TRUE;
    g_prefix_error(error, "the journal of a run on the host %s cannot be set aside: ",
                   journal->host != NULL ? journal->host : "?");
    return FALSE;
}

GPtrArray *
vmb_journal_list_aside(int domain_fd, GError **error)
{
    g_autoptr(GPtrArray) names = vmb_directory_list(domain_fd, error);
    if (names == NULL)
        return NULL;
    GPtrArray *journals = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_journal_free);
    for (guint i = 0; i < names->len; i++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(VmbJournal) journal = NULL;
        if (!vmb_layout_is_journal_aside(names->pdata[i]))
            continue;
        if (!read_file(domain_fd, names->pdata[i], &journal, &local))
            vmb_warning("a journal that was set aside for another host cannot be read: %s",
                        local->message);
        else if (journal != NULL)
            g_ptr_array_add(journals, g_steal_pointer(&journal));
    }
    return journals;
}

gboolean
vmb_journal_clear_aside(int domain_fd, const VmbJournal *journal, GError **error)
{
    g_autofree char *name = aside_name(journal);
    return remove_file(domain_fd, name, error);
}

gboolean
vmb_journal_drop_all(int domain_fd, guint *n, GError **error)
{
    g_autoptr(GPtrArray) names = vmb_directory_list(domain_fd, error);
    *n = 0;
    for (guint i = 0; names != NULL && i < names->len; i++) {
        const char *name = names->pdata[i];
        if (strcmp(name, VMB_LAYOUT_JOURNAL) != 0 && !vmb_layout_is_journal_aside(name))
            continue;
        if (!remove_file(domain_fd, name, error))
            return FALSE;
        ++*n;
    }
    return names != NULL;
}
