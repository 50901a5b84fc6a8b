/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON that is trusted only after checks, and documents that carry their digest. */
#include "util/error.h"
#include "util/json.h"

#include <string.h>

static VmbJson *
parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    VmbJson *object = vmb_json_parse(text, strlen(text), &error);
    g_assert_no_error(error);
    return object;
}

static void
refuse(const char *text, gsize length)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_json_parse(text, length, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

static void
test_parse(void)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "[]",
                                      "7",
                                      "null",
                                      "{",
                                      "{}x",
                                      "{} {}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{\"a\":01}",
                                      "{\"a\":tru}",
                                      "{\"a\":1}}",
                                      "{a:1}",
                                      "{\"a\":+1}",
                                      "/* */ {}",
                                      "{\"a\":\"\377\"}",
                                      "{\"a\":\"\355\277\275\"}", /* an encoded surrogate */
                                      "{\"a\":\"\355\240\275\355\270\200\"}"};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        refuse(bad[i], strlen(bad[i]));
    g_autoptr(VmbJson) good = parse("{\"a\":[1,2,{\"b\":null}]}\n \t\n");
    g_assert_nonnull(good);
    refuse("{\"a\":1}\0", 8); /* a NUL byte behind it */
}

/* Nesting is limited, so that no document exhausts the stack. */
static void
test_depth(void)
{
    g_autoptr(GString) text = g_string_new("{\"a\":");
    for (int i = 0; i < 10000; i++)
        g_string_append_c(text, '[');
    refuse(text->str, text->len);
    g_string_assign(text, "{\"a\":");
    for (int i = 0; i < 20; i++)
        g_string_append_c(text, '[');
    for (int i = 0; i < 20; i++)
        g_string_append_c(text, ']');
    g_string_append_c(text, '}');
    g_autoptr(VmbJson) good = parse(text->str);
    g_assert_nonnull(good);
}

static void
test_getters(void)
{
    g_autoptr(VmbJson) object =
        parse("{\"s\":\"text\",\"u\":18446744073709551615,\"z\":0,\"b\":true,\"a\":[1],"
              "\"o\":{\"k\":\"v\"},\"n\":null}");
    const char *s = NULL;
    guint64 u = 1;
    gboolean b = FALSE;
    VmbJson *member = NULL;
    g_assert_true(vmb_json_get_string(object, "s", &s, NULL));
    g_assert_cmpstr(s, ==, "text");
    g_assert_true(vmb_json_get_uint(object, "u", &u, NULL));
    g_assert_cmpuint(u, ==, G_MAXUINT64);
    g_assert_true(vmb_json_get_uint(object, "z", &u, NULL));
    g_assert_cmpuint(u, ==, 0);
    g_assert_true(vmb_json_get_bool(object, "b", &b, NULL));
    g_assert_true(b);
    g_assert_true(vmb_json_get_array(object, "a", &member, NULL));
    g_assert_cmpuint(json_object_array_length(member), ==, 1);
    g_assert_true(vmb_json_get_object(object, "o", &member, NULL));
    g_assert_true(vmb_json_get_string(member, "k", &s, NULL));
    g_assert_true(vmb_json_get_string_or_null(object, "n", &s, NULL));
    g_assert_null(s);
    g_assert_true(vmb_json_get_string_or_null(object, "absent", &s, NULL));
    g_assert_null(s);
    g_assert_true(vmb_json_get_uint_or(object, "absent", 42, &u, NULL));
    g_assert_cmpuint(u, ==, 42);
}

static gboolean
get(gsize which, VmbJson *object, GError **error)
{
    const char *s;
    guint64 u;
    gboolean b;
    VmbJson *member;
    switch (which) {
    case 0:
        return vmb_json_get_string(object, "key", &s, error);
    case 1:
        return vmb_json_get_uint(object, "key", &u, error);
    case 2:
        return vmb_json_get_bool(object, "key", &b, error);
    case 3:
        return vmb_json_get_array(object, "key", &member, error);
    default:
        return vmb_json_get_object(object, "key", &member, error);
    }
}

/* Each getter takes just the value of its own number, and refuses each other type and absence, with
 * a message that names the member. */
static void
test_wrong_types(void)
{
    static const char *const values[] = {"\"7\"", "7", "true", "[7]", "{\"k\":7}", "null", "7.5"};
    for (gsize g = 0; g < 5; g++)
        for (gsize v = 0; v <= G_N_ELEMENTS(values); v++) {
            g_autoptr(GError) error = NULL;
            gboolean absent = v == G_N_ELEMENTS(values);
            g_autofree char *text =
                absent ? g_strdup("{\"x\":1}") : g_strdup_printf("{\"key\":%s}", values[v]);
            g_autoptr(VmbJson) object = parse(text);
            gboolean ok = get(g, object, &error);
            g_assert_cmpint(ok, ==, v == g);
            if (ok)
                continue;
            g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
            g_assert_nonnull(strstr(error->message, "'key'"));
        }
}

static void
test_tricky_values(void)
{
    g_autoptr(VmbJson) object = parse("{\"negative\":-1,\"nul\":\"a\\u0000b\",\"number\":7}");
    guint64 u;
    const char *s;
    g_assert_false(vmb_json_get_uint(object, "negative", &u, NULL));
    g_assert_false(vmb_json_get_uint_or(object, "negative", 1, &u, NULL));
    g_assert_false(vmb_json_get_string(object, "nul", &s, NULL));
    g_assert_false(vmb_json_get_string_or_null(object, "number", &s, NULL));
    /* What does not fit becomes the largest number, which no length or offset passes for. */
    g_autoptr(VmbJson) big = parse("{\"number\":18446744073709551616}");
    g_assert_true(vmb_json_get_uint(big, "number", &u, NULL));
    g_assert_cmpuint(u, ==, G_MAXUINT64);
}

static VmbJson *
sample(void)
{
    VmbJson *object = json_object_new_object();
    VmbJson *list = json_object_new_array();
    VmbJson *inner = json_object_new_object();
    vmb_json_add_uint(object, "sequence", G_MAXUINT64);
    vmb_json_add_string(object, "name", "web\"01\\/\n\342\202\254");
    vmb_json_add_string(object, "bytes", "not \377 UTF-8");
    vmb_json_add_string(object, "parent", NULL);
    vmb_json_add_bool(object, "protected", FALSE);
    vmb_json_add_string(inner, "target", "vda");
    json_object_array_add(list, inner);
    vmb_json_add(object, "disks", list);
    return object;
}

static void
test_seal(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJson) object = sample();
    g_autofree char *text = vmb_json_seal(object);
    g_autoptr(VmbJson) back = vmb_json_unseal(text, strlen(text), &error);
    g_assert_no_error(error);
    const char *s = NULL;
    guint64 u = 0;
    g_assert_true(vmb_json_get_uint(back, "sequence", &u, NULL));
    g_assert_cmpuint(u, ==, G_MAXUINT64);
    g_assert_true(vmb_json_get_string(back, "name", &s, NULL));
    g_assert_cmpstr(s, ==, "web\"01\\/\n\342\202\254");
    g_assert_true(vmb_json_get_string(back, "digest", &s, NULL));
    g_assert_cmpuint(strlen(s), ==, strlen("sha256:") + 64);
    g_assert_true(g_str_has_suffix(text, "\"\n}\n"));
}

static void
refuse_sealed(const char *text, gsize length)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_json_unseal(text, length, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
}

/* Each bit of each byte: content, white space, the digest itself, the end. */
static void
test_flip(void)
{
    g_autoptr(VmbJson) object = sample();
    g_autofree char *text = vmb_json_seal(object);
    gsize length = strlen(text);
    for (gsize i = 0; i < length; i++)
        for (int bit = 0; bit < 8; bit++) {
            text[i] ^= (char)(1 << bit);
            refuse_sealed(text, length);
            text[i] ^= (char)(1 << bit);
        }
    g_autoptr(VmbJson) good = vmb_json_unseal(text, length, NULL);
    g_assert_nonnull(good);
}

static void
test_cut_and_grown(void)
{
    g_autoptr(VmbJson) object = sample();
    g_autofree char *text = vmb_json_seal(object);
    gsize length = strlen(text);
    for (gsize i = 0; i < length; i++) {
        g_autofree char *cut = g_memdup2(text, MAX(i, 1)); /* a sanitizer sees a read beyond */
        refuse_sealed(cut, i);
        g_autofree char *lost = g_strdup_printf("%.*s%s", (int)i, text, text + i + 1);
        refuse_sealed(lost, length - 1);
        g_autofree char *more = g_strdup_printf("%.*s %s", (int)i, text, text + i);
        refuse_sealed(more, length + 1);
    }
    g_autofree char *twice = g_strconcat(text, text, NULL);
    refuse_sealed(twice, 2 * length);
    g_autofree char *padded = g_strconcat(text, "\n", NULL);
    refuse_sealed(padded, length + 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/parse", test_parse);
    g_test_add_func("/json/depth", test_depth);
    g_test_add_func("/json/getters", test_getters);
    g_test_add_func("/json/wrong-types", test_wrong_types);
    g_test_add_func("/json/tricky-values", test_tricky_values);
    g_test_add_func("/json/seal", test_seal);
    g_test_add_func("/json/flip", test_flip);
    g_test_add_func("/json/cut-and-grown", test_cut_and_grown);
    return g_test_run();
}
