/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that look at the free space of the scratch directory and stop the backup in time. */
#include "job/scratch.h"
#include "job/scratch-space.h"
#include "util/error.h"
#include "util/fsio.h"
#include "util/log.h"

/* Between two looks. statvfs() costs microseconds; a guest at 2 GB/s writes 100 MB meanwhile. */
#define PERIOD_US (50 * 1000)
/* Between two questions to libvirt whether QEMU paused the domain; in a thread of its own, because libvirt
 * may hang. */
#define STATE_PERIOD_US (1000 * 1000)

struct VmbScratchWatch {
    char *dir;
    VmbDomain *domain;
    VmbDomain *own; /* the same, by the state thread's connection */
    GCancellable *stop;
    guint64 reserve;
    gboolean had_io_error; /* QEMU had paused the guest before the job: not for us to judge */
    GMutex lock;
    GCond wake;
    gboolean ending;
    GError *error;
    GThread *space, *state;
};

static void
fire(VmbScratchWatch *watch, GError *error)
{
    g_mutex_lock(&watch->lock);
    if (watch->error == NULL)
        watch->error = error;
    else
        g_error_free(error);
    g_mutex_unlock(&watch->lock);
    g_cancellable_cancel(watch->stop);
}

static gboolean
space_is_short(VmbScratchWatch *watch)
{
    guint64 available;
    if (!vmb_fs_free_space(watch->dir, &available, NULL) || available >= watch->reserve)
        return FALSE;
    g_autofree char *left = vmb_units_format_size(available);
    fire(watch, g_error_new(VMB_ERROR, VMB_ERROR_NO_SPACE,
                            "%s: only %s are left for scratch data in %s, so the backup was given "
                            "up before the guest could be stopped by it; the guest goes on and "
                            "older points are intact. Give it more space with --scratch-dir, or "
                            "run it when the guest writes less",
                            vmb_domain_name(watch->domain), left, watch->dir));
    return TRUE;
}

static gboolean
domain_is_stopped(VmbScratchWatch *watch)
{
    VmbDomainState state;
    g_autoptr(GError) error = NULL;
    if (!vmb_domain_state(watch->own, &state, &error)) {
        if (g_error_matches(error, VMB_ERROR, VMB_ERROR_LIBVIRT) &&
            vmb_connection_reopen(vmb_domain_connection(watch->own), NULL))
            vmb_domain_refresh(watch->own, NULL);
        return FALSE;
    }
    if (watch->had_io_error || !state.io_error)
        return FALSE;
    fire(watch, g_error_new(VMB_ERROR, VMB_ERROR_NO_SPACE,
                            "%s: QEMU paused the guest for an I/O error while the backup ran; the "
                            "backup is given up and the guest resumed. Look at the space of the "
                            "disks and of %s",
                            vmb_domain_name(watch->domain), watch->dir));
    return TRUE;
}

/* Until something is wrong, or the end. */
static void
look_often(VmbScratchWatch *watch, gboolean (*is_wrong)(VmbScratchWatch *watch), gint64 period_us)
{
    g_mutex_lock(&watch->lock);
    while (!watch->ending) {
        g_mutex_unlock(&watch->lock);
        gboolean wrong = is_wrong(watch);
        g_mutex_lock(&watch->lock);
        if (wrong)
            break;
        gint64 until = g_get_monotonic_time() + period_us;
        while (!watch->ending && g_cond_wait_until(&watch->wake, &watch->lock, until))
            continue;
    }
    g_mutex_unlock(&watch->lock);
}

static gpointer
space_thread(gpointer data)
{
    look_often(data, space_is_short, PERIOD_US);
    return NULL;
}

static gpointer
state_thread(gpointer data)
{
    VmbScratchWatch *watch = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbConnection) connection =
        vmb_connection_open(vmb_connection_uri(vmb_domain_connection(watch->domain)), &error);
    g_autoptr(VmbDomain) own =
        connection != NULL
            ? vmb_domain_lookup(connection, vmb_domain_uuid(watch->domain), &error)
            : NULL;
    watch->own = own;
    if (own != NULL)
        look_often(watch, domain_is_stopped, STATE_PERIOD_US);
    else
        vmb_info("%s; the guest is not watched for I/O errors", error->message);
    return NULL;
}

VmbScratchWatch *
vmb_scratch_watch_start(const VmbScratch *scratch, VmbDomain *domain, gboolean had_io_error,
                        GCancellable *stop)
{
    VmbScratchWatch *watch = g_new0(VmbScratchWatch, 1);
    guint64 available = 0;
    vmb_fs_free_space(scratch->dir, &available, NULL);
    watch->dir = g_strdup(scratch->dir);
    watch->domain = vmb_domain_ref(domain);
    watch->stop = g_object_ref(stop);
    watch->had_io_error = had_io_error;
    watch->reserve = vmb_scratch_reserve(available);
    g_mutex_init(&watch->lock);
    g_cond_init(&watch->wake);
    watch->space = g_thread_new("scratch-space", space_thread, watch);
    watch->state = g_thread_new("scratch-state", state_thread, watch);
    return watch;
}

gboolean
vmb_scratch_watch_fired(VmbScratchWatch *watch, GError **error)
{
    g_mutex_lock(&watch->lock);
    gboolean fired = watch->error != NULL;
    if (fired && error != NULL)
        *error = g_error_copy(watch->error);
    g_mutex_unlock(&watch->lock);
    return fired;
}

void
vmb_scratch_watch_free(VmbScratchWatch *watch)
{
    if (watch == NULL)
        return;
    g_mutex_lock(&watch->lock);
    watch->ending = TRUE;
    g_cond_broadcast(&watch->wake);
    g_mutex_unlock(&watch->lock);
    g_thread_join(watch->space);
    g_thread_join(watch->state);
    g_clear_error(&watch->error);
    g_free(watch->dir);
    vmb_domain_unref(watch->domain);
    g_object_unref(watch->stop);
    g_mutex_clear(&watch->lock);
    g_cond_clear(&watch->wake);
    g_free(watch);
}
