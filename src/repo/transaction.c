/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The one unpublished point of a domain: staging files, and rolling back. */
#include "block/digest.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "repo/repository-private.h"
#include "repo/transaction-private.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define COPY_STEP (256 * 1024)

/* Removes staging/ on disk: ours, or that of a run that died. */
static gboolean
remove_staging(int domain_fd, const char *label, GError **error)
{
    if (vmb_fs_remove_tree(domain_fd, VMB_LAYOUT_STAGING, error))
        return TRUE;
    g_prefix_error(error, "%s: ", label);
    return FALSE;
}

gboolean
vmb_transaction_has_leftover(VmbRepoDomain *domain)
{
    struct stat st;
    return fstatat(domain->fd, VMB_LAYOUT_STAGING, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

gboolean
vmb_transaction_remove_leftover(VmbRepoDomain *domain, GError **error)
{
    g_autofree char *directory = vmb_layout_path(domain->repository_path, domain->uuid, NULL);
    return remove_staging(domain->fd, directory, error);
}

static void
staged_file_free(VmbStagedFile *file)
{
    vmb_fd_clear(&file->fd);
    g_free(file->name);
    g_free(file);
}

static gboolean
keep_open(VmbTransaction *transaction, const char *name, int fd, GError **error)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return vmb_error_errno(error, errno, "cannot keep %s/%s open", transaction->label, name);
    VmbStagedFile *file = g_new0(VmbStagedFile, 1);
    file->name = g_strdup(name);
    file->fd = copy;
    g_ptr_array_add(transaction->files, file);
    return TRUE;
}

static gboolean
remove_file(VmbTransaction *transaction, const char *name, GError **error)
{
    for (guint i = 0; i < transaction->files->len; i++)
        if (strcmp(((VmbStagedFile *)transaction->files->pdata[i])->name, name) == 0)
            g_ptr_array_remove_index(transaction->files, i--);
    return vmb_fs_unlink(transaction->fd, name, 0) == 0 ||
           vmb_error_errno(error, errno, "cannot remove %s/%s", transaction->label, name);
}

void
vmb_transaction_free(VmbTransaction *transaction)
{
    g_autoptr(GError) error = NULL;
    if (transaction == NULL)
        return;
    vmb_fd_clear(&transaction->fd);
    g_clear_pointer(&transaction->files, g_ptr_array_unref);
    if (!transaction->moved && transaction->domain_fd >= 0 &&
        !remove_staging(transaction->domain_fd, transaction->label, &error))
        vmb_warning("%s; the next backup of the domain removes it", error->message);
    vmb_fd_clear(&transaction->domain_fd);
    vmb_point_state_clear(&transaction->state);
    g_free(transaction->uuid);
    g_free(transaction->label);
    g_free(transaction);
}

VmbTransaction *
vmb_transaction_begin(VmbRepoDomain *domain, GError **error)
{
    g_autoptr(VmbTransaction) transaction = g_new0(VmbTransaction, 1);
    g_autofree char *directory = vmb_layout_path(domain->repository_path, domain->uuid, NULL);
    transaction->fd = -1;
    transaction->files = g_ptr_array_new_with_free_func((GDestroyNotify)staged_file_free);
    transaction->uuid = g_strdup(domain->uuid);
    transaction->label = g_build_filename(directory, VMB_LAYOUT_STAGING, NULL);
    transaction->domain_fd = fcntl(domain->fd, F_DUPFD_CLOEXEC, 3);
    if (transaction->domain_fd < 0) {
        vmb_error_errno(error, errno, "cannot open %s once more", directory);
        return NULL;
    }
    if (!remove_staging(transaction->domain_fd, transaction->label, error))
        return NULL;
    if (!vmb_directory_make(transaction->domain_fd, VMB_LAYOUT_STAGING, NULL, error)) {
        g_prefix_error(error, "%s: ", directory);
        return NULL;
    }
    transaction->fd = vmb_fs_open_beneath(transaction->domain_fd, VMB_LAYOUT_STAGING,
                                          O_RDONLY | O_DIRECTORY, 0, directory, error);
    if (transaction->fd < 0 || !vmb_fault_point("staging-created", error))
        return NULL;
    return g_steal_pointer(&transaction);
}

int
vmb_transaction_fd(VmbTransaction *transaction)
{
    return transaction->fd;
}

VmbPointState *
vmb_transaction_state(VmbTransaction *transaction)
{
    return &transaction->state;
}

static int
create(VmbTransaction *transaction, const char *name, GError **error)
{
    g_auto(VmbFd) fd = vmb_fs_open_beneath(transaction->fd, name, O_RDWR | O_CREAT | O_EXCL, 0600,
                                           transaction->label, error);
    if (fd >= 0 && vmb_fs_make_private(fd) < 0) {
        vmb_error_errno(error, errno, "cannot set the mode of %s/%s", transaction->label, name);
        return -1;
    }
    if (fd < 0 || !keep_open(transaction, name, fd, error))
        return -1;
    return vmb_fd_steal(&fd);
}

int
vmb_transaction_create(VmbTransaction *transaction, const char *name, GError **error)
{
    if (vmb_layout_is_point_file(name))
        return create(transaction, name, error);
    vmb_error_set(error, VMB_ERROR_FAILED, "'%s' is no name that a file of a point may have", name);
    return -1;
}

gboolean
vmb_transaction_discard(VmbTransaction *transaction, const char *name, GError **error)
{
    return remove_file(transaction, name, error);
}

gboolean
vmb_transaction_write(VmbTransaction *transaction, const char *name, const void *content,
                      gsize length, GError **error)
{
    g_autofree char *label = g_build_filename(transaction->label, name, NULL);
    g_auto(VmbFd) fd = create(transaction, name, error);
    return fd >= 0 && vmb_fs_pwrite(fd, content, length, 0, label, error);
}

static void
add_to_manifest(VmbManifest *manifest, const char *name, const char *role, const char *origin,
                guint64 size, const guint8 digest[VMB_DIGEST_SIZE])
{
    VmbManifestFile *file = g_new0(VmbManifestFile, 1);
    file->name = g_strdup(name);
    file->role = g_strdup(role);
    file->origin = g_strdup(origin);
    file->size = size;
    memcpy(file->digest, digest, VMB_DIGEST_SIZE);
    g_ptr_array_add(manifest->files, file);
}

gboolean
vmb_transaction_add_file(VmbTransaction *transaction, VmbManifest *manifest, const char *name,
                         const char *role, const char *origin, const void *content, gsize length,
                         GError **error)
{
    g_autoptr(VmbDigest) hasher = vmb_digest_new();
    guint8 digest[VMB_DIGEST_SIZE];
    g_auto(VmbFd) fd = vmb_transaction_create(transaction, name, error);
    g_autofree char *label = g_build_filename(transaction->label, name, NULL);
    if (fd < 0)
        return FALSE;
    if (!vmb_fs_pwrite(fd, content, length, 0, label, error)) {
        remove_file(transaction, name, NULL);
        return FALSE;
    }
    vmb_digest_block(hasher, content, length, digest);
    add_to_manifest(manifest, name, role, origin, length, digest);
    return TRUE;
}

/* Up to @length bytes; 0 at the end, -1 on error. */
static gssize
read_some(int fd, void *buffer, gsize length, const char *label, GError **error)
{
    ssize_t n;
    do
        n = read(fd, buffer, length);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        vmb_error_errno(error, errno, "cannot read %s", label);
    return n;
}

static gboolean
copy_content(int from, const char *from_label, int to, const char *to_label, guint64 *size,
             guint8 digest[VMB_DIGEST_SIZE], GError **error)
{
    g_autoptr(VmbDigest) hasher = vmb_digest_new();
    g_autofree guint8 *buffer = g_malloc(COPY_STEP);
    gssize n = 0;
    *size = 0;
    while ((n = read_some(from, buffer, COPY_STEP, from_label, error)) > 0) {
        if (!vmb_fs_pwrite(to, buffer, (gsize)n, *size, to_label, error))
            return FALSE;
        vmb_digest_update(hasher, buffer, (gsize)n);
        *size += (guint64)n;
    }
    vmb_digest_finish(hasher, digest);
    return n == 0;
}

gboolean
vmb_transaction_copy_file(VmbTransaction *transaction, VmbManifest *manifest, const char *name,
                          const char *role, const char *origin, int fd, GError **error)
{
    guint8 digest[VMB_DIGEST_SIZE];
    guint64 size = 0;
    g_autofree char *label = g_build_filename(transaction->label, name, NULL);
    g_auto(VmbFd) to = vmb_transaction_create(transaction, name, error);
    if (to < 0)
        return FALSE;
    if (!copy_content(fd, origin != NULL ? origin : name, to, label, &size, digest, error)) {
        remove_file(transaction, name, NULL);
        return FALSE;
    }
    add_to_manifest(manifest, name, role, origin, size, digest);
    return TRUE;
}

char *
vmb_transaction_new_id(VmbRepoDomain *domain, gint64 time_ns)
{
    g_auto(VmbFd) points = vmb_fs_open_beneath(domain->fd, VMB_LAYOUT_POINTS,
                                               O_RDONLY | O_DIRECTORY, 0, domain->uuid, NULL);
    for (guint counter = 1;; counter++) {
        struct stat st;
        g_autofree char *id = vmb_layout_point_id(time_ns, counter);
        if (points < 0 || fstatat(points, id, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return g_steal_pointer(&id);
    }
}
