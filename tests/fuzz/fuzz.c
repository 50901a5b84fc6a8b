/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of a fuzz target that is the same in all: entry points of libFuzzer, files, seals. */
#include "fuzz.h"
#include "util/log.h"

#include <fcntl.h>
#include <locale.h>
#include <sys/mman.h>

#define SEEDS_OPTION "--seeds="

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const guint8 *data, gsize length);

static const char *seeds_dir;
static char *private_dir;

static void
remove_directory(void)
{
    vmb_fs_remove_tree(AT_FDCWD, private_dir, NULL);
}

/* With --seeds=DIRECTORY the program writes its seed corpus and is done. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    setlocale(LC_ALL, "C.UTF-8");
    vmb_log_set_level(VMB_LOG_ERROR);
    fuzz_set_up();
    if (*argc == 2 && g_str_has_prefix((*argv)[1], SEEDS_OPTION)) {
        seeds_dir = (*argv)[1] + strlen(SEEDS_OPTION);
        fuzz_seeds();
        exit(0);
    }
    return 0;
}

int
LLVMFuzzerTestOneInput(const guint8 *data, gsize length)
{
    fuzz_one(data, length);
    return 0;
}

void
fuzz_seed(const char *name, const void *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_build_filename(seeds_dir, name, NULL);
    if (!g_file_set_contents(path, data, (gssize)length, &error))
        g_error("%s", error->message);
}

static void
seed_after(const char *name, guint8 mode, const char *text, gsize length, const char *end)
{
    g_autoptr(GByteArray) input = g_byte_array_new();
    g_byte_array_append(input, &mode, 1);
    g_byte_array_append(input, (const guint8 *)text, (guint)length);
    g_byte_array_append(input, (const guint8 *)end, (guint)strlen(end));
    fuzz_seed(name, input->data, input->len);
}

void
fuzz_seed_document(const char *name, guint8 open_mode, guint8 sealed_mode, const char *text)
{
    const char *seal = g_strrstr(text, ",\n  \"digest\"");
    g_autofree char *sealed = g_strconcat(name, "-sealed", NULL);
    g_assert(seal != NULL);
    seed_after(name, open_mode, text, (gsize)(seal - text), "\n}\n");
    seed_after(sealed, sealed_mode, text, strlen(text), "");
}

void
fuzz_broken(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: this must hold: %s\n", file, line, condition);
    abort();
}

void
fuzz_check_error(const GError *error, int code)
{
    FUZZ_CHECK(error != NULL);
    FUZZ_CHECK(error->domain == VMB_ERROR);
    FUZZ_CHECK(code < 0 || error->code == code);
    FUZZ_CHECK(error->message[0] != '\0');
}

guint64
fuzz_take(FuzzInput *input, guint n_bytes)
{
    guint64 value = 0;
    for (guint i = 0; i < n_bytes && input->left > 0; i++, input->left--)
        value |= (guint64)*input->at++ << 8 * i;
    return value;
}

gsize
fuzz_take_bytes(FuzzInput *input, guint8 *out, gsize length)
{
    length = MIN(length, input->left);
    memcpy(out, input->at, length);
    input->at += length;
    input->left -= length;
    return length;
}

int
fuzz_file_new(void)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        g_error("memfd_create: %s", g_strerror(errno));
    return fd;
}

void
fuzz_file_set(int fd, const void *content, gsize length)
{
    if (ftruncate(fd, 0) < 0 || !vmb_fs_pwrite(fd, content, length, 0, "fuzz", NULL))
        g_error("cannot write a file in memory");
}

char *
fuzz_directory(void)
{
    char *path = g_strdup("/dev/shm/vmbackup-fuzz-XXXXXX");
    if (g_mkdtemp(path) == NULL) {
        g_free(path);
        path = g_dir_make_tmp("vmbackup-fuzz-XXXXXX", NULL);
    }
    if (path == NULL)
        g_error("cannot make a directory");
    g_assert(private_dir == NULL);
    private_dir = g_strdup(path);
    atexit(remove_directory);
    return path;
}

void
fuzz_directory_set(int dir_fd, const char *name, const void *content, gsize length)
{
    g_auto(VmbFd) fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || !vmb_fs_pwrite(fd, content, length, 0, name, NULL))
        g_error("cannot write %s", name);
}

char *
fuzz_reseal(const guint8 *data, gsize length, gsize *sealed_length)
{
    while (length > 0 && g_ascii_isspace(data[length - 1]))
        length--;
    if (length > 0 && data[length - 1] == '}')
        length--;
    while (length > 0 && g_ascii_isspace(data[length - 1]))
        length--;
    g_autofree char *digest = g_compute_checksum_for_data(G_CHECKSUM_SHA256, data, length);
    GString *text = g_string_new_len((const char *)data, (gssize)length);
    g_string_append_printf(text, ",\n  \"digest\":\"sha256:%s\"\n}\n", digest);
    *sealed_length = text->len;
    return g_string_free(text, FALSE);
}

char *
fuzz_text(const guint8 *data, gsize length)
{
    return length > 0 ? g_strndup((const char *)data, length) : g_strdup("");
}
