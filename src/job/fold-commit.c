/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The instant of a fold: other tables count, files get their names, and the child's manifest says so. */
#include "image/qcow2-format.h"
#include "image/qcow2-reader.h"
#include "image/qemu-lock.h"
#include "job/fold-private.h"
#include "repo/layout.h"
#include "repo/state.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define STRUCTURE_WAIT_NS (30 * G_GUINT64_CONSTANT(1000000000))

int
vmb_fold_open_point(VmbRepoDomain *domain, const char *id, GError **error)
{
    g_autofree char *path = g_build_filename(VMB_LAYOUT_POINTS, id, NULL);
    return vmb_fs_open_beneath(vmb_repo_domain_fd(domain), path, O_RDONLY | O_DIRECTORY, 0,
                               vmb_repo_domain_uuid(domain), error);
}

/* ---- the files ---- */

static gboolean
rename_into(int from_dir, const char *from, int to_dir, const char *to, GError **error)
{
    if (renameat(from_dir, from, to_dir, to) < 0)
        return vmb_error_errno(error, errno, "cannot rename %s to %s", from, to);
    return vmb_fs_sync(from_dir, from, error) && vmb_fs_sync(to_dir, to, error);
}

static gboolean
move_image(VmbRepoDomain *domain, const VmbFoldRecord *record, int child_dir, GError **error)
{
    const char *image = record->entry->image;
    if (record->mode != VMB_FOLD_APPEND) {
        g_autofree char *temporary = vmb_layout_fold_file(image);
        return rename_into(child_dir, temporary, child_dir, image, error);
    }
    g_auto(VmbFd) parent_dir = vmb_fold_open_point(domain, record->parent, error);
    return parent_dir >= 0 &&
           rename_into(parent_dir, record->parent_image, child_dir, image, error);
}

static gboolean
move_digests(const VmbFoldRecord *record, int child_dir, GError **error)
{
    struct stat st;
    g_autofree char *temporary = vmb_layout_fold_file(record->entry->digests);
    if (fstatat(child_dir, temporary, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        return TRUE; /* it was moved before */
    return rename_into(child_dir, temporary, child_dir, record->entry->digests, error);
}

static gboolean
finish_switched(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    VmbFoldPlace place = VMB_FOLD_NOT_SWITCHED;
    g_auto(VmbFd) child_dir = vmb_fold_open_point(domain, record->child, error);
    if (child_dir < 0 || !vmb_fold_record_place(domain, record, &place, error) ||
        (place != VMB_FOLD_AT_CHILD && !move_image(domain, record, child_dir, error)))
        return FALSE;
    return vmb_fault_point("fold-image-moved", error) &&
           move_digests(record, child_dir, error) &&
           vmb_fault_point("fold-digests-moved", error) &&
           vmb_fold_record_write_manifest(domain, record, error) &&
           vmb_fault_point("fold-manifest-written", error);
}

/* Nobody has the old tables in memory any more, and who comes now reads the new ones: no lock is needed. */
static gboolean
finish_cleaning(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    g_auto(VmbFd) dir = vmb_fold_open_point(domain, record->child, error);
    if (dir < 0)
        return FALSE;
    if (record->mode == VMB_FOLD_APPEND) {
        g_auto(VmbFd) fd = vmb_fs_open_beneath(dir, record->entry->image, O_RDWR | O_NONBLOCK, 0,
                                               record->child, error);
        if (fd < 0 ||
            !vmb_fold_clean(fd, vmb_round_up(record->entry->size, VMB_QCOW2_SECTOR),
                            record->old_header, record->child, error))
            return FALSE;
    }
    return vmb_fold_record_clear_parent(domain, record, error) &&
           vmb_fault_point("fold-parent-cleared", error) &&
           vmb_fold_record_clear(domain, error) && vmb_fault_point("fold-record-cleared", error);
}

/* A dead run has switched: what it had locked nobody has locked since, and readers see the new state already. */
gboolean
vmb_fold_roll_forward(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    g_autoptr(VmbLock) structure =
        vmb_pins_lock_structure(domain, TRUE, STRUCTURE_WAIT_NS, NULL, error);
    if (structure == NULL || !finish_switched(domain, record, error))
        return FALSE;
    g_clear_pointer(&structure, vmb_lock_free);
    return finish_cleaning(domain, record, error);
}

/* ---- the instant ---- */

static VmbLock *
lock_point(const VmbPoint *point, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s/%s", point->manifest->domain, point->id);
    g_auto(VmbFd) dir = vmb_point_open_dir(point, error);
    return dir < 0 ? NULL : vmb_lock_take(dir, VMB_LAYOUT_LOCK, TRUE, 0, name, NULL, error);
}

/* Programs of QEMU do not know our locks. */
static int
lock_image(const VmbPoint *point, const char *image, GError **error)
{
    g_autofree char *label = g_strdup_printf("%s/%s/%s", point->manifest->domain, point->id, image);
    g_auto(VmbFd) fd = vmb_point_open_file(point, image, error);
    if (fd < 0 || !vmb_qemu_lock(fd, label, error))
        return -1;
    return vmb_fd_steal(&fd);
}

static gboolean
switch_image(VmbFoldRun *run, GError **error)
{
    return run->record->mode != VMB_FOLD_APPEND ||
           (vmb_fold_switch(run->parent_image, run->header, run->label, error) &&
            vmb_fault_point("fold-switched", error));
}

/* Blocks of the parent that were known as damaged and that the child does not have itself. */
static void
carry_damage(VmbFoldRun *run, const VmbPointState *parent, VmbPointState *child)
{
    const char *id = run->child_disk->id;
    g_autofree VmbQcow2Entry *entries = g_new0(VmbQcow2Entry, VMB_QCOW2_L2_ENTRIES);
    g_autoptr(VmbQcow2Reader) reader = vmb_qcow2_reader_open(
        run->child_image, vmb_round_up(run->child_disk->size, VMB_QCOW2_SECTOR), run->label, NULL);
    for (guint i = 0; parent->damage != NULL && i < parent->damage->len; i++) {
        const VmbDamage *damage = parent->damage->pdata[i];
        guint64 end = MIN(damage->offset + damage->length, run->child_disk->size);
        guint64 loaded = G_MAXUINT64;
        gboolean any = FALSE;
        if (strcmp(damage->disk, id) != 0)
            continue;
        for (guint64 at = vmb_round_down(damage->offset, VMB_BLOCK_SIZE); at < end;
             at += VMB_BLOCK_SIZE) {
            guint64 index = at / VMB_QCOW2_L2_SPAN;
            if (index != loaded)
                any = reader != NULL &&
                      vmb_qcow2_reader_table(reader, index, entries, &any, NULL) && any;
            loaded = index;
            if (!any || entries[at / VMB_BLOCK_SIZE % VMB_QCOW2_L2_ENTRIES].kind == VMB_BLOCK_ABSENT)
                vmb_point_state_add_damage(child, id, at, MIN(VMB_BLOCK_SIZE, end - at));
        }
    }
    for (guint i = 0; i < run->damage->len; i++) {
        guint64 at = g_array_index(run->damage, guint64, i);
        vmb_point_state_add_damage(child, id, at,
                                   MIN(VMB_BLOCK_SIZE, run->child_disk->size - at));
    }
}

typedef struct {
    VmbFoldRun *run;
    const VmbPointState *parent;
} Carry;

/* What a verification said of the child alone does not speak of what it has taken up. */
static void
carry_state(VmbPointState *child, gpointer user)
{
    const Carry *carry = user;
    child->verified_ns = MIN(child->verified_ns, carry->parent->verified_ns);
    child->checked_ns = MIN(child->checked_ns, carry->parent->checked_ns);
    carry_damage(carry->run, carry->parent, child);
    if (child->damage != NULL && child->damage->len > 0) {
        g_free(child->verify_result);
        child->verify_result = g_strdup("damaged");
    } else if (child->verified_ns == 0 && child->checked_ns == 0) {
        g_clear_pointer(&child->verify_result, g_free);
    }
}

static void
note_state(VmbFoldRun *run)
{
    g_auto(VmbPointState) parent = {0};
    g_autoptr(GError) error = NULL;
    Carry carry = {run, &parent};
    if (!vmb_point_state_read(run->parent, &parent, &error) ||
        !vmb_point_state_change(run->child, carry_state, &carry, &error))
        vmb_warning("%s", error->message);
}

gboolean
vmb_fold_commit(VmbFoldRun *run, gboolean *in_use, GError **error)
{
    g_autoptr(GError) busy = NULL;
    *in_use = FALSE;
    g_autoptr(VmbLock) structure =
        vmb_pins_lock_structure(run->domain, TRUE, STRUCTURE_WAIT_NS, run->cancel, &busy);
    if (structure != NULL)
        g_ptr_array_set_size(run->locks, 0); /* our own shared ones: nobody can come between */
    g_autoptr(VmbLock) parent = structure != NULL ? lock_point(run->parent, &busy) : NULL;
    g_autoptr(VmbLock) child = parent != NULL ? lock_point(run->child, &busy) : NULL;
    g_auto(VmbFd) first =
        child != NULL ? lock_image(run->child, run->child_disk->image, &busy) : -1;
    g_auto(VmbFd) second =
        first >= 0 ? lock_image(run->parent, run->parent_disk->image, &busy) : -1;
    if (second < 0) {
        *in_use = g_error_matches(busy, VMB_ERROR, VMB_ERROR_LOCKED);
        if (*in_use)
            run->report->deferred = g_strdup(busy->message);
        else
            g_propagate_error(error, g_steal_pointer(&busy));
        return FALSE;
    }
    note_state(run);
    if (!switch_image(run, error) || !finish_switched(run->domain, run->record, error))
        return FALSE;
    vmb_fd_clear(&second);
    vmb_fd_clear(&first);
    g_clear_pointer(&child, vmb_lock_free);
    g_clear_pointer(&parent, vmb_lock_free);
    g_clear_pointer(&structure, vmb_lock_free);
    return finish_cleaning(run->domain, run->record, error);
}
