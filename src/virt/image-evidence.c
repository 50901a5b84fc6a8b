/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Remembers what an image file looks like, to prove later that nobody has changed it. */
#include "virt/image-evidence.h"
#include "virt/image-header.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define CLUSTER_BITS_DEFAULT 16 /* of what is no qcow2, so much is looked at */
#define DIRECTORY_MAX (4u << 20)

typedef struct {
    guint64 device, inode, size;
    gint64 modified_ns, changed_ns;
    char *content; /* digest */
} Look;

struct VmbImageEvidence {
    char *path;
    gboolean shared;
    Look look;
};

static gint64
nanoseconds(const struct timespec *time)
{
    return (gint64)time->tv_sec * 1000000000 + time->tv_nsec;
}

/* Short reads are no error: then that is what there is. */
static void
add_range(GChecksum *sum, int fd, guint64 offset, gsize length)
{
    g_autofree guchar *bytes = g_malloc(length);
    ssize_t got = offset <= G_MAXINT64 ? pread(fd, bytes, length, (off_t)offset) : 0;
    if (got > 0)
        g_checksum_update(sum, bytes, got);
}

static char *
digest_content(int fd)
{
    g_auto(VmbImageHeader) header = {0};
    g_autofree char *why = NULL;
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    gboolean qcow2 = vmb_image_header_read(fd, &header, &why);
    add_range(sum, fd, 0, (gsize)1 << (qcow2 ? header.cluster_bits : CLUSTER_BITS_DEFAULT));
    if (qcow2 && header.n_bitmaps > 0)
        add_range(sum, fd, header.directory_offset,
                  (gsize)MIN(header.directory_size, DIRECTORY_MAX));
    return g_strdup(g_checksum_get_string(sum));
}

static gboolean
look_at(int fd, const char *path, Look *look, GError **error)
{
    struct stat st;
    *look = (Look){0};
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "cannot look at %s", path);
    if (S_ISBLK(st.st_mode)) {
        look->device = (guint64)st.st_rdev;
        look->size = (guint64)lseek(fd, 0, SEEK_END);
    } else {
        look->device = (guint64)st.st_dev;
        look->inode = (guint64)st.st_ino;
        look->size = (guint64)st.st_size;
        look->modified_ns = nanoseconds(&st.st_mtim);
        look->changed_ns = nanoseconds(&st.st_ctim);
    }
    look->content = digest_content(fd);
    return TRUE;
}

static gboolean
look_at_path(const char *path, Look *look, GError **error)
{
    g_auto(VmbFd) fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return vmb_error_errno(error, errno, "cannot open %s", path);
    return look_at(fd, path, look, error);
}

VmbImageEvidence *
vmb_image_evidence_new(const char *path, gboolean shared, GError **error)
{
    Look look;
    if (!look_at_path(path, &look, error))
        return NULL;
    VmbImageEvidence *evidence = g_new0(VmbImageEvidence, 1);
    evidence->path = g_strdup(path);
    evidence->shared = shared;
    evidence->look = look;
    return evidence;
}

void
vmb_image_evidence_free(VmbImageEvidence *evidence)
{
    if (evidence == NULL)
        return;
    g_free(evidence->path);
    g_free(evidence->look.content);
    g_free(evidence);
}

const char *
vmb_image_evidence_path(const VmbImageEvidence *evidence)
{
    return evidence->path;
}

gboolean
vmb_image_evidence_renew(VmbImageEvidence *evidence, int fd, GError **error)
{
    Look look;
    if (!look_at(fd, evidence->path, &look, error))
        return FALSE;
    g_free(evidence->look.content);
    evidence->look = look;
    return TRUE;
}

static const char *
compare(const Look *before, const Look *now, gboolean shared)
{
    if (before->device != now->device || before->inode != now->inode)
        return "it is another file now";
    if (before->size != now->size)
        return "its size has changed";
    if (strcmp(before->content, now->content) != 0)
        return "its header or its bitmaps have changed";
    if (before->modified_ns != now->modified_ns)
        return "it was written to";
    return !shared && before->changed_ns != now->changed_ns
               ? "its owner, mode or times have changed"
               : NULL;
}

gboolean
vmb_image_evidence_check(const VmbImageEvidence *evidence, int fd, GError **error)
{
    Look now;
    if (!(fd >= 0 ? look_at(fd, evidence->path, &now, error)
                  : look_at_path(evidence->path, &now, error)))
        return FALSE;
    const char *what = compare(&evidence->look, &now, evidence->shared);
    g_free(now.content);
    return what == NULL ||
           vmb_error_set(error, VMB_ERROR_FAILED, "%s: %s", evidence->path, what);
}
