/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling the service manager what we are at: the protocol of sd_notify(3). */
#pragma once

/* @state: "READY=1". Without a service manager nothing happens. */
void vmb_notify(const char *state);
