/* SPDX-License-Identifier: GPL-2.0-or-later */
/* json-c with autoptr, typed getters that trust nothing, and documents that carry their digest. */
#include "util/json.h"
#include "util/error.h"

#include <string.h>

#define MAX_LENGTH (64 * 1024 * 1024)
#define MAX_DEPTH 32
#define SEAL_MIDDLE ",\n  \"digest\":\"sha256:"
#define SEAL_END "\"\n}\n"
#define SEAL_LENGTH (strlen(SEAL_MIDDLE) + 64 + strlen(SEAL_END))

static void
tokener_free(struct json_tokener **tokener)
{
    if (*tokener != NULL)
        json_tokener_free(*tokener);
}

VmbJson *
vmb_json_parse(const char *text, gsize length, GError **error)
{
    if (length == 0 || length > MAX_LENGTH) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "JSON text of %" G_GSIZE_FORMAT " bytes", length);
        return NULL;
    }
    /* json-c's own check lets encoded surrogates pass. */
    if (!g_utf8_validate_len(text, length, NULL)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "the JSON text is not valid UTF-8");
        return NULL;
    }
    __attribute__((cleanup(tokener_free))) struct json_tokener *tokener =
        json_tokener_new_ex(MAX_DEPTH);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    g_autoptr(VmbJson) object = json_tokener_parse_ex(tokener, text, (int)length);
    enum json_tokener_error err = json_tokener_get_error(tokener);
    if (err != json_tokener_success) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "broken JSON at byte %zu: %s",
                      json_tokener_get_parse_end(tokener), json_tokener_error_desc(err));
        return NULL;
    }
    for (gsize i = json_tokener_get_parse_end(tokener); i < length; i++)
        if (!g_ascii_isspace(text[i])) {
            vmb_error_set(error, VMB_ERROR_DAMAGE, "text after the end of the JSON document");
            return NULL;
        }
    if (!json_object_is_type(object, json_type_object)) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "the JSON document is not an object");
        return NULL;
    }
    return g_steal_pointer(&object);
}

static gboolean
get(VmbJson *object, const char *key, enum json_type type, VmbJson **value, GError **error)
{
    if (!json_object_object_get_ex(object, key, value))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "member '%s' is missing", key);
    if (!json_object_is_type(*value, type))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "member '%s' has the wrong type", key);
    return TRUE;
}

static gboolean
is_absent(VmbJson *object, const char *key)
{
    VmbJson *value = NULL;
    return !json_object_object_get_ex(object, key, &value) || value == NULL;
}

gboolean
vmb_json_get_string(VmbJson *object, const char *key, const char **value, GError **error)
{
    VmbJson *member = NULL;
    if (!get(object, key, json_type_string, &member, error))
        return FALSE;
    *value = json_object_get_string(member);
    if (strlen(*value) != (gsize)json_object_get_string_len(member))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "member '%s' holds a NUL byte", key);
    return TRUE;
}

gboolean
vmb_json_get_uint(VmbJson *object, const char *key, guint64 *value, GError **error)
{
    VmbJson *member = NULL;
    if (!get(object, key, json_type_int, &member, error))
        return FALSE;
    /* json-c clamps what does not fit; a negative number comes back from the signed getter. */
    if (json_object_get_int64(member) < 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "member '%s' is negative", key);
    *value = json_object_get_uint64(member);
    return TRUE;
}

gboolean
vmb_json_get_int(VmbJson *object, const char *key, gint64 *value, GError **error)
{
    VmbJson *member = NULL;
    if (!get(object, key, json_type_int, &member, error))
        return FALSE;
    *value = json_object_get_int64(member);
    if (*value > 0 && json_object_get_uint64(member) != (guint64)*value)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "member '%s' is too large", key);
    return TRUE;
}

gboolean
vmb_json_get_bool(VmbJson *object, const char *key, gboolean *value, GError **error)
{
    VmbJson *member = NULL;
    if (!get(object, key, json_type_boolean, &member, error))
        return FALSE;
    *value = json_object_get_boolean(member);
    return TRUE;
}

gboolean
vmb_json_get_array(VmbJson *object, const char *key, VmbJson **value, GError **error)
{
    return get(object, key, json_type_array, value, error);
}

gboolean
vmb_json_get_object(VmbJson *object, const char *key, VmbJson **value, GError **error)
{
    return get(object, key, json_type_object, value, error);
}

gboolean
vmb_json_get_string_or_null(VmbJson *object, const char *key, const char **value, GError **error)
{
    *value = NULL;
    return is_absent(object, key) || vmb_json_get_string(object, key, value, error);
}

gboolean
vmb_json_get_uint_or(VmbJson *object, const char *key, guint64 fallback, guint64 *value,
                     GError **error)
{
    *value = fallback;
    return is_absent(object, key) || vmb_json_get_uint(object, key, value, error);
}

void
vmb_json_add_string(VmbJson *object, const char *key, const char *value)
{
    if (value == NULL) {
        vmb_json_add(object, key, NULL);
        return;
    }
    /* json-c passes bytes through; a document must be valid UTF-8 to be read again. */
    g_autofree char *valid = g_utf8_make_valid(value, -1);
    vmb_json_add(object, key, json_object_new_string(valid));
}

void
vmb_json_add_uint(VmbJson *object, const char *key, guint64 value)
{
    vmb_json_add(object, key, json_object_new_uint64(value));
}

void
vmb_json_add_bool(VmbJson *object, const char *key, gboolean value)
{
    vmb_json_add(object, key, json_object_new_boolean(value));
}

void
vmb_json_add(VmbJson *object, const char *key, VmbJson *value)
{
    json_object_object_add(object, key, value);
}

char *
vmb_json_seal(VmbJson *object)
{
    const char *text = json_object_to_json_string_ext(
        object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    gsize length = strlen(text);
    /* Drop the closing "\n}". */
    g_assert(length > 2 && strcmp(text + length - 2, "\n}") == 0);
    length -= 2;
    g_autofree char *digest =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text, length);
    return g_strdup_printf("%.*s" SEAL_MIDDLE "%s" SEAL_END, (int)length, text, digest);
}

VmbJson *
vmb_json_unseal(const char *text, gsize length, GError **error)
{
    if (length <= SEAL_LENGTH) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "truncated: no digest at the end");
        return NULL;
    }
    gsize covered = length - SEAL_LENGTH;
    g_autofree char *digest =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text, covered);
    g_autofree char *end = g_strconcat(SEAL_MIDDLE, digest, SEAL_END, NULL);
    if (memcmp(text + covered, end, SEAL_LENGTH) != 0) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "the digest at its end does not match its content");
        return NULL;
    }
    return vmb_json_parse(text, length, error);
}
