/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guard: a second process that thaws the guest and ends the job when the first one cannot. */
#pragma once
#include "virt/connection.h"

typedef struct {
    const char *uri;
    const char *uuid;
    const char *socket;   /* identifies our job in its XML */
    const char *scratch_dir; /* and its images in QEMU */
    guint64 budget_ns;    /* freeze budget */
    gboolean may_freeze;
    gboolean may_pause;
} VmbGuardSpec;

typedef struct VmbGuard VmbGuard;

/* Starts /proc/self/exe with the hidden verb (own session, TERM/INT/HUP ignored, nothing secret in
 * argv, standard output, standard error and all other descriptors closed; it reports to syslog) and
 * waits until it has connected to libvirt. It stays our child and is never a zombie.
 * Errors: VMB_ERROR_FAILED: no backup without a guard. */
VmbGuard *vmb_guard_start(const VmbGuardSpec *spec, GError **error);
/* From here to vmb_guard_begun() a program that dies may leave a job that has yet to begin: the guard
 * waits for it. Both do nothing if the guard has died. */
void vmb_guard_beginning(VmbGuard *guard);
/* The job has begun or failed to. */
void vmb_guard_begun(VmbGuard *guard);
/* Tells the guard, and waits for its acknowledgement, that the freeze is about to be asked for: the
 * budget runs. */
gboolean vmb_guard_freezing(VmbGuard *guard, GError **error);
/* The guest is released, and no freeze of ours is under way. */
gboolean vmb_guard_thawed(VmbGuard *guard, GError **error);
/* TRUE once the guard has thawed on its own (the budget ran out). */
gboolean vmb_guard_fired(VmbGuard *guard);
/* FALSE if the process has died. */
gboolean vmb_guard_alive(VmbGuard *guard);
/* A descriptor that polls POLLHUP when the process has died; borrowed, not to be read. */
int vmb_guard_descriptor(VmbGuard *guard);
/* Makes the guard release the guest, however long its agent takes to answer (after a freeze or thaw that
 * timed out). Its other duties go on; vmb_guard_free() does not wait for it then. */
void vmb_guard_detach(VmbGuard *guard);
/* The job could not be ended: vmb_guard_free() then leaves the guard to act as if the program had died. */
void vmb_guard_hand_over(VmbGuard *guard);
/* Tells the guard that all is done and waits for its end (bounded). Without this call, as after a
 * crash, the end of the pipe makes the guard thaw, resume, and end the job that has our socket. */
void vmb_guard_free(VmbGuard *guard);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbGuard, vmb_guard_free)

/* Waits, at most @ns, until the guard of an earlier run has ended: it thaws the guest as long as calls of its
 * dead program may be under way, and would thaw the next run's freeze too. @run_dir: the directory of
 * that run's socket, which the guard keeps locked (flock); absent: nothing to wait for. FALSE if it is still at
 * work. */
gboolean vmb_guard_wait_for_end(const char *run_dir, guint64 ns);

/* The process itself: main() hands over when argv[1] is VMB_GUARD_VERB. Returns the exit status. */
#define VMB_GUARD_VERB "--internal-guard"
int vmb_guard_main(int argc, char **argv);
