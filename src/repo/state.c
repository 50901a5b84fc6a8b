/* SPDX-License-Identifier: GPL-2.0-or-later */
/* state.json of a point: the part that may change after publishing. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/lock.h"
#include "repo/repository-private.h"
#include "repo/state-json.h"
#include "util/error.h"
#include "util/text.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define STATES_WAIT_NS (30 * G_GUINT64_CONSTANT(1000000000))

static void
damage_free(gpointer data)
{
    VmbDamage *damage = data;
    g_free(damage->disk);
    g_free(damage);
}

void
vmb_point_state_clear(VmbPointState *state)
{
    g_clear_pointer(&state->verify_result, g_free);
    g_clear_pointer(&state->tags, g_ptr_array_unref);
    g_clear_pointer(&state->damage, g_ptr_array_unref);
    *state = (VmbPointState){0};
}

void
vmb_point_state_clear_damage(VmbPointState *state)
{
    g_clear_pointer(&state->damage, g_ptr_array_unref);
}

void
vmb_point_state_add_damage(VmbPointState *state, const char *disk, guint64 offset, guint64 length)
{
    if (state->damage == NULL)
        state->damage = g_ptr_array_new_with_free_func(damage_free);
    for (guint i = state->damage->len; i-- > 0;) {
        VmbDamage *last = state->damage->pdata[i];
        if (strcmp(last->disk, disk) != 0)
            continue;
        if (last->offset + last->length != offset && state->damage->len < VMB_STATE_MAX_DAMAGE)
            break;
        guint64 end = MAX(last->offset + last->length, offset + length);
        last->offset = MIN(last->offset, offset);
        last->length = end - last->offset;
        return;
    }
    VmbDamage *damage = g_new0(VmbDamage, 1);
    *damage = (VmbDamage){g_strdup(disk), offset, length};
    g_ptr_array_add(state->damage, damage);
}

gboolean
vmb_point_state_has_tag(const VmbPointState *state, const char *tag)
{
    for (guint i = 0; state->tags != NULL && i < state->tags->len; i++)
        if (strcmp(state->tags->pdata[i], tag) == 0)
            return TRUE;
    return FALSE;
}

static int
compare_tags(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

gboolean
vmb_point_state_add_tag(VmbPointState *state, const char *tag)
{
    if (!vmb_text_is_name(tag))
        return FALSE;
    if (vmb_point_state_has_tag(state, tag))
        return TRUE;
    if (state->tags == NULL)
        state->tags = g_ptr_array_new_with_free_func(g_free);
    if (state->tags->len >= VMB_STATE_MAX_TAGS)
        return FALSE;
    g_ptr_array_add(state->tags, g_strdup(tag));
    g_ptr_array_sort(state->tags, compare_tags);
    return TRUE;
}

gboolean
vmb_point_state_check_tags(const char *const *tags, GError **error)
{
    guint n = 0;
    for (; tags != NULL && tags[n] != NULL; n++)
        if (!vmb_text_is_name(tags[n]))
            return vmb_error_set(error, VMB_ERROR_USAGE,
                                 "'%s' is no tag: letters, digits, '.', '_' and '-' are allowed, up to "
                                 "200, and no '.' at the beginning",
                                 tags[n]);
    return n <= VMB_STATE_MAX_TAGS || vmb_error_set(error, VMB_ERROR_USAGE,
                                                    "a point may have %u tags, and not %u",
                                                    VMB_STATE_MAX_TAGS, n);
}

void
vmb_point_state_remove_tag(VmbPointState *state, const char *tag)
{
    for (guint i = 0; state->tags != NULL && i < state->tags->len; i++)
        if (strcmp(state->tags->pdata[i], tag) == 0)
            g_ptr_array_remove_index(state->tags, i--);
}

static VmbJson *
write_tags(const VmbPointState *state)
{
    VmbJson *tags = json_object_new_array();
    for (guint i = 0; state->tags != NULL && i < state->tags->len; i++)
        json_object_array_add(tags, json_object_new_string(state->tags->pdata[i]));
    return tags;
}

static VmbJson *
write_damage(const VmbPointState *state)
{
    VmbJson *list = json_object_new_array();
    for (guint i = 0; state->damage != NULL && i < state->damage->len; i++) {
        const VmbDamage *damage = state->damage->pdata[i];
        VmbJson *entry = json_object_new_object();
        vmb_json_add_string(entry, "disk", damage->disk);
        vmb_json_add_uint(entry, "offset", damage->offset);
        vmb_json_add_uint(entry, "length", damage->length);
        json_object_array_add(list, entry);
    }
    return list;
}

char *
vmb_point_state_text(VmbJson *base, const VmbPointState *state)
{
    g_autoptr(VmbJson) object = base != NULL ? json_object_get(base) : json_object_new_object();
    json_object_object_del(object, "digest"); /* it must come last again */
    vmb_json_add_uint(object, "format", VMB_STATE_FORMAT);
    vmb_json_add(object, "verified_ns", json_object_new_int64(state->verified_ns));
    vmb_json_add_string(object, "verify_result", state->verify_result);
    vmb_json_add(object, "checked_ns", json_object_new_int64(state->checked_ns));
    vmb_json_add_bool(object, "protected", state->is_protected);
    vmb_json_add_bool(object, "metadata_damaged", state->metadata_damaged);
    vmb_json_add(object, "tags", write_tags(state));
    vmb_json_add(object, "damage", write_damage(state));
    return vmb_json_seal(object);
}

/* NULL without an error: there is none. */
static VmbJson *
read_object(const VmbPoint *point, int dir_fd, GError **error)
{
    g_autofree char *label = vmb_point_name(point);
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbJson) object =
        vmb_sealed_read(dir_fd, VMB_LAYOUT_STATE, VMB_STATE_FORMAT, label, &local);
    if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE))
        vmb_error_set(error, VMB_ERROR_DAMAGE,
                      "%s. The backup itself does not depend on it; when the file is deleted, the "
                      "next verification writes a new one",
                      local->message);
    else if (local != NULL)
        g_propagate_error(error, g_steal_pointer(&local));
    return g_steal_pointer(&object);
}

static gboolean
is_result(const char *text)
{
    return text == NULL || strcmp(text, "ok") == 0 || strcmp(text, "damaged") == 0;
}

/* FALSE for an absent member, which older versions did not write. */
static gboolean
has(VmbJson *object, const char *key)
{
    VmbJson *value = NULL;
    return json_object_object_get_ex(object, key, &value) && value != NULL;
}

static gboolean
read_tags(VmbJson *object, VmbPointState *state, GError **error)
{
    VmbJson *tags = NULL;
    if (!has(object, "tags"))
        return TRUE;
    if (!vmb_json_get_array(object, "tags", &tags, error))
        return FALSE;
    for (gsize i = 0; i < json_object_array_length(tags); i++) {
        VmbJson *tag = json_object_array_get_idx(tags, i);
        if (!json_object_is_type(tag, json_type_string) ||
            !vmb_point_state_add_tag(state, json_object_get_string(tag)))
            return vmb_error_set(error, VMB_ERROR_DAMAGE, "a tag is not allowed");
    }
    return TRUE;
}

static gboolean
read_range(VmbJson *entry, VmbPointState *state, GError **error)
{
    const char *disk = NULL;
    guint64 offset = 0, length = 0;
    if (!json_object_is_type(entry, json_type_object))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a range of damage is no object");
    if (!vmb_json_get_string(entry, "disk", &disk, error) ||
        !vmb_json_get_uint(entry, "offset", &offset, error) ||
        !vmb_json_get_uint(entry, "length", &length, error))
        return FALSE;
    if (length == 0 || offset > VMB_SIZE_MAX || length > VMB_SIZE_MAX)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a range of damage is not allowed");
    vmb_point_state_add_damage(state, disk, offset, length);
    return TRUE;
}

static gboolean
read_damage(VmbJson *object, VmbPointState *state, GError **error)
{
    VmbJson *list = NULL;
    if (!has(object, "damage"))
        return TRUE;
    if (!vmb_json_get_array(object, "damage", &list, error))
        return FALSE;
    for (gsize i = 0; i < json_object_array_length(list); i++)
        if (!read_range(json_object_array_get_idx(list, i), state, error))
            return FALSE;
    return TRUE;
}

/* Members that came later: absent ones are as if nothing had happened. */
static gboolean
read_later_members(VmbJson *object, VmbPointState *state, GError **error)
{
    state->checked_ns = state->verified_ns;
    return (!has(object, "checked_ns") ||
            vmb_json_get_int(object, "checked_ns", &state->checked_ns, error)) &&
           (!has(object, "protected") ||
            vmb_json_get_bool(object, "protected", &state->is_protected, error)) &&
           (!has(object, "metadata_damaged") ||
            vmb_json_get_bool(object, "metadata_damaged", &state->metadata_damaged, error)) &&
           read_tags(object, state, error) && read_damage(object, state, error);
}

static gboolean
read_members(VmbJson *object, VmbPointState *state, GError **error)
{
    const char *result = NULL;
    if (!vmb_json_get_int(object, "verified_ns", &state->verified_ns, error) ||
        !vmb_json_get_string_or_null(object, "verify_result", &result, error) ||
        !read_later_members(object, state, error))
        return FALSE;
    if (state->verified_ns < 0 || state->checked_ns < 0 || !is_result(result))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a value is not allowed");
    state->verify_result = g_strdup(result);
    return TRUE;
}

gboolean
vmb_point_state_read(VmbPoint *point, VmbPointState *state, GError **error)
{
    g_autofree char *label = vmb_point_name(point);
    g_autoptr(GError) local = NULL;
    g_auto(VmbPointState) read = {0};
    g_auto(VmbFd) dir = vmb_point_open_dir(point, error);
    if (dir < 0)
        return FALSE;
    g_autoptr(VmbJson) object = read_object(point, dir, &local);
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (object != NULL && !read_members(object, &read, error)) {
        g_prefix_error(error, "%s/" VMB_LAYOUT_STATE ": ", label);
        return FALSE;
    }
    vmb_point_state_clear(state);
    *state = read;
    read = (VmbPointState){0};
    return TRUE;
}

gboolean
vmb_point_state_write(VmbPoint *point, const VmbPointState *state, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *label = vmb_point_name(point);
    g_auto(VmbFd) dir = vmb_point_open_dir(point, &local);
    g_autoptr(VmbJson) object = dir >= 0 ? read_object(point, dir, &local) : NULL;
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (state->verified_ns < 0 || state->checked_ns < 0 || !is_result(state->verify_result))
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: no state that can be kept", label);
    g_autofree char *text = vmb_point_state_text(object, state);
    if (vmb_fs_write_file(dir, VMB_LAYOUT_STATE, text, strlen(text), error))
        return TRUE;
    g_prefix_error(error, "%s: ", label);
    return FALSE;
}

/* A file, as over NFS locks of directories are seen by no other host. Others hold it for as long as writing
 * such a file takes. */
static VmbLock *
lock_states(const VmbPoint *point, GError **error)
{
    g_autofree char *what = g_strdup_printf("the state of the points of %s", point->uuid);
    g_auto(VmbFd) domain = openat(point->place->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (domain < 0) {
        vmb_error_errno(error, errno, "cannot open the directory of the points of %s", point->uuid);
        return NULL;
    }
    return vmb_lock_take(domain, VMB_LAYOUT_STATES, TRUE, STATES_WAIT_NS, what, NULL, error);
}

gboolean
vmb_point_state_change(VmbPoint *point, void (*change)(VmbPointState *state, gpointer user),
                       gpointer user, GError **error)
{
    g_auto(VmbPointState) state = {0};
    g_autoptr(VmbLock) lock = lock_states(point, error);
    if (lock == NULL || !vmb_point_state_read(point, &state, error))
        return FALSE;
    change(&state, user);
    return vmb_point_state_write(point, &state, error);
}
