/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The run in progress, written before anything outside changes: what a dead run may have left. */
#include "repo/journal.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/text.h"

#include <errno.h>
#include <string.h>

#define JOURNAL_FORMAT 1
#define MAX_STALE 4096u
#define MAX_TEXT 4096u

void
vmb_journal_free(VmbJournal *journal)
{
    if (journal == NULL)
        return;
    g_free(journal->nonce);
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
is_uri(const char *text)
{
    return text[0] != '\0' && strlen(text) <= MAX_TEXT;
}

/* What it names gets deleted: an absolute path in its shortest form, and not a directory at the
 * top. */
static gboolean
is_path(const char *text)
{
    if (text[0] != '/' || strlen(text) > MAX_TEXT)
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
    {"uri", offsetof(VmbJournal, uri), is_uri},
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

gboolean
vmb_journal_write(int domain_fd, const VmbJournal *journal, GError **error)
{
    g_autoptr(VmbJson) object = json_object_new_object();
    vmb_json_add_uint(object, "format", JOURNAL_FORMAT);
    for (gsize i = 0; i < G_N_ELEMENTS(members); i++) {
        const char *given = G_STRUCT_MEMBER(char *, journal, members[i].offset);
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
            !vmb_text_is_name(json_object_get_string(name)))
            return vmb_error_set(error, VMB_ERROR_DAMAGE, "'stale' holds what is no name");
        journal->stale[i] = g_strdup(json_object_get_string(name));
    }
    return TRUE;
}

static gboolean
read_members(VmbJson *object, VmbJournal *journal, GError **error)
{
    return read_texts(object, journal, error) &&
           vmb_json_get_bool(object, "may_freeze", &journal->may_freeze, error) &&
           vmb_json_get_bool(object, "may_pause", &journal->may_pause, error) &&
           vmb_json_get_int(object, "time_ns", &journal->time_ns, error) &&
           vmb_json_get_int(object, "pid", &journal->pid, error) &&
           read_stale(object, journal, error);
}

gboolean
vmb_journal_read(int domain_fd, VmbJournal **journal, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbJournal) found = g_new0(VmbJournal, 1);
    *journal = NULL;
    g_autoptr(VmbJson) object =
        vmb_sealed_read(domain_fd, VMB_LAYOUT_JOURNAL, JOURNAL_FORMAT, "domain", &local);
    if (object == NULL && local == NULL)
        return TRUE;
    if (object != NULL && read_members(object, found, &local)) {
        *journal = g_steal_pointer(&found);
        return TRUE;
    }
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

gboolean
vmb_journal_clear(int domain_fd, GError **error)
{
    if (unlinkat(domain_fd, VMB_LAYOUT_JOURNAL, 0) < 0) {
        if (errno == ENOENT)
            return TRUE;
        return vmb_error_errno(error, errno, "cannot remove the journal of the run");
    }
    return vmb_fs_sync(domain_fd, "the domain's directory", error);
}
