/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Puts restore points with real images into a repository, for tests that need no libvirt:
 * make-points REPO DOMAIN UUID DOMAIN-XML N [SECONDS [VDB [EVERY]]] makes N points, a full and increments
 * on it, so many SECONDS apart (1); the disk vdb is only in the first VDB of them (all), and each EVERYth is a
 * full again. */
#include "../unit/image-fixture.h"
#include "../unit/repo-fixture.h"

#define MAX_POINTS IMAGE_LAYERS_MAX

typedef struct {
    const char *target;
    guint64 size;
    gboolean compressed;
    guint cycle;         /* how many fulls there were before */
    ImageFixture images; /* one layer per point since the last full */
} Disk;

static Disk disks[] = {
    {"vda", 40 * VMB_BLOCK_SIZE + 512, TRUE},
    {"vdb", 3 * VMB_BLOCK_SIZE, FALSE},
};

static gint64 seconds = 1;

static char *
id_of(guint n)
{
    return vmb_layout_point_id(FIXTURE_TIME + (gint64)n * seconds * FIXTURE_SECOND, 0);
}

/* The layer's files are those of the staged point; its name is what the header of the next one
 * says. */
static ImageLayer *
add_layer(Disk *disk, const char *staging, const char *id)
{
    g_autofree char *image = vmb_layout_image(disk->target);
    g_autofree char *digests = vmb_layout_digests(disk->target);
    ImageLayer *layer = image_add_layer(&disk->images, disk->size, disk->compressed);
    g_autoptr(GRand) rand = g_rand_new_with_seed(disk->images.n_layers +
                                                MAX_POINTS * disk->cycle + disk->target[2]);
    image_randomise(layer, rand);
    layer->states[0] = STATE_TEXT; /* the tests damage and look at the first block */
    g_free(layer->name);
    g_free(layer->path);
    g_free(layer->digests_path);
    layer->name = vmb_layout_backing_file(id, image);
    layer->path = g_build_filename(staging, image, NULL);
    layer->digests_path = g_build_filename(staging, digests, NULL);
    return layer;
}

static void
add_disk(VmbManifest *manifest, Disk *disk, const char *staging, guint n)
{
    const ImageLayer *layer = add_layer(disk, staging, manifest->id);
    image_write(&disk->images, disk->images.n_layers - 1);
    VmbManifestDisk *entry = fixture_disk(disk->target, n, disk->images.n_layers > 1 ? n - 1 : 0);
    if (entry->parent != NULL) {
        g_free(entry->parent);
        entry->parent = id_of(n - 1);
    }
    entry->size = disk->size;
    entry->compressed = disk->compressed;
    entry->image_size = layer->summary.file_size;
    entry->data_blocks = layer->summary.data_blocks;
    entry->zero_blocks = layer->summary.zero_blocks;
    entry->stored_bytes = layer->summary.stored_bytes;
    memcpy(entry->head_digest, layer->summary.head_digest, VMB_DIGEST_SIZE);
    memcpy(entry->tables_digest, layer->summary.tables_digest, VMB_DIGEST_SIZE);
    entry->digests_size = layer->digests_length;
    memcpy(entry->digests_digest, layer->digests_digest, VMB_DIGEST_SIZE);
    fixture_add_disk(manifest, entry);
}

static void
add_rest(VmbManifest *manifest)
{
    VmbSkippedDisk *skipped = g_new0(VmbSkippedDisk, 1);
    skipped->target = g_strdup("sda");
    skipped->reason = VMB_REASON_CDROM;
    g_ptr_array_add(manifest->skipped, skipped);
    VmbReason *reason = g_new0(VmbReason, 1);
    reason->code = VMB_REASON_RESIZED;
    reason->disk = g_strdup("vda");
    reason->message = g_strdup("a message with \033[31mcolour\033[0m");
    g_ptr_array_add(manifest->reasons, reason);
    manifest->guest = json_object_new_object();
    vmb_json_add_string(manifest->guest, "hostname", "guest\033]0;title\007");
    VmbJson *list = json_object_new_array(), *entry = json_object_new_object();
    vmb_json_add_string(entry, "mountpoint", "/srv\033[0m");
    vmb_json_add_string(entry, "type", "ext4");
    vmb_json_add_uint(entry, "disks", 7); /* not what is expected */
    json_object_array_add(list, entry);
    json_object_array_add(list, json_object_new_string("nonsense"));
    vmb_json_add(manifest->guest, "filesystems", list);
}

static void
make_point(VmbRepository *repository, VmbRepoDomain *domain, char **argv, guint n, gsize n_disks)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbManifest) manifest = fixture_manifest(argv[2], argv[3], n);
    g_autofree char *staging =
        g_strdup_printf("/proc/self/fd/%d/" VMB_LAYOUT_STAGING, vmb_repo_domain_fd(domain));
    g_autofree char *xml = NULL;
    gsize length = 0;
    VmbPublished published = VMB_UNPUBLISHED;
    g_free(manifest->id);
    manifest->id = id_of(n);
    g_free(manifest->repository);
    manifest->repository = g_strdup(vmb_repository_id(repository));
    manifest->time_ns = FIXTURE_TIME + (gint64)n * seconds * FIXTURE_SECOND + 17;
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_assert_no_error(error);
    vmb_repo_domain_next_sequence(domain, &manifest->sequence, &error);
    g_assert_no_error(error);
    for (gsize i = 0; i < n_disks; i++)
        add_disk(manifest, &disks[i], staging, n);
    add_rest(manifest);
    g_file_get_contents(argv[4], &xml, &length, &error);
    g_assert_no_error(error);
    vmb_transaction_add_file(transaction, manifest, "domain.xml", "inactive-xml", NULL, xml, length,
                             &error);
    g_assert_no_error(error);
    vmb_transaction_add_file(transaction, manifest, "nvram.fd", "nvram", "/nvram/x.fd", "vars", 4,
                             &error);
    g_assert_no_error(error);
    vmb_transaction_publish(transaction, manifest, &published, &error);
    g_assert_no_error(error);
    g_assert_cmpint(published, ==, VMB_DURABLE);
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(argc, >=, 6);
    guint n = (guint)atoi(argv[5]);
    guint every = argc > 8 ? (guint)atoi(argv[8]) : n;
    g_assert_cmpuint(every, <=, MAX_POINTS);
    seconds = argc > 6 ? atoi(argv[6]) : 1;
    guint with_vdb = argc > 7 ? (guint)atoi(argv[7]) : n;
    g_autoptr(VmbRepository) repository = vmb_repository_open(argv[1], &error);
    g_assert_no_error(error);
    g_autoptr(VmbRepoDomain) domain = vmb_repo_domain_open(repository, argv[3], TRUE, &error);
    g_assert_no_error(error);
    for (guint i = 1; i <= n; i++) {
        for (gsize d = 0; (i - 1) % every == 0 && d < G_N_ELEMENTS(disks); d++) {
            image_clear_layers(&disks[d].images);
            disks[d].cycle += i > 1 ? 1 : 0;
        }
        make_point(repository, domain, argv, i, i <= with_vdb ? 2 : 1);
    }
    return 0;
}
