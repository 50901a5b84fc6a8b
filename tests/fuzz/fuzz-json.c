/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: JSON from outside, its typed getters, and the seal of a document. */
#include "fuzz.h"
#include "json-mutator.h"
#include "util/json.h"

/* Input: u8 (nothing, so that all targets of this kind look the same); the text. */

gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed);

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed)
{
    return fuzz_json_mutate(data, size, max_size, seed, 1);
}

void
fuzz_set_up(void)
{
}

/* Each getter gives a value of its type or says why not. */
static void
try_getters(VmbJson *object, const char *key)
{
    const char *string = NULL;
    guint64 number = 7;
    gint64 number_signed = 7;
    gboolean flag = 7;
    VmbJson *member = NULL;
    GError *errors[6] = {NULL};
    guint n = 0;
    gboolean got[] = {
        vmb_json_get_string(object, key, &string, &errors[0]),
        vmb_json_get_uint(object, key, &number, &errors[1]),
        vmb_json_get_int(object, key, &number_signed, &errors[2]),
        vmb_json_get_bool(object, key, &flag, &errors[3]),
        vmb_json_get_array(object, key, &member, &errors[4]),
        vmb_json_get_object(object, key, &member, &errors[5]),
    };
    for (guint i = 0; i < G_N_ELEMENTS(got); i++) {
        FUZZ_CHECK(got[i] == (errors[i] == NULL));
        if (!got[i])
            fuzz_check_error(errors[i], VMB_ERROR_DAMAGE);
        g_clear_error(&errors[i]);
        n += got[i] ? 1 : 0;
    }
    FUZZ_CHECK(n <= 2); /* a number may fit both signs */
    if (got[0])
        FUZZ_CHECK(g_utf8_validate(string, -1, NULL));
    if (got[1] && got[2])
        FUZZ_CHECK((gint64)number == number_signed && number_signed >= 0);
    if (got[2] && !got[1])
        FUZZ_CHECK(number_signed < 0);
    if (got[3])
        FUZZ_CHECK(flag == TRUE || flag == FALSE);
}

/* What was sealed is opened again, and no byte of it may change. */
static void
try_seal(VmbJson *object)
{
    g_autoptr(GError) error = NULL;
    json_object_object_del(object, "digest");
    if (json_object_object_length(object) == 0)
        return;
    g_autofree char *sealed = vmb_json_seal(object);
    gsize length = strlen(sealed);
    g_autoptr(VmbJson) opened = vmb_json_unseal(sealed, length, &error);
    if (opened == NULL) {
        /* json-c prints numbers and strings that its strict parser does not take back. */
        FUZZ_CHECK(strstr(error->message, "broken JSON") != NULL);
        return;
    }
    g_autofree char *again = NULL;
    json_object_object_del(opened, "digest");
    again = vmb_json_seal(opened);
    FUZZ_CHECK(strcmp(sealed, again) == 0);
    gsize at = g_str_hash(sealed) % length;
    sealed[at] ^= 1;
    g_autoptr(VmbJson) changed = vmb_json_unseal(sealed, length, NULL);
    FUZZ_CHECK(changed == NULL);
}

void
fuzz_one(const guint8 *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    FuzzInput input = {data, length};
    fuzz_take(&input, 1);
    g_autofree char *exact = g_memdup2(input.at, input.left);
    g_autoptr(VmbJson) unsealed = vmb_json_unseal(exact, input.left, NULL);
    g_autoptr(VmbJson) object = vmb_json_parse(exact, input.left, &error);
    FUZZ_CHECK(unsealed == NULL || object != NULL);
    if (object == NULL) {
        fuzz_check_error(error, VMB_ERROR_DAMAGE);
        return;
    }
    json_object_object_foreach(object, key, value)
    {
        (void)value;
        try_getters(object, key);
    }
    try_getters(object, "absent");
    try_seal(object);
}

void
fuzz_seeds(void)
{
    static const char *const texts[] = {
        " {\"a\":1,\"b\":-1,\"c\":18446744073709551615,\"d\":1.5e3,\"e\":null}",
        " {\"s\":\"\\u00e4\\ud83d\\ude00\\u0000x\",\"t\":true,\"n\":[[[{}]]]}",
        " {\"a\":{\"b\":[1,2,{\"c\":\"d\"}]},\"a\":2}",
        " {\"big\":-9223372036854775808,\"more\":99999999999999999999999}",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *name = g_strdup_printf("text-%u", i);
        fuzz_seed(name, texts[i], strlen(texts[i]));
    }
    g_autoptr(VmbJson) object = json_tokener_parse(texts[1]);
    g_autofree char *sealed = vmb_json_seal(object);
    fuzz_seed_document("document", ' ', ' ', sealed);
}
