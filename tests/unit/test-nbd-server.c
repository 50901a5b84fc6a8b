/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The description of a chain that is served: nothing is left to the images' headers. */
#include "nbd/server.h"

#include <string.h>

static void
expect(const VmbServeLayer *layers, guint n, const char *text)
{
    g_autofree char *chain = vmb_nbd_server_chain(layers, n);
    g_assert_cmpstr(chain, ==, text);
}

static void
test_chain(void)
{
    const VmbServeLayer layers[] = {{"/a,b/\"x\"=1", "qcow2", NULL},
                                    {"/c", "qcow2", "/c.data"},
                                    {"/d", "raw", NULL}};
    expect(&layers[2], 1,
           "json:{\"driver\":\"raw\",\"force-share\":true,"
           "\"file\":{\"driver\":\"file\",\"filename\":\"\\/d\"}}");
    expect(&layers[1], 1,
           "json:{\"driver\":\"qcow2\",\"force-share\":true,"
           "\"file\":{\"driver\":\"file\",\"filename\":\"\\/c\"},"
           "\"data-file\":{\"driver\":\"file\",\"filename\":\"\\/c.data\"},\"backing\":null}");
    expect(layers, 3,
           "json:{\"driver\":\"qcow2\",\"force-share\":true,"
           "\"file\":{\"driver\":\"file\",\"filename\":\"\\/a,b\\/\\\"x\\\"=1\"},"
           "\"backing\":{\"driver\":\"qcow2\",\"force-share\":true,"
           "\"file\":{\"driver\":\"file\",\"filename\":\"\\/c\"},"
           "\"data-file\":{\"driver\":\"file\",\"filename\":\"\\/c.data\"},"
           "\"backing\":{\"driver\":\"raw\",\"force-share\":true,"
           "\"file\":{\"driver\":\"file\",\"filename\":\"\\/d\"}}}}");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-server/chain", test_chain);
    return g_test_run();
}
