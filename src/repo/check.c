/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Structure of a point on disk: which files must be there, with which sizes and digests. */
#include "repo/check.h"
#include "block/digest.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/state.h"
#include "util/error.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define READ_STEP (256 * 1024)

void
vmb_finding_free(VmbFinding *finding)
{
    if (finding == NULL)
        return;
    g_free(finding->point);
    g_free(finding->disk);
    g_free(finding->file);
    g_free(finding->message);
    g_clear_pointer(&finding->affected, g_ptr_array_unref);
    g_free(finding);
}

const char *
vmb_finding_kind_name(VmbFindingKind kind)
{
    static const char *const names[] = {"file", "metadata", "data", "chain"};
    return names[kind];
}

VmbFinding *
vmb_finding_new(const char *point, const char *disk, const char *file, const char *format, ...)
{
    VmbFinding *finding = g_new0(VmbFinding, 1);
    va_list args;
    va_start(args, format);
    finding->kind = disk != NULL ? VMB_FINDING_METADATA : VMB_FINDING_FILE;
    finding->point = g_strdup(point);
    finding->disk = g_strdup(disk);
    finding->file = g_strdup(file);
    finding->offset = -1;
    finding->message = g_strdup_vprintf(format, args);
    va_end(args);
    return finding;
}

/* One check: where its findings go, and the names that are accounted for. */
typedef struct {
    VmbPoint *point;
    int dir_fd;
    const char *name;
    GPtrArray *findings;
    GHashTable *known; /* file names, borrowed */
} Check;

#define report(check, disk, file, ...)                                                             \
    g_ptr_array_add((check)->findings, vmb_finding_new((check)->name, disk, file, __VA_ARGS__))

/* Opens a file that must be there, regular and of @size bytes; -1 after a finding. */
static int
open_file(Check *check, const char *disk, const char *file, guint64 size)
{
    struct stat st;
    g_autoptr(GError) error = NULL;
    g_hash_table_add(check->known, (gpointer)file);
    g_auto(VmbFd) fd = vmb_point_open_file(check->point, file, &error);
    if (fd < 0) {
        report(check, disk, file, "%s", error->message);
        return -1;
    }
    if (fstat(fd, &st) < 0) {
        report(check, disk, file, "cannot stat %s: %s", file, g_strerror(errno));
        return -1;
    }
    gboolean growing = g_strcmp0(check->point->growing, file) == 0 && (guint64)st.st_size > size;
    if ((guint64)st.st_size != size && !growing) {
        report(check, disk, file,
               "%s has %" G_GUINT64_FORMAT " bytes instead of %" G_GUINT64_FORMAT, file,
               (guint64)st.st_size, size);
        return -1;
    }
    return vmb_fd_steal(&fd);
}

static gboolean
digest_file(int fd, guint64 size, const char *label, guint8 digest[VMB_DIGEST_SIZE], GError **error)
{
    g_autoptr(VmbDigest) hasher = vmb_digest_new();
    g_autofree guint8 *buffer = g_malloc(READ_STEP);
    for (guint64 offset = 0; offset < size;) {
        gsize step = (gsize)MIN(size - offset, READ_STEP);
        if (!vmb_fs_pread(fd, buffer, step, offset, label, error))
            return FALSE;
        vmb_digest_update(hasher, buffer, step);
        offset += step;
    }
    vmb_digest_finish(hasher, digest);
    return TRUE;
}

static void
check_content(Check *check, const VmbManifestFile *file)
{
    g_autoptr(GError) error = NULL;
    guint8 digest[VMB_DIGEST_SIZE];
    g_auto(VmbFd) fd = open_file(check, NULL, file->name, file->size);
    if (fd < 0)
        return;
    if (!digest_file(fd, file->size, file->name, digest, &error))
        report(check, NULL, file->name, "%s", error->message);
    else if (memcmp(digest, file->digest, VMB_DIGEST_SIZE) != 0)
        report(check, NULL, file->name,
               "the content of %s is not what was stored (SHA-256 differs)", file->name);
}

static void
check_size(Check *check, const char *disk, const char *file, guint64 size)
{
    int fd = open_file(check, disk, file, size);
    if (fd >= 0)
        close(fd);
}

static void
report_manifest(Check *check)
{
    VmbFinding *finding = vmb_finding_new(check->name, NULL, VMB_LAYOUT_MANIFEST, "%s",
                                          check->point->damage->message);
    finding->kind = VMB_FINDING_METADATA;
    g_ptr_array_add(check->findings, finding);
}

static void
check_disks(Check *check, const GPtrArray *disks)
{
    for (guint i = 0; i < disks->len; i++) {
        const VmbManifestDisk *disk = disks->pdata[i];
        check_size(check, disk->target, disk->image, disk->image_size);
        check_size(check, disk->target, disk->digests, disk->digests_size);
    }
}

static void
check_manifest(Check *check)
{
    g_hash_table_add(check->known, (gpointer)VMB_LAYOUT_MANIFEST);
    if (check->point->manifest == NULL) {
        report_manifest(check);
        return;
    }
    const VmbManifest *manifest = check->point->manifest;
    check_disks(check, manifest->disks);
    for (guint i = 0; i < manifest->files->len; i++)
        check_content(check, manifest->files->pdata[i]);
}

static void
check_state(Check *check)
{
    g_auto(VmbPointState) state = {0};
    g_autoptr(GError) error = NULL;
    g_hash_table_add(check->known, (gpointer)VMB_LAYOUT_STATE);
    if (faccessat(check->dir_fd, VMB_LAYOUT_STATE, F_OK, AT_SYMLINK_NOFOLLOW) < 0 &&
        errno == ENOENT)
        report(check, NULL, VMB_LAYOUT_STATE,
               VMB_LAYOUT_STATE " is missing; the backup itself does not depend on it");
    else if (!vmb_point_state_read(check->point, &state, &error))
        report(check, NULL, VMB_LAYOUT_STATE, "%s", error->message);
}

static void
check_nothing_else(Check *check)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) names = vmb_directory_list(check->dir_fd, &error);
    if (names == NULL) {
        report(check, NULL, NULL, "%s", error->message);
        return;
    }
    for (guint i = 0; i < names->len; i++) {
        const char *name = names->pdata[i];
        g_autofree char *shown = vmb_text_clean(name);
        if (!g_hash_table_contains(check->known, name) && !vmb_layout_is_leftover(name))
            report(check, NULL, name, "%s does not belong to the point", shown);
    }
}

void
vmb_check_point(VmbPoint *point, const GPtrArray *disks, const char *name, GPtrArray *findings)
{
    g_autoptr(GHashTable) known = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) dir = vmb_point_open_dir(point, &error);
    Check check = {point, dir, name, findings, known};
    if (dir < 0) {
        report(&check, NULL, NULL, "%s", error->message);
        return;
    }
    if (point->retired) {
        if (point->manifest == NULL)
            report_manifest(&check);
        check_disks(&check, disks);
        return;
    }
    check_manifest(&check);
    check_state(&check);
    check_size(&check, NULL, VMB_LAYOUT_LOCK, 0);
    /* Without a manifest nobody knows what belongs there. */
    if (point->manifest != NULL)
        check_nothing_else(&check);
}
