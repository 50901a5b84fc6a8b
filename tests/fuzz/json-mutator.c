/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mutations that keep a JSON document a JSON document. */
#include "json-mutator.h"
#include "fuzz.h"
#include "util/json.h"

#define MAX_PLACES 4096

/* A member or element, by the container that holds it. */
typedef struct {
    VmbJson *holder;
    const char *key; /* NULL: element number index of an array */
    gsize index;
    VmbJson *value;
} Place;

static void
collect(VmbJson *holder, GArray *places)
{
    if (json_object_is_type(holder, json_type_object)) {
        json_object_object_foreach(holder, key, value)
        {
            Place place = {holder, key, 0, value};
            if (places->len < MAX_PLACES)
                g_array_append_val(places, place);
            collect(value, places);
        }
    } else if (json_object_is_type(holder, json_type_array)) {
        for (gsize i = 0; i < json_object_array_length(holder); i++) {
            Place place = {holder, NULL, i, json_object_array_get_idx(holder, i)};
            if (places->len < MAX_PLACES)
                g_array_append_val(places, place);
            collect(place.value, places);
        }
    }
}

static VmbJson *
interesting_number(GRand *rand, VmbJson *old)
{
    static const gint64 numbers[] = {
        0, -1, 1, 2, 4096, 65535, 65536, G_MAXINT32, G_MININT64, G_MAXINT64, 1LL << 46, 1LL << 53};
    gint64 before = json_object_get_int64(old);
    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        return json_object_new_int64((gint64)((guint64)before + g_rand_int(rand) % 64 - 32));
    case 1:
        return json_object_new_uint64(g_rand_boolean(rand) ? G_MAXUINT64 : (guint64)before << 1);
    default:
        return json_object_new_int64(
            numbers[g_rand_int_range(rand, 0, (gint32)G_N_ELEMENTS(numbers))]);
    }
}

static VmbJson *
changed_text(VmbJson *old, gsize room)
{
    gsize length = (gsize)json_object_get_string_len(old);
    g_autofree char *text = g_malloc(length + room + 1);
    memcpy(text, json_object_get_string(old), length);
    length = LLVMFuzzerMutate((guint8 *)text, length, length + room);
    text[length] = '\0';
    /* Mostly valid text, so that what comes behind the parser is reached. */
    g_autofree char *valid = g_utf8_make_valid(text, (gssize)length);
    return json_object_new_string(valid);
}

static VmbJson *
other_type(GRand *rand)
{
    switch (g_rand_int_range(rand, 0, 6)) {
    case 0:
        return NULL;
    case 1:
        return json_object_new_array();
    case 2:
        return json_object_new_object();
    case 3:
        return json_object_new_boolean(g_rand_boolean(rand));
    case 4:
        return json_object_new_double(1.5);
    default:
        return json_object_new_string("");
    }
}

static VmbJson *
new_value(GRand *rand, const Place *place)
{
    if (g_rand_int_range(rand, 0, 8) == 0)
        return other_type(rand);
    if (json_object_is_type(place->value, json_type_int))
        return interesting_number(rand, place->value);
    if (json_object_is_type(place->value, json_type_string))
        return changed_text(place->value, 24);
    if (json_object_is_type(place->value, json_type_boolean))
        return json_object_new_boolean(!json_object_get_boolean(place->value));
    return other_type(rand);
}

static VmbJson *
copy_of(VmbJson *value)
{
    VmbJson *copy = NULL;
    json_object_deep_copy(value, &copy, NULL);
    return copy;
}

static void
replace(const Place *place, VmbJson *value)
{
    if (place->key == NULL) {
        json_object_array_put_idx(place->holder, place->index, value);
        return;
    }
    g_autofree char *key = g_strdup(place->key);
    json_object_object_add(place->holder, key, value);
}

static void
mutate_once(VmbJson *document, GRand *rand)
{
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(Place));
    collect(document, places);
    if (places->len == 0)
        return;
    const Place *place = &g_array_index(places, Place, g_rand_int(rand) % places->len);
    const Place *other = &g_array_index(places, Place, g_rand_int(rand) % places->len);
    gint32 what = g_rand_int_range(rand, 0, 10);
    if (what == 0 && place->key == NULL) {
        json_object_array_del_idx(place->holder, place->index, 1);
    } else if (what == 0) {
        g_autofree char *key = g_strdup(place->key);
        json_object_object_del(place->holder, key);
    } else if (what == 1) {
        replace(place, copy_of(other->value));
    } else if (what == 2 && place->key == NULL) {
        json_object_array_add(place->holder, copy_of(place->value));
    } else if (what == 2 && json_object_is_type(place->holder, json_type_object)) {
        json_object_object_add(place->holder, "unknown", copy_of(other->value));
    } else {
        replace(place, new_value(rand, place));
    }
}

gsize
fuzz_json_mutate(guint8 *data, gsize size, gsize max_size, guint seed, gsize skip)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    if (size <= skip || seed % 8 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    if (skip > 0 && seed % 8 == 1)
        data[0] = (guint8)(seed >> 8);
    g_autoptr(VmbJson) document = vmb_json_parse((const char *)data + skip, size - skip, NULL);
    if (document == NULL)
        return LLVMFuzzerMutate(data, size, max_size);
    for (gint32 n = g_rand_int_range(rand, 1, 4); n > 0; n--)
        mutate_once(document, rand);
    const char *text = json_object_to_json_string_ext(document, JSON_C_TO_STRING_PRETTY |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE);
    gsize length = strlen(text);
    if (length > max_size - skip)
        return LLVMFuzzerMutate(data, size, max_size);
    memcpy(data + skip, text, length);
    return skip + length;
}
