/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A disk with a bitmap, served by qemu-nbd, on a chain of odd layers: increments and synthetic fulls hold what
 * the disk holds, also where the chain is damaged. */
#include "image-fixture.h"
#include "job/disk-backup.h"
#include "nbd/server.h"

#include <unistd.h>

#define ROUNDS 12
#define MAX_UNITS (60 * 128) /* of 512 bytes, of a disk */
#define BITMAP "b0"

typedef struct {
    ImageFixture *fixture;
    GRand *random;
    guint top;       /* the parent's layer */
    guint32 cluster; /* of the disk's image */
    guint64 size;    /* of the disk now */
    gboolean shrank;
    char *raw;       /* what it holds now */
    guint n_damaged; /* blocks that the parent shows */
} World;

static void
run(const ImageFixture *fixture, const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL, *err = NULL;
    int status = 0;
    g_spawn_sync(fixture->dir, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err,
                 &status, &error);
    g_assert_no_error(error);
    if (!g_spawn_check_wait_status(status, &error))
        g_error("%s: %s\n%s%s", argv[0], error->message, out, err);
}

static guint64
random_size(GRand *random)
{
    return (guint64)g_rand_int_range(random, 1, MAX_UNITS) * VMB_QCOW2_SECTOR;
}

static void
make_chain(World *world)
{
    guint n = (guint)g_rand_int_range(world->random, 1, 5);
    for (guint i = 0; i < n; i++) {
        guint64 size = i > 0 && g_rand_boolean(world->random) ? world->fixture->layers[i - 1].size
                                                              : random_size(world->random);
        ImageLayer *layer = image_add_layer(world->fixture, size, g_rand_boolean(world->random));
        image_randomise(layer, world->random);
        image_write(world->fixture, i);
    }
    world->top = n - 1;
    world->size = world->fixture->layers[n - 1].size;
}

static void
resize(World *world, guint64 size)
{
    g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT, size);
    const char *shrink[] = {"qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", "disk.qcow2",
                            text, NULL};
    const char *grow[] = {"qemu-img", "resize", "-q", "-f", "qcow2", "disk.qcow2", text, NULL};
    run(world->fixture, size < world->size ? shrink : grow);
    world->shrank |= size < world->size;
    world->size = size;
}

static void
change(World *world)
{
    static const char *const kinds[] = {"write -q -P 0x5a", "write -q -z", "write -q -z -u",
                                        "discard -q"};
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    for (const char *const *word = (const char *const[]){"qemu-io", "-d", "unmap", "-f", "qcow2",
                                                         NULL};
         *word != NULL; word++)
        g_ptr_array_add(argv, g_strdup(*word));
    gint32 units = (gint32)(world->size / VMB_QCOW2_SECTOR);
    for (int n = g_rand_int_range(world->random, 0, 7); n > 0; n--) {
        gint32 from = g_rand_int_range(world->random, 0, units);
        gint32 length = g_rand_int_range(world->random, 1, MIN(units - from, 400) + 1);
        g_ptr_array_add(argv, g_strdup("-c"));
        g_ptr_array_add(argv, g_strdup_printf("%s %d %d",
                                              kinds[g_rand_int_range(world->random, 0, 4)],
                                              from * 512, length * 512));
    }
    g_ptr_array_add(argv, g_strdup("disk.qcow2"));
    g_ptr_array_add(argv, NULL);
    if (argv->len > 7)
        run(world->fixture, (const char *const *)argv->pdata);
}

/* The disk becomes what the chain holds, gets a bitmap, and then changes. */
static void
make_disk(World *world)
{
    static const guint32 clusters[] = {65536, 65536, 4096, 2097152};
    world->cluster = clusters[g_rand_int_range(world->random, 0, G_N_ELEMENTS(clusters))];
    g_autofree char *cluster = g_strdup_printf("cluster_size=%u", world->cluster);
    g_free(image_qemu(world->fixture, "convert", "-f", "qcow2", "-O", "qcow2", "-o", cluster,
                      world->fixture->layers[world->top].name, "disk.qcow2", NULL));
    g_free(image_qemu(world->fixture, "bitmap", "--add", "-g", "64k", "-f", "qcow2", "disk.qcow2",
                      BITMAP, NULL));
    change(world);
    for (int n = g_rand_int_range(world->random, -2, 3); n > 0; n--) {
        resize(world, random_size(world->random));
        change(world);
    }
    world->raw = g_build_filename(world->fixture->dir, "disk.raw", NULL);
    g_free(image_qemu(world->fixture, "convert", "-f", "qcow2", "-O", "raw", "disk.qcow2",
                      "disk.raw", NULL));
}

/* Flips a bit of some blocks that the chain shows. */
static GArray *
damage_chain(World *world, guint n)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) parent = {0};
    const VmbChainWindow *window = NULL;
    GArray *damage = g_array_new(FALSE, FALSE, sizeof(VmbDamagedRange));
    image_chain_open(&parent, world->fixture, world->top, world->top + 1, FALSE, &error);
    g_assert_no_error(error);
    vmb_chain_map(parent.chain, 0, &window, &error);
    g_assert_no_error(error);
    for (guint b = (guint)g_rand_int_range(world->random, 0, 9); b < window->n_blocks && n > 0;
         b += (guint)g_rand_int_range(world->random, 1, 9)) {
        const VmbBlock *block = &window->blocks[b];
        guint8 byte = 0;
        if (block->kind < VMB_BLOCK_PLAIN)
            continue;
        g_auto(VmbFd) fd =
            open(world->fixture->layers[world->top - block->layer].path, O_RDWR | O_CLOEXEC);
        off_t at = (off_t)block->host_offset + 8;
        g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
        byte ^= 0x10;
        g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
        VmbDamagedRange range = {block->layer, (guint64)b * VMB_BLOCK_SIZE, VMB_BLOCK_SIZE};
        g_array_append_val(damage, range);
        n--;
    }
    return damage;
}

/* ---- the backup ---- */

typedef struct {
    ImageChain parent;
    char *socket;
    VmbNbdServer *server;
    VmbDiskBackup backup;
} Job;

static void
job_clear(Job *job)
{
    vmb_nbd_server_free(job->server);
    image_chain_clear(&job->parent);
    g_free(job->socket);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Job, job_clear)

static void
job_open(Job *job, const World *world, gboolean synthetic, GArray *damaged, GArray *found)
{
    g_autoptr(GError) error = NULL;
    const ImageFixture *fixture = world->fixture;
    g_autofree char *path = g_build_filename(fixture->dir, "disk.qcow2", NULL);
    VmbServeLayer layer = {path, "qcow2", NULL};
    g_autofree char *chain = vmb_nbd_server_chain(&layer, 1);
    job->socket = g_build_filename(fixture->dir, "nbd.sock", NULL);
    job->server = vmb_nbd_server_start(chain, "vda", BITMAP, job->socket, &error);
    g_assert_no_error(error);
    image_chain_open(&job->parent, fixture, world->top, world->top + 1, synthetic, &error);
    g_assert_no_error(error);
    job->backup = (VmbDiskBackup){.label = "web01 disk vda",
                                  .socket = job->socket,
                                  .export_name = "vda",
                                  .dirty_context = "qemu:dirty-bitmap:" BITMAP,
                                  .parent = job->parent.chain,
                                  .synthetic = synthetic,
                                  .damaged = damaged,
                                  .found = found,
                                  .parent_size = fixture->layers[world->top].size,
                                  .unit = world->cluster == VMB_BLOCK_SIZE
                                              ? 0
                                              : MAX(world->cluster, VMB_BLOCK_SIZE),
                                  .size = world->size,
                                  .compress_level = g_rand_boolean(world->random)
                                                        ? VMB_COMPRESS_DEFAULT
                                                        : VMB_COMPRESS_NONE};
    for (guint i = 0; synthetic && i <= world->top; i++)
        job->backup.parent_frames |= fixture->layers[i].compressed;
    if (!synthetic)
        job->backup.backing_file = fixture->layers[world->top].name;
}

/* What differs must be damaged: the bitmap is good, unless the disk shrank. */
static void
explain(const World *world, const VmbDiskBackup *backup, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_auto(ImageChain) chain = {0};
    guint found = backup->found->len;
    image_chain_open(&chain, world->fixture, world->top, world->top + 1, TRUE, &local);
    vmb_damage_look(chain.chain, backup->differing, backup->found, &local);
    g_assert_no_error(local);
    if (world->shrank && backup->found->len - found < backup->differing->len)
        return;
    g_assert_cmpuint(backup->found->len - found, ==, backup->differing->len);
    g_clear_error(error);
    vmb_error_set(error, VMB_ERROR_DAMAGE, "damaged without a sign");
}

/* Into a new layer, which is @result. */
static gboolean
job_run(Job *job, const World *world, ImageLayer *result, VmbManifestDisk *entry, GError **error)
{
    guint64 contradicted = 0;
    g_auto(VmbFd) image = open(result->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_auto(VmbFd) digests =
        open(result->digests_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(GArray) differing = g_array_new(FALSE, FALSE, sizeof(guint64));
    job->backup.differing = differing;
    job->backup.image_fd = image;
    job->backup.digests_fd = digests;
    job->backup.cancel = cancel;
    if (vmb_disk_backup(&job->backup, entry, &contradicted, error))
        return TRUE;
    if (differing->len > 0)
        explain(world, &job->backup, error);
    return FALSE;
}

/* ---- what comes out ---- */

typedef struct {
    int raw;
    guint64 data_blocks;
} Reading;

static void
compare_chunk(const VmbChunk *chunk, gpointer user)
{
    Reading *reading = user;
    g_autofree guint8 *expected = g_malloc0(VMB_CHUNK_SIZE);
    g_assert_cmpint(pread(reading->raw, expected, VMB_CHUNK_SIZE, (off_t)chunk->offset), >, 0);
    g_assert_cmpmem(expected, chunk->length, chunk->data, chunk->length);
    for (guint i = 0; i < chunk->n_blocks; i++)
        if (chunk->blocks[i].kind >= VMB_BLOCK_PLAIN && chunk->blocks[i].layer == 0) {
            reading->data_blocks++;
            g_assert_false(vmb_zero_detect(chunk->data + i * VMB_BLOCK_SIZE, VMB_BLOCK_SIZE));
        }
}

static void
check_structure(const ImageLayer *layer, const VmbManifestDisk *entry)
{
    g_autoptr(GError) error = NULL;
    guint8 head[VMB_DIGEST_SIZE], tables[VMB_DIGEST_SIZE];
    g_auto(VmbFd) fd = open(layer->path, O_RDONLY | O_CLOEXEC);
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(fd, layer->size, layer->name, &error);
    g_assert_no_error(error);
    vmb_qcow2_reader_check(reader, head, tables, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(head, sizeof head, entry->head_digest, sizeof head);
    g_assert_cmpmem(tables, sizeof tables, entry->tables_digest, sizeof tables);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, (gint64)entry->image_size);
}

/* The newest layer, on @n_below others, is what the disk holds: by qemu-img and by our own reader. */
static void
check_result(World *world, const VmbManifestDisk *entry, guint n_below)
{
    g_autoptr(GError) error = NULL;
    g_auto(ImageChain) chain = {0};
    guint newest = world->fixture->n_layers - 1;
    const ImageLayer *layer = &world->fixture->layers[newest];
    Reading reading = {open(world->raw, O_RDONLY | O_CLOEXEC), 0};
    g_free(image_qemu(world->fixture, "compare", "-q", "-f", "qcow2", "-F", "raw", layer->name,
                      "disk.raw", NULL));
    image_qemu_check(world->fixture, newest);
    check_structure(layer, entry);
    image_chain_open(&chain, world->fixture, newest, n_below + 1, TRUE, &error);
    g_assert_no_error(error);
    image_chain_read(&chain, NULL, compare_chunk, &reading, TRUE, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(reading.data_blocks, ==, entry->data_blocks);
    close(reading.raw);
}

static ImageLayer *
add_result(World *world)
{
    return image_add_layer(world->fixture, world->size, TRUE);
}

static void
drop_result(World *world)
{
    ImageLayer *layer = &world->fixture->layers[--world->fixture->n_layers];
    (void)g_unlink(layer->path);
    (void)g_unlink(layer->digests_path);
    g_free(layer->states);
    g_free(layer->seeds);
    g_free(layer->name);
    g_free(layer->path);
    g_free(layer->digests_path);
}

/* A bitmap that is contradicted by a disk that shrank is no failure: the disk would be compared. */
static gboolean
is_contradicted(const World *world, const GError *error)
{
    return world->shrank && g_error_matches(error, VMB_ERROR, VMB_ERROR_NO_INCREMENTAL);
}

static gboolean
is_known(const GArray *damage, const VmbDamagedRange *range)
{
    VmbBlock block = {.kind = VMB_BLOCK_PLAIN, .layer = range->layer};
    return vmb_damage_covers(damage, range->offset, &block);
}

/* An increment, and once more if it came upon damage that it was not told of. */
static void
check_incremental(World *world, GArray *damage, gboolean known)
{
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(VmbDamagedRange));
    for (int attempt = 0;; attempt++) {
        g_autoptr(GError) error = NULL;
        g_auto(Job) job = {0};
        g_autoptr(VmbManifestDisk) entry = vmb_manifest_disk_new();
        guint before = found->len;
        job_open(&job, world, FALSE, known ? damage : found, found);
        gboolean ok = job_run(&job, world, add_result(world), entry, &error);
        if (ok) {
            check_result(world, entry, world->top + 1);
            g_assert_cmpuint(job.backup.copied, ==, 0);
        } else if (!is_contradicted(world, error)) {
            g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
            g_assert_cmpint(attempt, ==, 0);
            g_assert_false(known);
            g_assert_cmpuint(found->len, >, before);
        }
        drop_result(world);
        if (ok || is_contradicted(world, error))
            break;
    }
    for (guint i = 0; i < found->len; i++)
        g_assert_true(is_known(damage, &g_array_index(found, VmbDamagedRange, i)));
}

/* A full from the same chain and bitmap: nothing of it is below. */
static void
check_synthetic(World *world, GArray *damage, gboolean known)
{
    g_autoptr(GError) error = NULL;
    g_auto(Job) job = {0};
    g_autoptr(VmbManifestDisk) entry = vmb_manifest_disk_new();
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(VmbDamagedRange));
    job_open(&job, world, TRUE, known ? damage : NULL, found);
    if (job_run(&job, world, add_result(world), entry, &error)) {
        check_result(world, entry, 0);
        g_assert_cmpuint(entry->zero_blocks, ==, 0);
        g_assert_cmpuint(job.backup.healed, <=, damage->len);
        g_assert_cmpuint(job.backup.read + job.backup.copied, <=, world->size);
    } else if (!is_contradicted(world, error)) {
        g_assert_no_error(error);
    }
    for (guint i = 0; i < found->len; i++) {
        g_assert_false(known);
        g_assert_true(is_known(damage, &g_array_index(found, VmbDamagedRange, i)));
    }
    drop_result(world);
}

static void
one_round(ImageFixture *fixture, GRand *random, guint n_damaged)
{
    World world = {.fixture = fixture, .random = random};
    make_chain(&world);
    make_disk(&world);
    g_autoptr(GArray) damage = damage_chain(&world, n_damaged);
    gboolean known = g_rand_boolean(random);
    check_incremental(&world, damage, known);
    check_synthetic(&world, damage, known);
    image_clear_layers(fixture);
    g_free(world.raw);
}

static void
rounds(ImageFixture *fixture, gboolean damaged)
{
    guint32 seed = g_test_rand_int() ^ g_random_int();
    g_test_message("seed %u", seed);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    if (!image_have_qemu())
        return;
    for (int round = 0; round < ROUNDS; round++)
        one_round(fixture, random, damaged ? (guint)g_rand_int_range(random, 1, 5) : 0);
}

static void
test_whole_chain(ImageFixture *fixture, gconstpointer unused)
{
    rounds(fixture, FALSE);
}

static void
test_damaged_chain(ImageFixture *fixture, gconstpointer unused)
{
    rounds(fixture, TRUE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    image_add("/disk-backup/whole-chain", test_whole_chain);
    image_add("/disk-backup/damaged-chain", test_damaged_chain);
    return g_test_run();
}
