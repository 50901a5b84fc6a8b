/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Folding random images into each other: always the same bytes, whatever happens in between. */
#include "image-fixture.h"
#include "image/fold.h"
#include "image/qcow2-reader.h"

#include <sys/mman.h>
#include <sys/wait.h>

/* ---- one fold of layer 1 into layer 0, or of the upper two of three ---- */

typedef struct {
    ImageFixture *fixture;
    guint child; /* index; the parent is the layer below */
    int fds[5];  /* parent's image and digests, child's, new digests */
    char *new_digests;
    VmbFoldResult result;
} Folding;

static int
open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0)
        g_error("%s: %s", path, g_strerror(errno));
    return fd;
}

static void
begin(Folding *folding, ImageFixture *fixture, guint child)
{
    const ImageLayer *above = &fixture->layers[child], *below = &fixture->layers[child - 1];
    *folding = (Folding){.fixture = fixture, .child = child};
    folding->new_digests = g_build_filename(fixture->dir, "new.digests", NULL);
    folding->fds[0] = open_file(below->path, O_RDWR);
    folding->fds[1] = open_file(below->digests_path, O_RDONLY);
    folding->fds[2] = open_file(above->path, O_RDONLY);
    folding->fds[3] = open_file(above->digests_path, O_RDONLY);
    folding->fds[4] = open_file(folding->new_digests, O_RDWR | O_CREAT | O_TRUNC);
}

static void
folding_clear(Folding *folding)
{
    for (guint i = 0; i < G_N_ELEMENTS(folding->fds); i++)
        close(folding->fds[i]);
    g_free(folding->new_digests);
    vmb_fold_result_clear(&folding->result);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Folding, folding_clear)

static gboolean
append(Folding *folding, GError **error)
{
    const ImageLayer *above = &folding->fixture->layers[folding->child];
    const ImageLayer *below = above - 1;
    VmbFoldOptions options = {
        .parent = {below->name, folding->fds[0], folding->fds[1], below->size,
                   below->summary.stored_bytes},
        .child = {above->name, folding->fds[2], folding->fds[3], above->size, 0},
        .digests_out = folding->fds[4],
    };
    return vmb_fold_append(&options, &folding->result, error);
}

/* After the switch and with the new digests the layer below is what both were: the fixture's layers become one. */
static void
adopt(Folding *folding)
{
    ImageFixture *fixture = folding->fixture;
    ImageLayer *above = &fixture->layers[folding->child], *below = above - 1;
    g_assert_cmpint(g_rename(folding->new_digests, below->digests_path), ==, 0);
    guint8 *states = g_new0(guint8, above->n_blocks);
    guint32 *seeds = g_new0(guint32, above->n_blocks);
    for (guint64 i = 0; i < above->n_blocks; i++) {
        gboolean own = above->states[i] != STATE_HOLE;
        states[i] = own                    ? above->states[i]
                    : i < below->n_blocks  ? below->states[i]
                    : folding->child == 1  ? STATE_HOLE
                                           : STATE_ZERO;
        seeds[i] = own ? above->seeds[i] : i < below->n_blocks ? below->seeds[i] : 0;
    }
    g_free(below->states);
    g_free(below->seeds);
    below->states = states;
    below->seeds = seeds;
    below->size = above->size;
    below->n_blocks = above->n_blocks;
    below->compressed |= above->compressed;
    below->summary = folding->result.summary;
    below->digests_length = folding->result.digests_size;
    memcpy(below->digests_digest, folding->result.digests_digest, VMB_DIGEST_SIZE);
    g_assert_cmpint(g_unlink(above->path), ==, 0);
    g_assert_cmpint(g_unlink(above->digests_path), ==, 0);
    g_free(above->states);
    g_free(above->seeds);
    g_free(above->name);
    g_free(above->path);
    g_free(above->digests_path);
    fixture->n_layers--;
}

static void
compare_all(const ImageFixture *fixture, guint top)
{
    image_own_compare(fixture, top);
    image_qemu_compare(fixture, top);
}

static void
switch_over(Folding *folding)
{
    g_autoptr(GError) error = NULL;
    vmb_fold_switch(folding->fds[0], folding->result.header, "image", &error);
    g_assert_no_error(error);
}

static void
clean(Folding *folding)
{
    g_autoptr(GError) error = NULL;
    vmb_fold_clean(folding->fds[0], folding->fixture->layers[folding->child].size,
                   folding->result.old_header, "image", &error);
    g_assert_no_error(error);
}

/* The child reads the same by qemu-img after each step; afterwards it is one image that is whole. */
static void
fold(ImageFixture *fixture, guint child)
{
    g_autoptr(GError) error = NULL;
    g_auto(Folding) folding = {0};
    begin(&folding, fixture, child);
    append(&folding, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(folding.result.damage->len, ==, 0);
    g_assert_cmpmem(folding.result.parent_digests_digest, VMB_DIGEST_SIZE,
                    fixture->layers[child - 1].digests_digest, VMB_DIGEST_SIZE);
    g_assert_cmpmem(folding.result.child_digests_digest, VMB_DIGEST_SIZE,
                    fixture->layers[child].digests_digest, VMB_DIGEST_SIZE);
    compare_all(fixture, child);
    image_qemu_compare(fixture, child - 1);
    switch_over(&folding);
    image_qemu_compare(fixture, child);
    adopt(&folding);
    image_qemu_compare(fixture, child - 1);
    /* What was freed is no longer needed, and cleaning twice does no harm. */
    vmb_fold_clean(folding.fds[0], fixture->layers[child - 1].size, folding.result.old_header,
                   "image", &error);
    g_assert_no_error(error);
    vmb_fold_clean(folding.fds[0], fixture->layers[child - 1].size, folding.result.old_header,
                   "image", &error);
    g_assert_no_error(error);
    compare_all(fixture, child - 1);
    image_own_check(fixture, child - 1);
    image_qemu_check(fixture, child - 1);
}

static guint32
seed_of(void)
{
    const char *text = g_getenv("VMBACKUP_TEST_SEED");
    guint32 seed = text != NULL ? (guint32)g_ascii_strtoull(text, NULL, 10) : g_random_int();
    g_test_message("VMBACKUP_TEST_SEED=%u", seed);
    printf("# VMBACKUP_TEST_SEED=%u\n", seed);
    return seed;
}

static guint64
random_size(GRand *rand, guint64 before)
{
    if (before != 0 && g_rand_int_range(rand, 0, 3) > 0)
        return before;
    guint64 size = 512 * (guint64)g_rand_int_range(rand, 1, 40000);
    return g_rand_boolean(rand) ? vmb_round_up(size, VMB_BLOCK_SIZE) : size;
}

/* As backups do: from the block on in which the smaller of two sizes ends everything is stored. */
static void
store_behind_end(ImageLayer *layer, guint64 before, GRand *rand)
{
    if (before == layer->size)
        return;
    for (guint64 i = MIN(before, layer->size) / VMB_BLOCK_SIZE; i < layer->n_blocks; i++)
        if (layer->states[i] == STATE_HOLE) {
            layer->states[i] = (guint8)g_rand_int_range(rand, STATE_ZERO, N_STATES);
            layer->seeds[i] = g_rand_int(rand);
        }
}

static void
add_random(ImageFixture *fixture, GRand *rand)
{
    guint64 before = fixture->n_layers > 0 ? fixture->layers[fixture->n_layers - 1].size : 0;
    ImageLayer *layer =
        image_add_layer(fixture, random_size(rand, before), g_rand_int_range(rand, 0, 4) > 0);
    image_randomise(layer, rand);
    if (before == 0) {
        for (guint64 i = 0; i < layer->n_blocks; i++)
            if (layer->states[i] == STATE_ZERO)
                layer->states[i] = STATE_HOLE; /* a full has no zeroes */
    } else {
        store_behind_end(layer, before, rand);
    }
    image_write(fixture, fixture->n_layers - 1);
}

/* fold() expects that layer @child - 1 keeps its name, and writes go on above it. */
static void
test_random(ImageFixture *fixture, gconstpointer data)
{
    if (!image_have_qemu())
        return;
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of());
    for (guint round = 0; round < 6; round++) {
        image_clear_layers(fixture);
        guint n = (guint)g_rand_int_range(rand, 2, 5);
        for (guint i = 0; i < n; i++)
            add_random(fixture, rand);
        while (fixture->n_layers > 1) {
            guint child = fixture->n_layers - 1;
            fold(fixture, child);
            if (g_rand_int_range(rand, 0, 4) == 0 && fixture->n_layers < IMAGE_LAYERS_MAX)
                add_random(fixture, rand);
        }
    }
}

/* Night after night a new layer is folded into the full: it does not grow without end. */
static void
test_many(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of());
    ImageLayer *full = image_add_layer(fixture, 48 * VMB_MIB, TRUE);
    for (guint64 i = 0; i < full->n_blocks; i++) {
        full->states[i] = (guint8)g_rand_int_range(rand, STATE_TEXT, N_STATES);
        full->seeds[i] = g_rand_int(rand);
    }
    image_write(fixture, 0);
    guint64 begin_size = full->summary.file_size;
    for (guint night = 0; night < 200; night++) {
        g_autoptr(GError) error = NULL;
        g_auto(Folding) folding = {0};
        ImageLayer *layer = image_add_layer(fixture, full->size, TRUE);
        for (guint i = 0; i < 12; i++) {
            guint64 block = g_rand_int(rand) % layer->n_blocks;
            layer->states[block] = (guint8)g_rand_int_range(rand, STATE_ZERO, N_STATES);
            layer->seeds[block] = g_rand_int(rand);
        }
        image_write(fixture, 1);
        begin(&folding, fixture, 1);
        append(&folding, &error);
        g_assert_no_error(error);
        switch_over(&folding);
        clean(&folding);
        adopt(&folding);
        if (night % 20 == 19)
            image_own_check(fixture, 0);
    }
    image_own_compare(fixture, 0);
    image_own_check(fixture, 0);
    g_assert_cmpuint(full->summary.file_size, <, 2 * begin_size);
    if (image_have_qemu()) {
        image_qemu_check(fixture, 0);
        image_qemu_compare(fixture, 0);
    }
}

/* ---- deaths ---- */

/* The steps run in processes of their own: which of them fails is settled at the first one. What they find
 * out is shared. */
static Folding *
shared_new(void)
{
    void *memory =
        mmap(NULL, sizeof(Folding), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_assert_true(memory != MAP_FAILED);
    return memory;
}

static void
shared_free(Folding *folding)
{
    folding->result.damage = NULL; /* another process's */
    folding_clear(folding);
    munmap(folding, sizeof(Folding));
}

static int
in_child(Folding *folding, const char *fault, void (*work)(Folding *))
{
    int status = 0;
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        if (fault != NULL)
            g_setenv("VMBACKUP_TEST_FAIL_AT", fault, TRUE);
        work(folding);
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return status;
}

static void
die_at(Folding *folding, const char *fault, void (*work)(Folding *))
{
    int status = in_child(folding, fault, work);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void
do_all(Folding *folding, void (*work)(Folding *))
{
    int status = in_child(folding, NULL, work);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void
append_all(Folding *folding)
{
    g_autoptr(GError) error = NULL;
    append(folding, &error);
    g_assert_no_error(error);
}

static void
two_layers(ImageFixture *fixture, GRand *rand)
{
    image_clear_layers(fixture);
    for (guint i = 0; i < 3; i++) {
        ImageLayer *layer = image_add_layer(fixture, 30 * VMB_MIB + 512, i != 1);
        image_randomise(layer, rand);
        if (i == 0)
            for (guint64 b = 0; b < layer->n_blocks; b++)
                if (layer->states[b] == STATE_ZERO)
                    layer->states[b] = STATE_HOLE;
        image_write(fixture, i);
    }
}

/* Killed while it appends: both read as before, and undoing leaves the file as it was. */
static void
test_killed_before(ImageFixture *fixture, gconstpointer data)
{
    static const char *const steps[] = {"fold-copied=kill", "fold-tables=kill", "fold-checked=kill"};
    if (!image_have_qemu())
        return;
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of());
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autoptr(GError) error = NULL;
        Folding *folding = shared_new();
        g_autofree char *before = NULL, *after = NULL;
        gsize length = 0, length_after = 0;
        two_layers(fixture, rand);
        const char *path = fixture->layers[1].path;
        g_assert_true(g_file_get_contents(path, &before, &length, NULL));
        begin(folding, fixture, 2);
        die_at(folding, steps[i], append_all);
        compare_all(fixture, 2);
        vmb_fold_undo(folding->fds[0], fixture->layers[1].size, length, "image", &error);
        g_assert_no_error(error);
        g_assert_true(g_file_get_contents(path, &after, &length_after, NULL));
        g_assert_cmpmem(before, length, after, length_after);
        image_own_check(fixture, 1);
        image_qemu_check(fixture, 1);
        shared_free(folding);
    }
}

/* Killed while it cleans: the new view stays, and cleaning again completes it. */
static void
test_killed_after(ImageFixture *fixture, gconstpointer data)
{
    static const char *const steps[] = {"fold-cleaned-table=kill", "fold-cleaned=kill"};
    if (!image_have_qemu())
        return;
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of());
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        Folding *folding = shared_new();
        two_layers(fixture, rand);
        begin(folding, fixture, 2);
        do_all(folding, append_all);
        switch_over(folding);
        die_at(folding, steps[i], clean);
        image_qemu_compare(fixture, 2);
        do_all(folding, clean);
        adopt(folding);
        compare_all(fixture, 1);
        image_own_check(fixture, 1);
        image_qemu_check(fixture, 1);
        shared_free(folding);
    }
}

/* ---- damage ---- */

static void
flip(const char *path, guint64 offset)
{
    g_auto(VmbFd) fd = open_file(path, O_RDWR);
    guint8 byte = 0;
    g_assert_true(vmb_fs_pread(fd, &byte, 1, offset, path, NULL));
    byte ^= 1;
    g_assert_true(vmb_fs_pwrite(fd, &byte, 1, offset, path, NULL));
}

/* A damaged block of the child is carried over as it is, and told. */
static void
test_damaged_block(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_auto(Folding) folding = {0};
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    g_autofree VmbQcow2Entry *entries = g_new0(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    gboolean any = FALSE;
    two_layers(fixture, rand);
    fixture->layers[2].states[5] = STATE_TEXT;
    image_write(fixture, 2);
    begin(&folding, fixture, 2);
    g_autoptr(VmbQcow2Reader) reader =
        vmb_qcow2_reader_open(folding.fds[2], fixture->layers[2].size, "child", &error);
    g_assert_no_error(error);
    g_assert_true(vmb_qcow2_reader_table(reader, 0, entries, &any, NULL));
    flip(fixture->layers[2].path, entries[5].host_offset + 40);
    append(&folding, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(folding.result.damage->len, ==, 1);
    g_assert_cmpuint(g_array_index(folding.result.damage, guint64, 0), ==, 5 * VMB_BLOCK_SIZE);
}

/* Every table of the child damaged in turn: an error, or nothing at all, and the parent reads as before. */
static void
test_damaged_tables(ImageFixture *fixture, gconstpointer data)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed_of());
    two_layers(fixture, rand);
    guint64 old_size = fixture->layers[1].summary.file_size;
    for (guint i = 0; i < 40; i++) {
        g_autoptr(GError) error = NULL;
        g_auto(Folding) folding = {0};
        gboolean digests = i % 4 == 3;
        const char *path = digests ? fixture->layers[2].digests_path : fixture->layers[2].path;
        guint64 length = digests ? fixture->layers[2].digests_length
                                 : fixture->layers[2].summary.file_size;
        guint64 offset = g_rand_int(rand) % length;
        flip(path, offset);
        begin(&folding, fixture, 2);
        if (!append(&folding, &error))
            g_assert_true(error->domain == VMB_ERROR);
        g_clear_error(&error);
        vmb_fold_undo(folding.fds[0], fixture->layers[1].size, old_size, "image", &error);
        g_assert_no_error(error);
        image_own_check(fixture, 1);
        flip(path, offset);
    }
    image_own_compare(fixture, 2);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    /* First, as long as no step has asked which one is to fail. */
    image_add("/fold/killed-before", test_killed_before);
    image_add("/fold/killed-after", test_killed_after);
    image_add("/fold/random", test_random);
    image_add("/fold/many", test_many);
    image_add("/fold/damaged-block", test_damaged_block);
    image_add("/fold/damaged-tables", test_damaged_tables);
    return g_test_run();
}
