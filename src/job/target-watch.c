/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thread that ends the backup job when the repository's filesystem hangs. */
#include "job/target-watch.h"
#include "util/log.h"
#include "util/stall.h"
#include "util/units.h"
#include "virt/backup-job.h"

/* Between two looks. */
#define PERIOD_MAX_US (1000 * 1000)
#define PERIOD_MIN_US (50 * 1000)
/* A user who wants to stop waits no longer than this for a call to return. */
#define STOP_PATIENCE_NS (5 * G_GUINT64_CONSTANT(1000000000))

struct VmbTargetWatch {
    VmbDomain *domain;
    char *socket;
    GCancellable *stop;
    guint64 patience; /* ns */
    GMutex lock;
    GCond wake;
    gboolean ending; /* the thread is to end */
    GError *error;
    GThread *thread;
};

static gboolean
hangs(const VmbTargetWatch *watch)
{
    gboolean stopping = g_cancellable_is_cancelled(watch->stop);
    return vmb_io_standstill() >= (stopping ? MIN(watch->patience, STOP_PATIENCE_NS)
                                              : watch->patience);
}

static void
note(VmbTargetWatch *watch)
{
    GError *error = g_error_new(
        VMB_ERROR, VMB_ERROR_NO_PROGRESS,
        "%s: the repository's filesystem did not answer for %" G_GUINT64_FORMAT " s, so the backup "
        "job was ended; the guest goes on and older points are intact. Look at that filesystem, "
        "then run the backup again",
        vmb_domain_name(watch->domain), watch->patience / 1000000000);
    g_mutex_lock(&watch->lock);
    if (watch->error == NULL && !g_cancellable_is_cancelled(watch->stop))
        watch->error = g_steal_pointer(&error);
    g_mutex_unlock(&watch->lock);
    g_clear_error(&error);
    g_cancellable_cancel(watch->stop);
}

/* TRUE once there is no job of ours any more. */
static gboolean
end_job(VmbTargetWatch *watch)
{
    gboolean ended = FALSE;
    g_autoptr(GError) error = NULL;
    if (!vmb_backup_job_end_by_socket(watch->domain, watch->socket, &ended, &error)) {
        vmb_warning("%s", error->message);
        return g_error_matches(error, VMB_ERROR, VMB_ERROR_DOMAIN);
    }
    if (ended)
        vmb_warning("%s: the repository's filesystem hangs; the backup job was ended, so that the "
                    "guest is free of it. This run waits for the filesystem",
                    vmb_domain_name(watch->domain));
    return TRUE;
}

static gpointer
watch_thread(gpointer data)
{
    VmbTargetWatch *watch = data;
    gint64 period = (gint64)CLAMP(watch->patience / 8000, PERIOD_MIN_US, PERIOD_MAX_US);
    g_mutex_lock(&watch->lock);
    for (gboolean done = FALSE; !watch->ending && !done;) {
        gint64 until = g_get_monotonic_time() + period;
        while (!watch->ending && g_cond_wait_until(&watch->wake, &watch->lock, until))
            continue;
        if (watch->ending || !hangs(watch))
            continue;
        g_mutex_unlock(&watch->lock);
        note(watch);
        done = end_job(watch);
        g_mutex_lock(&watch->lock);
    }
    g_mutex_unlock(&watch->lock);
    return NULL;
}

VmbTargetWatch *
vmb_target_watch_start(VmbDomain *domain, const char *socket, GCancellable *stop)
{
    VmbTargetWatch *watch = g_new0(VmbTargetWatch, 1);
    watch->domain = vmb_domain_ref(domain);
    watch->socket = g_strdup(socket);
    watch->stop = g_object_ref(stop);
    watch->patience = vmb_io_patience();
    g_mutex_init(&watch->lock);
    g_cond_init(&watch->wake);
    watch->thread = g_thread_new("target-watch", watch_thread, watch);
    return watch;
}

gboolean
vmb_target_watch_fired(VmbTargetWatch *watch, GError **error)
{
    g_mutex_lock(&watch->lock);
    gboolean fired = watch->error != NULL;
    if (fired && error != NULL)
        *error = g_error_copy(watch->error);
    g_mutex_unlock(&watch->lock);
    return fired;
}

void
vmb_target_watch_free(VmbTargetWatch *watch)
{
    if (watch == NULL)
        return;
    g_mutex_lock(&watch->lock);
    watch->ending = TRUE;
    g_cond_signal(&watch->wake);
    g_mutex_unlock(&watch->lock);
    g_thread_join(watch->thread);
    g_clear_error(&watch->error);
    g_free(watch->socket);
    vmb_domain_unref(watch->domain);
    g_object_unref(watch->stop);
    g_mutex_clear(&watch->lock);
    g_cond_clear(&watch->wake);
    g_free(watch);
}
