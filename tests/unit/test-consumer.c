/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Records of consumers: what is written is read, and what cannot be read counts as needed. */
#include "repo-fixture.h"
#include "repo/consumer.h"

#include <locale.h>

#define CHECKPOINT "vmbackup-0011aabb-000102030405060708090a0b0c0d0e0f"

static void
test_round_trip(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbConsumer) consumer = vmb_consumer_new("off.site-1", CHECKPOINT, FIXTURE_TIME);
    g_autoptr(VmbConsumer) read = NULL;
    g_autoptr(GPtrArray) layers =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_source_layer_free);
    VmbSourceLayer *layer = g_new0(VmbSourceLayer, 1);
    layer->path = g_strdup("/images/x.qcow2");
    layer->format = g_strdup("qcow2");
    layer->inode = 77;
    g_ptr_array_add(layers, layer);
    vmb_consumer_add_disk(consumer, "target:vda", "vda", 4096, layers);
    vmb_consumer_add_disk(consumer, "serial:x", "vdb", G_GUINT64_CONSTANT(1) << 45, layers);
    g_assert_true(vmb_consumer_read(fixture->fd, "off.site-1", &read, &error));
    g_assert_null(read);
    g_assert_false(vmb_consumer_needs(fixture->fd, CHECKPOINT));
    g_assert_true(vmb_consumer_write(fixture->fd, consumer, &error));
    g_assert_no_error(error);
    g_assert_true(vmb_consumer_read(fixture->fd, "off.site-1", &read, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(read->checkpoint, ==, CHECKPOINT);
    g_assert_cmpint(read->time_ns, ==, FIXTURE_TIME);
    g_assert_cmpuint(read->disks->len, ==, 2);
    g_assert_cmpuint(vmb_consumer_find_disk(read, "serial:x")->size, ==, G_GUINT64_CONSTANT(1) << 45);
    g_assert_null(vmb_consumer_find_disk(read, "vda"));
    const VmbConsumerDisk *disk = vmb_consumer_find_disk(read, "target:vda");
    g_assert_cmpuint(disk->layers->len, ==, 1);
    g_assert_cmpuint(((VmbSourceLayer *)disk->layers->pdata[0])->inode, ==, 77);
    g_assert_true(vmb_consumer_needs(fixture->fd, CHECKPOINT));
    g_assert_false(vmb_consumer_needs(fixture->fd, "another"));
    g_autoptr(GPtrArray) names = vmb_consumer_names(fixture->fd, &error);
    g_assert_cmpuint(names->len, ==, 1);
    g_assert_cmpstr(names->pdata[0], ==, "off.site-1");
    g_assert_true(vmb_consumer_remove(fixture->fd, "off.site-1", &error));
    g_assert_true(vmb_consumer_remove(fixture->fd, "off.site-1", &error));
    g_assert_false(vmb_consumer_needs(fixture->fd, CHECKPOINT));
}

static void
test_damage(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbConsumer) consumer = vmb_consumer_new("one", CHECKPOINT, FIXTURE_TIME), read = NULL;
    g_assert_true(vmb_consumer_write(fixture->fd, consumer, &error));
    g_auto(VmbFd) dir = openat(fixture->fd, "consumers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fixture_write(dir, "one.json", "{\"format\":1}");
    g_assert_false(vmb_consumer_read(fixture->fd, "one", &read, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    g_assert_true(vmb_consumer_needs(fixture->fd, "anything"));
}

static void
test_names(void)
{
    static const char *const good[] = {"a", "A-b_c.9", "0123456789012345678901234567890123456789012345678901234567890123"};
    static const char *const bad[] = {"", ".a", "-a", "a/b", "..", "a b", "\303\244",
                                      "01234567890123456789012345678901234567890123456789012345678901234"};
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++)
        g_assert_true(vmb_consumer_is_name(good[i]));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(vmb_consumer_is_name(bad[i]));
}

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    g_test_init(&argc, &argv, NULL);
    fixture_add("/consumer/round-trip", test_round_trip);
    fixture_add("/consumer/damage", test_damage);
    g_test_add_func("/consumer/names", test_names);
    return g_test_run();
}
