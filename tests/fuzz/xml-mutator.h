/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mutations that keep an XML document a document in libvirt's language. */
#pragma once
#include <glib.h>

/* As LLVMFuzzerCustomMutator(), for inputs of @skip bytes followed by a document. What cannot be
 * parsed is changed byte by byte. */
gsize fuzz_xml_mutate(guint8 *data, gsize size, gsize max_size, guint seed, gsize skip);
