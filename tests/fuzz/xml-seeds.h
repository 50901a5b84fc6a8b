/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domain XML as libvirt writes it, the seeds of the targets that read it. */
#pragma once

/* Writes them, each after the one byte of @first. */
void fuzz_xml_seeds(const char *first);
