/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The shapes of --json: what scripts rely on, in one place. */
#pragma once
#include "repo/check.h"
#include "repo/summary.h"

#define VMB_JSON_SCHEMA 1

/* All functions return new objects; free with json_object_put() or hand them to a container. */

/* {"schema": 1}, with "type" if @type is not NULL. */
VmbJson *vmb_view_new(const char *type);

/* A point as in `list`: id, sequence, domain, uuid, time, level, consistency, stored, disks. */
VmbJson *vmb_view_point(const VmbManifest *manifest);
/* The same, and frees (@frees; null: not known), protected, tags, verified, checked, verify_result. */
VmbJson *vmb_view_summary(const VmbSummary *point, const char *uuid, guint64 frees);

/* A point that cannot be read: id, domain (may be NULL), uuid, damaged, error. @id may be NULL. */
VmbJson *vmb_view_damaged(const char *id, const char *domain, const char *uuid,
                          const GError *error);

/* Array of {"code", "warning", "disk", "message"} from VmbReason. */
VmbJson *vmb_view_reasons(const GPtrArray *reasons);

/* {"code", "message"}; NULL (JSON null) for no error. */
VmbJson *vmb_view_error(const GError *error);

/* Array of strings; empty for NULL. */
VmbJson *vmb_view_texts(const GPtrArray *texts);

/* Array of {"point", "disk", "file", "offset", "length", "kind", "affected", "message"} from VmbFinding; offset
 * and affected (ids of points) are null where there are none. */
VmbJson *vmb_view_findings(const GPtrArray *findings);

/* Adds a time, null for 0; a size, null for VMB_BYTES_UNKNOWN. */
void vmb_view_add_time(VmbJson *object, const char *key, gint64 time_ns);
void vmb_view_add_bytes(VmbJson *object, const char *key, guint64 bytes);

/* {"verified", "checked": times or null, "result": "ok", "damaged" or null, "metadata_damaged", "damage": [{"disk"
 * (identity), "offset", "length"}], "protected", "tags"}. */
VmbJson *vmb_view_state(const VmbPointState *state);
