/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the program and its guard say to each other over a pair of sequenced-packet sockets. */
#pragma once

/* The guard finds its end of the pair here. */
#define VMB_GUARD_FD 3
/* Longest packet either side accepts, in bytes. */
#define VMB_GUARD_PACKET 65536

/* The first packet is the specification: URI, UUID, socket path, scratch directory, budget in ns (decimal), "1" or
 * "0" for may_freeze, the same for may_pause, each ended by a NUL byte. All others begin with one of these. */
#define VMB_GUARD_BEGINNING 'B' /* to the guard: from now on the job may begin */
#define VMB_GUARD_FREEZING 'F'  /* to the guard: the budget runs from now on; answered by ACK */
#define VMB_GUARD_THAWED 'T'    /* to the guard: the guest is released, and will not freeze late */
#define VMB_GUARD_BEGUN 'J'     /* to the guard: the job has begun or failed to */
#define VMB_GUARD_STUCK 'S'     /* to the guard: release the guest, however long it takes */
#define VMB_GUARD_DONE 'D'      /* to the guard: nothing is left to look after */
#define VMB_GUARD_READY 'R'     /* from the guard: connected and waiting */
#define VMB_GUARD_ACK 'A'       /* from the guard */
#define VMB_GUARD_FIRED 'X'     /* from the guard: the budget is over, I am about to release the guest */
#define VMB_GUARD_ERROR 'E'     /* from the guard, instead of READY; a text follows */
