/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The cache of a domain's summaries: writing it anew, without what may still change unseen. */
#include "block/digest.h"
#include "repo/catalog.h"
#include "repo/catalog-private.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/summary-text.h"
#include "util/error.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define SECOND_NS G_GINT64_CONSTANT(1000000000)
/* Filesystems' clocks tick every 10 ms or faster, but ticks may come late; those without a part of
 * a second, every 2 s at worst. */
#define FINE_TICK_NS G_GINT64_CONSTANT(50000000)
#define COARSE_TICK_NS (5 * SECOND_NS / 2)
#define WAIT_US (30 * 1000u)
#define MAX_WAITS 4
#define ABANDONED_NS (3600 * SECOND_NS) /* nobody writes a catalog for that long */

static void
put32(GByteArray *out, guint32 value)
{
    value = GUINT32_TO_LE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static void
put64(GByteArray *out, guint64 value)
{
    value = GUINT64_TO_LE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static void
put_stamp(GByteArray *out, const VmbStamp *stamp)
{
    put64(out, stamp->inode);
    put64(out, stamp->size);
    put64(out, (guint64)stamp->mtime_ns);
    put64(out, (guint64)stamp->ctime_ns);
}

/* In place of a summary. */
static void
put_id(GByteArray *out, const char *id)
{
    guint32 length = (guint32)strlen(id);
    put32(out, length + 5);
    put32(out, length);
    g_byte_array_append(out, (const guint8 *)id, length + 1);
}

/* The file in the making: it also tells what time it is by the filesystem's own clock. */
typedef struct {
    int domain_fd;
    char *name;
    VmbFd fd;
    gint64 time_ns;
} NewFile;

static void
new_file_clear(NewFile *file)
{
    if (file->fd >= 0)
        vmb_fs_unlink(file->domain_fd, file->name, 0);
    vmb_fd_clear(&file->fd);
    g_clear_pointer(&file->name, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NewFile, new_file_clear)

/* Asks the filesystem for its time. */
static gboolean
touch(NewFile *file, GError **error)
{
    struct stat st;
    if (futimens(file->fd, NULL) < 0 || fstat(file->fd, &st) < 0)
        return vmb_error_errno(error, errno, "%s", file->name);
    file->time_ns = vmb_catalog_ns(&st.st_mtim);
    return TRUE;
}

static gboolean
new_file_open(NewFile *file, VmbRepoDomain *domain, GError **error)
{
    g_autofree char *token = vmb_repository_new_id(error);
    if (token == NULL)
        return FALSE;
    file->domain_fd = domain->fd;
    file->name = vmb_layout_catalog_new(token);
    file->fd = vmb_fs_open_beneath(domain->fd, file->name, O_RDWR | O_CREAT | O_EXCL, 0600,
                                   domain->uuid, error);
    return file->fd >= 0 && touch(file, error);
}

static gint64
tick_of(const NewFile *file)
{
    return file->time_ns % SECOND_NS == 0 ? COARSE_TICK_NS : FINE_TICK_NS;
}

/* What has not changed within a tick will look different after its next change. */
static gboolean
is_settled(const VmbStamp *stamp, const NewFile *file)
{
    return MAX(stamp->mtime_ns, stamp->ctime_ns) < file->time_ns - tick_of(file);
}

static gboolean
are_settled(const VmbStamps *stamps, const NewFile *file)
{
    return is_settled(&stamps->directory, file) && is_settled(&stamps->manifest, file) &&
           is_settled(&stamps->state, file);
}

static gboolean
may_be_kept(const VmbSummary *summary)
{
    return summary->damage == NULL && !summary->state_unreadable &&
           summary->stamps.directory.inode != 0;
}

/* What a look at the domain has found. */
typedef struct {
    VmbStamp points;      /* all zero if there is something else in it that is to be told of */
    GPtrArray *summaries; /* by id */
} Content;

static void
content_clear(Content *content)
{
    g_clear_pointer(&content->summaries, g_ptr_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Content, content_clear)

static gboolean
all_settled(const Content *content, const NewFile *file)
{
    gboolean settled = is_settled(&content->points, file);
    for (guint i = 0; i < content->summaries->len; i++) {
        const VmbSummary *summary = content->summaries->pdata[i];
        settled &= !may_be_kept(summary) || are_settled(&summary->stamps, file);
    }
    return settled;
}

static int
compare_summary_ids(gconstpointer a, gconstpointer b)
{
    return strcmp((*(VmbSummary *const *)a)->id, (*(VmbSummary *const *)b)->id);
}

static gboolean
has_only_points(VmbRepoDomain *domain)
{
    g_autoptr(GPtrArray) names = NULL;
    g_auto(VmbFd) fd = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS, O_RDONLY | O_DIRECTORY, 0,
                                           domain->uuid, NULL);
    if (fd >= 0)
        names = vmb_directory_list(fd, NULL);
    for (guint i = 0; names != NULL && i < names->len; i++)
        if (!vmb_layout_is_point_id(names->pdata[i]))
            return FALSE;
    return names != NULL;
}

static gboolean
look(Content *content, VmbRepoDomain *domain, GError **error)
{
    content_clear(content);
    content->points = vmb_catalog_stamp(domain->fd, VMB_LAYOUT_POINTS);
    if (!has_only_points(domain))
        content->points = (VmbStamp){0};
    content->summaries = vmb_repo_domain_summaries(domain, VMB_SUMMARIES_CHECKED, error);
    if (content->summaries == NULL)
        return FALSE;
    g_ptr_array_sort(content->summaries, compare_summary_ids);
    return TRUE;
}

/* All that was changed just now can be kept a moment later. */
static gboolean
look_until_settled(Content *content, VmbRepoDomain *domain, NewFile *file, GError **error)
{
    for (guint n = 0;; n++) {
        if (!look(content, domain, error))
            return FALSE;
        if (n == MAX_WAITS || all_settled(content, file) || tick_of(file) == COARSE_TICK_NS)
            return TRUE;
        g_usleep(WAIT_US);
        if (!touch(file, error))
            return FALSE;
    }
}

static GByteArray *
compose(const Content *content, const NewFile *file)
{
    static const VmbStamp none;
    guint8 digest[VMB_DIGEST_SIZE];
    GByteArray *out = g_byte_array_new();
    g_autoptr(VmbDigest) sum = vmb_digest_new();
    g_byte_array_append(out, (const guint8 *)VMB_CATALOG_MAGIC, (guint)strlen(VMB_CATALOG_MAGIC));
    put32(out, VMB_SUMMARY_FORMAT);
    put32(out, content->summaries->len);
    put_stamp(out, is_settled(&content->points, file) ? &content->points : &none);
    for (guint i = 0; i < content->summaries->len; i++) {
        const VmbSummary *summary = content->summaries->pdata[i];
        gboolean keep = may_be_kept(summary) && are_settled(&summary->stamps, file);
        put_stamp(out, keep ? &summary->stamps.directory : &none);
        put_stamp(out, keep ? &summary->stamps.manifest : &none);
        put_stamp(out, keep ? &summary->stamps.state : &none);
        if (!keep) {
            put_id(out, summary->id);
            continue;
        }
        const guint8 *text = g_bytes_get_data(summary->text, NULL);
        put32(out, (guint32)summary->text_length);
        g_byte_array_append(out, text + summary->text_offset, (guint)summary->text_length);
    }
    vmb_digest_block(sum, out->data, out->len, digest);
    g_byte_array_append(out, digest, sizeof digest);
    return out;
}

static gboolean
write_new(NewFile *file, const GByteArray *bytes, GError **error)
{
    if (vmb_fs_make_private(file->fd) < 0)
        return vmb_error_errno(error, errno, "cannot set the mode of %s", file->name);
    if (!vmb_fs_pwrite(file->fd, bytes->data, bytes->len, 0, file->name, error))
        return FALSE;
    if (renameat(file->domain_fd, file->name, file->domain_fd, VMB_LAYOUT_CATALOG) < 0)
        return vmb_error_errno(error, errno, "cannot rename %s", file->name);
    vmb_fd_clear(&file->fd);
    return TRUE;
}

/* What a killed process has left. */
static void
remove_abandoned(VmbRepoDomain *domain, const NewFile *file)
{
    struct stat st;
    g_autoptr(GPtrArray) names = vmb_directory_list(domain->fd, NULL);
    for (guint i = 0; names != NULL && i < names->len; i++)
        if (vmb_layout_is_catalog_new(names->pdata[i]) &&
            fstatat(domain->fd, names->pdata[i], &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            vmb_catalog_ns(&st.st_mtim) < file->time_ns - ABANDONED_NS)
            vmb_fs_unlink(domain->fd, names->pdata[i], 0);
}

static gboolean
is_as_before(VmbRepoDomain *domain, const GByteArray *bytes)
{
    g_autoptr(VmbCatalog) before = vmb_catalog_load(domain);
    return before != NULL && g_bytes_get_size(before->bytes) == bytes->len &&
           memcmp(g_bytes_get_data(before->bytes, NULL), bytes->data, bytes->len) == 0;
}

static gboolean
refresh(VmbRepoDomain *domain, GError **error)
{
    g_auto(NewFile) file = {.fd = -1};
    g_auto(Content) content = {0};
    if (vmb_catalog_is_suspended(domain))
        return TRUE;
    if (!new_file_open(&file, domain, error))
        return FALSE;
    remove_abandoned(domain, &file);
    if (!look_until_settled(&content, domain, &file, error))
        return FALSE;
    g_autoptr(GByteArray) bytes = compose(&content, &file);
    if (bytes->len > VMB_CATALOG_MAX_FILE || is_as_before(domain, bytes) ||
        vmb_catalog_is_suspended(domain))
        return TRUE;
    return write_new(&file, bytes, error);
}

void
vmb_catalog_refresh(VmbRepoDomain *domain)
{
    g_autoptr(GError) error = NULL;
    if (!refresh(domain, &error))
        vmb_debug("the catalog of %s is not brought up to date: %s", domain->uuid, error->message);
}
