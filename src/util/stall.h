/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which calls wait for a filesystem, and since when: what tells that a target is dead. */
#pragma once
#include <glib.h>

/* Stands while a call that a dead filesystem may hold for ever is under way:
 * `g_auto(VmbIoMark) mark = vmb_io_mark();`. One for each call, not for a series of them. */
typedef guint VmbIoMark;
VmbIoMark vmb_io_mark(void);
void vmb_io_mark_clear(VmbIoMark *mark);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbIoMark, vmb_io_mark_clear)

/* For how long (ns) a marked call has been waiting while no other one has returned; 0: none waits. So a
 * long fsync() is no standstill while other threads can write. */
guint64 vmb_io_standstill(void);

/* A standstill of so many ns means that the filesystem is dead: 60 s, or as many milliseconds as the
 * test variable VMBACKUP_TEST_IO_PATIENCE_MS says. */
guint64 vmb_io_patience(void);
