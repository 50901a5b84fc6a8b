/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The thread that runs libvirt's default event loop while connections are open. */
#include "virt/event-loop.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

/* Rounds at the end, so that a source that is always ready cannot hold up the end of the program.
 */
#define LAST_ROUNDS 100

static GMutex lock;
static guint users;
static GThread *thread;
static gint stopping;

static gpointer
run_loop(gpointer data)
{
    while (!g_atomic_int_get(&stopping)) {
        /* Without a working loop there would be no keepalive; a pause keeps a failure from
         * spinning. */
        if (virEventRunDefaultImpl() < 0)
            g_usleep(100 * 1000);
    }
    /* Closed connections leave their sockets to be released by the loop. */
    for (int i = 0; i < LAST_ROUNDS && g_main_context_pending(NULL); i++)
        virEventRunDefaultImpl();
    return NULL;
}

/* Its only purpose is that an iteration of the loop returns. */
static void
wake(int timer, void *data)
{
    virEventUpdateTimeout(timer, -1);
}

static void
ignore_error(void *data, virErrorPtr virt_error)
{
}

static gboolean
register_once(GError **error)
{
    static gboolean registered;
    if (registered)
        return TRUE;
    virSetErrorFunc(NULL, ignore_error);
    if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0)
        return vmb_error_set(error, VMB_ERROR_LIBVIRT, "cannot set up libvirt's event loop: %s",
                             virGetLastErrorMessage());
    registered = TRUE;
    return TRUE;
}

gboolean
vmb_event_loop_enter(GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    if (!register_once(error))
        return FALSE;
    if (users++ == 0) {
        g_atomic_int_set(&stopping, 0);
        thread = g_thread_new("libvirt-events", run_loop, NULL);
    }
    return TRUE;
}

void
vmb_event_loop_leave(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    g_assert(users > 0);
    if (--users > 0)
        return;
    g_atomic_int_set(&stopping, 1);
    int timer = virEventAddTimeout(0, wake, NULL, NULL);
    g_thread_join(g_steal_pointer(&thread));
    if (timer >= 0)
        virEventRemoveTimeout(timer);
}
