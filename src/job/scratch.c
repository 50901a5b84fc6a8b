/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The private directories of one run: scratch images and the socket, and how much room they need. */
#include "job/scratch.h"
#include "job/scratch-space.h"
#include "image/qcow2-writer.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/rundir.h"
#include "util/units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/un.h>

#define DIR_PREFIX "vmbackup-"
#define NONCE_CHARS 16

char *
vmb_scratch_default_dir(void)
{
    const char *test = g_getenv("VMBACKUP_TEST_SCRATCH_DIR");
    if (test != NULL)
        return g_strdup(test);
    if (geteuid() == 0)
        return g_strdup("/var/lib/vmbackup/scratch");
    return g_build_filename(g_get_user_cache_dir(), "vmbackup", "scratch", NULL);
}

VmbScratch *
vmb_scratch_new(const char *scratch_dir, const char *nonce, const VmbPlan *plan, GError **error)
{
    g_autofree char *base = scratch_dir != NULL ? g_canonicalize_filename(scratch_dir, NULL)
                                                : vmb_scratch_default_dir();
    g_autofree char *run = vmb_run_dir(error);
    g_autofree char *name = g_strdup_printf(DIR_PREFIX "%.*s", NONCE_CHARS, nonce);
    if (run == NULL)
        return NULL;
    /* Nothing has been made yet, so nothing may be removed until create() begins. */
    VmbScratch *scratch = g_new0(VmbScratch, 1);
    scratch->run_dir = g_build_filename(run, name, NULL);
    scratch->socket = g_build_filename(scratch->run_dir, "nbd.sock", NULL);
    scratch->dir = g_build_filename(base, name, NULL);
    scratch->paths = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < plan->disks->len; i++) {
        const VmbPlanDisk *disk = plan->disks->pdata[i];
        g_autofree char *file = g_strconcat(disk->info->target, ".qcow2", NULL);
        g_ptr_array_add(scratch->paths, g_build_filename(scratch->dir, file, NULL));
    }
    if (strlen(scratch->socket) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
        vmb_error_set(error, VMB_ERROR_FAILED, "the socket path %s is longer than 107 bytes",
                      scratch->socket);
        vmb_scratch_free(scratch);
        return NULL;
    }
    return scratch;
}

static gboolean
remove_or_warn(const char *directory)
{
    g_autoptr(GError) error = NULL;
    if (vmb_fs_remove_tree(AT_FDCWD, directory, &error))
        return TRUE;
    vmb_warning("%s; the next run removes it", error->message);
    return FALSE;
}

gboolean
vmb_scratch_remove(VmbScratch *scratch)
{
    gboolean images = remove_or_warn(scratch->dir);
    gboolean socket = remove_or_warn(scratch->run_dir);
    scratch->keep = TRUE; /* there is nothing more to do */
    return images && socket;
}

void
vmb_scratch_free(VmbScratch *scratch)
{
    if (scratch == NULL)
        return;
    if (!scratch->keep)
        vmb_scratch_remove(scratch);
    g_free(scratch->run_dir);
    g_free(scratch->socket);
    g_free(scratch->dir);
    g_ptr_array_unref(scratch->paths);
    g_free(scratch);
}

gboolean
vmb_scratch_is_of_run(const char *directory, const char *nonce)
{
    g_autofree char *name = g_path_get_basename(directory);
    g_autofree char *expected = g_strdup_printf(DIR_PREFIX "%.*s", NONCE_CHARS, nonce);
    return strlen(nonce) >= NONCE_CHARS && strcmp(name, expected) == 0;
}

const char *
vmb_scratch_of_journal(const VmbJournal *journal)
{
    return journal->scratch_dir != NULL && journal->nonce != NULL &&
                   g_path_is_absolute(journal->scratch_dir) &&
                   vmb_scratch_is_of_run(journal->scratch_dir, journal->nonce)
               ? journal->scratch_dir
               : NULL;
}

gboolean
vmb_scratch_remove_leftover(const char *directory, GError **error)
{
    g_autofree char *name = g_path_get_basename(directory);
    gboolean ours = g_path_is_absolute(directory) && g_str_has_prefix(name, DIR_PREFIX) &&
                    strlen(name) == strlen(DIR_PREFIX) + NONCE_CHARS;
    for (const char *p = name + strlen(DIR_PREFIX); ours && *p != '\0'; p++)
        ours = g_ascii_isxdigit(*p);
    if (!ours)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "the journal names the directory %s, which is none that we make; "
                             "it was left alone", directory);
    return vmb_fs_remove_tree(AT_FDCWD, directory, error);
}

/* How much data this run will read, as a measure of how long the job lasts. The first increment after a
 * full is reckoned as a twentieth of what the disk holds. */
static guint64
bytes_to_read(const VmbPlanDisk *disk)
{
    guint64 used = disk->info->size;
    if (disk->info->allocation > 0)
        used = MIN(disk->info->allocation, disk->info->size);
    if (disk->level == VMB_LEVEL_FULL || disk->method == VMB_METHOD_COMPARE)
        return used;
    return disk->parent_disk->level == VMB_LEVEL_INCREMENTAL
               ? disk->parent_disk->data_blocks * VMB_BLOCK_SIZE
               : used / 20;
}

guint64
vmb_scratch_estimate(const VmbPlan *plan, guint64 *worst)
{
    guint64 need = 0;
    *worst = 0;
    for (guint i = 0; i < plan->disks->len; i++) {
        const VmbPlanDisk *disk = plan->disks->pdata[i];
        guint64 seconds = bytes_to_read(disk) / VMB_SCRATCH_READ_RATE + 1;
        guint64 dirtied = MAX(seconds * VMB_SCRATCH_DIRTY_RATE, VMB_SCRATCH_FLOOR);
        need += MIN(dirtied, disk->info->size);
        *worst += disk->info->size;
    }
    return need;
}

gboolean
vmb_scratch_check_space(const VmbScratch *scratch, const VmbPlan *plan, const char *domain,
                        GPtrArray *reasons, GError **error)
{
    g_autofree char *place = vmb_fs_existing_parent(scratch->dir);
    guint64 worst, available, need = vmb_scratch_estimate(plan, &worst);
    if (!vmb_fs_free_space(place, &available, error))
        return FALSE;
    guint64 reserve = vmb_scratch_reserve(available);
    g_autofree char *have = vmb_units_format_size(available);
    g_autofree char *want = vmb_units_format_size(need + reserve);
    g_autofree char *most = vmb_units_format_size(worst + reserve);
    if (available < need + reserve)
        return vmb_error_set(error, VMB_ERROR_NO_SPACE,
                             "%s: the scratch directory %s has %s free, but this backup may need "
                             "%s while it runs; nothing was changed. Free some space or choose "
                             "another place with --scratch-dir", domain, place, have, want);
    if (available < worst + reserve)
        vmb_reason_add(reasons, VMB_REASON_SCRATCH_WORST_CASE, NULL,
                       "%s: %s has %s free; a guest that overwrites everything while the backup "
                       "runs would need %s, and the backup would give up before that", domain,
                       place, have, most);
    return TRUE;
}

static gboolean
make_private_dir(const char *path, const VmbDomainInfo *info, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    if (!g_file_test(parent, G_FILE_TEST_IS_DIR) && !vmb_make_dirs(parent, 0711, error))
        return FALSE;
    if (mkdir(path, 0700) < 0)
        return vmb_error_errno(error, errno, "cannot make the directory %s", path);
    if (info->qemu_uid != G_MAXUINT64 && geteuid() == 0 &&
        chown(path, (uid_t)info->qemu_uid, (gid_t)info->qemu_gid) < 0)
        return vmb_error_errno(error, errno, "cannot give the directory %s to QEMU's user", path);
    return TRUE;
}

static gboolean
make_image(const char *path, const VmbDiskInfo *disk, const VmbDomainInfo *info, GError **error)
{
    VmbQcow2WriterOptions options = {.size = disk->size, .label = path};
    g_auto(VmbFd) fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return vmb_error_errno(error, errno, "cannot make the scratch image %s", path);
    g_autoptr(VmbQcow2Writer) writer = vmb_qcow2_writer_new(fd, &options, error);
    if (writer == NULL || !vmb_qcow2_writer_finish(writer, NULL, error))
        return FALSE;
    if (info->qemu_uid != G_MAXUINT64 && geteuid() == 0 &&
        fchown(fd, (uid_t)info->qemu_uid, (gid_t)info->qemu_gid) < 0)
        return vmb_error_errno(error, errno, "cannot give %s to QEMU's user", path);
    return TRUE;
}

gboolean
vmb_scratch_create(const VmbScratch *scratch, const VmbPlan *plan, const VmbDomainInfo *info,
                   GError **error)
{
    if (!make_private_dir(scratch->run_dir, info, error) ||
        !make_private_dir(scratch->dir, info, error))
        return FALSE;
    for (guint i = 0; i < plan->disks->len; i++) {
        const VmbPlanDisk *disk = plan->disks->pdata[i];
        if (!make_image(scratch->paths->pdata[i], disk->info, info, error))
            return FALSE;
    }
    return vmb_fault_point("scratch-created", error);
}
