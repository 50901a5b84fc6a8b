/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests: files and sockets that the program has left open at its end. */
#pragma once

/* Does nothing without the test variable VMBACKUP_TEST_LEAKS. To be called first of all: what is open then
 * belongs to somebody else. */
void vmb_leak_begin(void);
/* Names each file and socket that is open and was not at the beginning, on standard error. Pipes and event
 * descriptors of threads that live as long as the program are no leak. */
void vmb_leak_end(void);
