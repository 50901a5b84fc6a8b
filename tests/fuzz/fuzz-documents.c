/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the small documents of a repository, read from their places. */
#include "fuzz.h"
#include "json-mutator.h"
#include "../unit/repo-fixture.h"
#include "repo/directory.h"
#include "repo/journal.h"
#include "repo/repository-private.h"
#include "repo/state-json.h"
#include "util/text.h"

/* Input: u8 which document (0 journal, 1 state.json, 2 repository.json, 3 sequence), bit 7: it is
 * taken as it is, else it is sealed here; the text. */
#define AS_IT_IS 128u

static char *directory;
static int fd;

gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed);

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed)
{
    return fuzz_json_mutate(data, size, max_size, seed, 1);
}

/* DIRECTORY is the domain's, the point's and the repository's directory at once. */
void
fuzz_set_up(void)
{
    directory = fuzz_directory();
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert(fd >= 0);
}

static void
check_code(const GError *error)
{
    fuzz_check_error(error, -1);
    FUZZ_CHECK(error->code == VMB_ERROR_DAMAGE || error->code == VMB_ERROR_NO_REPOSITORY);
}

/* What a journal names gets deleted: nothing but clean paths two levels down may come out of it. */
static void
check_path(const char *path)
{
    if (path == NULL)
        return;
    FUZZ_CHECK(path[0] == '/' && strstr(path, "//") == NULL && strstr(path, "/../") == NULL);
    FUZZ_CHECK(!g_str_has_suffix(path, "/..") && !g_str_has_suffix(path, "/"));
    FUZZ_CHECK(strchr(path + 1, '/') != NULL);
}

static void
check_same(const char *a, const char *b)
{
    FUZZ_CHECK(g_strcmp0(a, b) == 0);
}

/* Set aside for another host it is found again, and goes with its name. */
static void
try_aside(const VmbJournal *journal)
{
    g_autoptr(GError) error = NULL;
    FUZZ_CHECK(vmb_journal_set_aside(fd, journal, &error));
    g_autoptr(GPtrArray) aside = vmb_journal_list_aside(fd, &error);
    FUZZ_CHECK(aside != NULL && aside->len == 1);
    check_same(((const VmbJournal *)aside->pdata[0])->nonce, journal->nonce);
    FUZZ_CHECK(vmb_journal_clear_aside(fd, journal, &error));
    g_autoptr(GPtrArray) rest = vmb_journal_list_aside(fd, &error);
    FUZZ_CHECK(rest != NULL && rest->len == 0);
}

static gboolean
try_journal(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJournal) journal = NULL, again = NULL;
    if (!vmb_journal_read(fd, &journal, &error)) {
        check_code(error);
        FUZZ_CHECK(journal == NULL);
        return FALSE;
    }
    FUZZ_CHECK(journal != NULL);
    check_path(journal->run_dir);
    check_path(journal->scratch_dir);
    check_path(journal->socket);
    FUZZ_CHECK(journal->checkpoint == NULL || vmb_text_is_name(journal->checkpoint));
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        if (!vmb_text_is_name(journal->stale[i]))
            check_path(journal->stale[i]);
    FUZZ_CHECK(vmb_journal_write(fd, journal, &error));
    FUZZ_CHECK(vmb_journal_read(fd, &again, &error) && again != NULL);
    check_same(journal->nonce, again->nonce);
    check_same(journal->uri, again->uri);
    check_same(journal->checkpoint, again->checkpoint);
    check_same(journal->socket, again->socket);
    check_same(journal->run_dir, again->run_dir);
    check_same(journal->scratch_dir, again->scratch_dir);
    check_same(journal->point, again->point);
    FUZZ_CHECK(journal->time_ns == again->time_ns && journal->pid == again->pid);
    FUZZ_CHECK((journal->stale == NULL) == (again->stale == NULL));
    FUZZ_CHECK(journal->stale == NULL || g_strv_equal((const char *const *)journal->stale,
                                                      (const char *const *)again->stale));
    try_aside(journal);
    return TRUE;
}

static gboolean
try_state(void)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbPointState) state = {0}, again = {0};
    struct VmbPointsDir place = {fd};
    VmbPoint point = {.id = (char *)"p", .uuid = (char *)FIXTURE_UUID, .place = &place};
    if (!vmb_point_state_read(&point, &state, &error)) {
        check_code(error);
        return FALSE;
    }
    FUZZ_CHECK(state.verified_ns >= 0);
    FUZZ_CHECK(vmb_point_state_write(&point, &state, &error));
    FUZZ_CHECK(vmb_point_state_read(&point, &again, &error));
    FUZZ_CHECK(again.verified_ns == state.verified_ns);
    check_same(state.verify_result, again.verify_result);
    return TRUE;
}

static gboolean
try_repository(void)
{
    g_autoptr(GError) error = NULL;
    guint8 id[16];
    g_autoptr(VmbRepository) repository = vmb_repository_open(directory, &error);
    if (repository == NULL) {
        check_code(error);
        return FALSE;
    }
    FUZZ_CHECK(vmb_text_unhex(vmb_repository_id(repository), id, sizeof id));
    if (!vmb_repository_check_place(repository, &error))
        fuzz_check_error(error, -1);
    return TRUE;
}

static gboolean
try_sequence(void)
{
    g_autoptr(GError) error = NULL;
    guint64 sequence = 0;
    VmbRepoDomain domain = {.repository_path = directory,
                            .repository_id = (char *)"x",
                            .uuid = (char *)FIXTURE_UUID,
                            .root_fd = fd,
                            .fd = fd};
    if (!vmb_repo_domain_read_sequence(&domain, &sequence, &error)) {
        check_code(error);
        return FALSE;
    }
    FUZZ_CHECK(sequence < G_MAXINT64);
    return TRUE;
}

static gboolean
try(const guint8 *data, gsize length)
{
    static const struct {
        const char *name;
        gboolean (*try)(void);
    } documents[] = {{VMB_LAYOUT_JOURNAL, try_journal},
                     {"p/" VMB_LAYOUT_STATE, try_state},
                     {VMB_LAYOUT_REPOSITORY, try_repository},
                     {VMB_LAYOUT_SEQUENCE, try_sequence}};
    FuzzInput input = {data, length};
    guint which = (guint)fuzz_take(&input, 1);
    gsize n = input.left;
    g_autofree char *sealed = which & AS_IT_IS ? NULL : fuzz_reseal(input.at, input.left, &n);
    guint i = (which & ~AS_IT_IS) % G_N_ELEMENTS(documents);
    (void)mkdirat(fd, "p", 0700);
    fuzz_directory_set(fd, documents[i].name, sealed != NULL ? sealed : (const char *)input.at, n);
    gboolean accepted = documents[i].try();
    (void)unlinkat(fd, documents[i].name, 0);
    return accepted;
}

void
fuzz_one(const guint8 *data, gsize length)
{
    try(data, length);
}

static void
seed(guint8 which, const char *name, const char *text)
{
    g_autofree char *input = g_strdup_printf("%c%s", which | AS_IT_IS, text);
    gboolean accepted = try((const guint8 *)input, strlen(text) + 1);
    g_assert(accepted); /* or nothing would be reached from here */
    fuzz_seed_document(name, which, which | AS_IT_IS, text);
}

static char *
read_text(const char *name)
{
    char *text = NULL;
    gsize length = 0;
    if (!vmb_fs_read_file(fd, name, 1 << 20, &text, &length, NULL))
        g_error("%s was not written", name);
    return text;
}

void
fuzz_seeds(void)
{
    g_autoptr(GError) error = NULL;
    static char *stale[] = {(char *)"vmbackup-01234567-0a", (char *)"x", NULL};
    VmbJournal journal = {.nonce = (char *)"00112233445566778899aabbccddeeff",
                          .uri = (char *)"qemu:///system",
                          .checkpoint = (char *)"vmbackup-01234567-0c",
                          .socket = (char *)"/run/vmbackup/x/nbd.sock",
                          .run_dir = (char *)"/run/vmbackup/x",
                          .scratch_dir = (char *)"/var/tmp/scratch",
                          .may_freeze = TRUE,
                          .time_ns = 1234567890123456789,
                          .pid = 4711,
                          .point = (char *)"20261121T020000Z-3",
                          .stale = stale};
    if (!vmb_journal_write(fd, &journal, &error))
        g_error("%s", error->message);
    g_autofree char *text = read_text(VMB_LAYOUT_JOURNAL);
    seed(0, "journal", text);
    VmbPointState state = {.verified_ns = 17, .verify_result = (char *)"ok"};
    g_autofree char *state_text = vmb_point_state_text(NULL, &state);
    seed(1, "state", state_text);
    g_autofree char *path = g_build_filename(directory, "new", NULL);
    if (!vmb_repository_init(path, &error))
        g_error("%s", error->message);
    g_autofree char *repository_text = read_text("new/" VMB_LAYOUT_REPOSITORY);
    seed(2, "repository", repository_text);
    g_autoptr(VmbJson) sequence = json_object_new_object();
    vmb_json_add_uint(sequence, "format", 1);
    vmb_json_add_uint(sequence, "sequence", 42);
    g_autofree char *sequence_text = vmb_json_seal(sequence);
    seed(3, "sequence", sequence_text);
}
