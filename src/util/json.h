/* SPDX-License-Identifier: GPL-2.0-or-later */
/* json-c with autoptr, typed getters that trust nothing, and documents that carry their digest. */
#pragma once
#include <glib.h>
#include <json-c/json.h>

typedef struct json_object VmbJson;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbJson, json_object_put)

/* Parses one document of at most 64 MiB and depth 32; trailing text is an error.
 * Errors: VMB_ERROR_DAMAGE. Free with json_object_put(). */
VmbJson *vmb_json_parse(const char *text, gsize length, GError **error);

/* Getters: the member @key of @object must exist and have the type, else VMB_ERROR_DAMAGE that
 * names the key. Strings and objects are borrowed. */
gboolean vmb_json_get_string(VmbJson *object, const char *key, const char **value, GError **error);
gboolean vmb_json_get_uint(VmbJson *object, const char *key, guint64 *value, GError **error);
gboolean vmb_json_get_int(VmbJson *object, const char *key, gint64 *value, GError **error);
gboolean vmb_json_get_bool(VmbJson *object, const char *key, gboolean *value, GError **error);
gboolean vmb_json_get_array(VmbJson *object, const char *key, VmbJson **value, GError **error);
gboolean vmb_json_get_object(VmbJson *object, const char *key, VmbJson **value, GError **error);

/* The same, but an absent or null member gives NULL / @fallback and TRUE. */
gboolean vmb_json_get_string_or_null(VmbJson *object, const char *key, const char **value,
                                     GError **error);
gboolean vmb_json_get_uint_or(VmbJson *object, const char *key, guint64 fallback, guint64 *value,
                              GError **error);

/* Setters that add a member (NULL strings become JSON null). */
void vmb_json_add_string(VmbJson *object, const char *key, const char *value);
void vmb_json_add_uint(VmbJson *object, const char *key, guint64 value);
void vmb_json_add_bool(VmbJson *object, const char *key, gboolean value);
void vmb_json_add(VmbJson *object, const char *key, VmbJson *value); /* takes @value */

/* Serialises @object (not empty) so that the text ends with a digest of itself: a last member
 * "digest", the SHA-256 of all bytes before the comma in front of it. Free with g_free(). */
char *vmb_json_seal(VmbJson *object);

/* Checks the digest that vmb_json_seal() wrote, byte for byte, then parses.
 * Errors: VMB_ERROR_DAMAGE. */
VmbJson *vmb_json_unseal(const char *text, gsize length, GError **error);
