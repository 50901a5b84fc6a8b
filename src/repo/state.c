/* SPDX-License-Identifier: GPL-2.0-or-later */
/* state.json of a point: the part that may change after publishing. */
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/state-json.h"
#include "util/error.h"

#include <string.h>

void
vmb_point_state_clear(VmbPointState *state)
{
    g_clear_pointer(&state->verify_result, g_free);
    state->verified_ns = 0;
}

char *
vmb_point_state_text(VmbJson *base, const VmbPointState *state)
{
    g_autoptr(VmbJson) object = base != NULL ? json_object_get(base) : json_object_new_object();
    json_object_object_del(object, "digest"); /* it must come last again */
    vmb_json_add_uint(object, "format", VMB_STATE_FORMAT);
    vmb_json_add(object, "verified_ns", json_object_new_int64(state->verified_ns));
    vmb_json_add_string(object, "verify_result", state->verify_result);
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

gboolean
vmb_point_state_read(VmbPoint *point, VmbPointState *state, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *label = vmb_point_name(point);
    const char *result = NULL;
    gint64 verified_ns = 0;
    g_auto(VmbFd) dir = vmb_point_open_dir(point, &local);
    g_autoptr(VmbJson) object = dir >= 0 ? read_object(point, dir, &local) : NULL;
    if (object != NULL && vmb_json_get_int(object, "verified_ns", &verified_ns, &local) &&
        vmb_json_get_string_or_null(object, "verify_result", &result, &local) &&
        (verified_ns < 0 || !is_result(result)))
        vmb_error_set(&local, VMB_ERROR_DAMAGE, "%s/" VMB_LAYOUT_STATE ": a value is not allowed",
                      label);
    if (local != NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    state->verified_ns = verified_ns;
    g_free(state->verify_result);
    state->verify_result = g_strdup(result);
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
    if (state->verified_ns < 0 || !is_result(state->verify_result))
        return vmb_error_set(error, VMB_ERROR_FAILED, "%s: no state that can be kept", label);
    g_autofree char *text = vmb_point_state_text(object, state);
    if (vmb_fs_write_file(dir, VMB_LAYOUT_STATE, text, strlen(text), error))
        return TRUE;
    g_prefix_error(error, "%s: ", label);
    return FALSE;
}
