/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of an export: the disks of a point served over NBD, until somebody has had enough. */
#pragma once
#include "job/serve.h"

typedef struct {
    const char *repository;
    const char *point;        /* "DOMAIN/POINT" */
    const char *const *disks; /* targets, NULL-terminated; NULL or empty: all */
    const char *since;        /* an older point of the same domain (no domain in front), or NULL */
    VmbServeAddress address;
    gboolean writable;        /* over an overlay that is thrown away; the point is not touched */
    const char *overlay_dir;  /* NULL: the temporary directory */
    const char *keep_overlay; /* path for the overlay of the one disk; NULL: it is not kept */
    gboolean ignore_damage;   /* serve what is known to be damaged */
    const char *command;      /* NULL: serve until cancelled */
    GCancellable *cancel;
    VmbServeReady ready;      /* may be NULL */
    gpointer user;            /* of ready */
} VmbExportOptions;

/* The point, with all that it builds on, is kept as it is meanwhile. *@status: exit status of the command, or 0. Errors: as of
 * vmb_repository_find_point(), vmb_serve_place_new() and vmb_serve(); VMB_ERROR_DAMAGE; VMB_ERROR_USAGE. */
gboolean vmb_export(const VmbExportOptions *options, int *status, GError **error);
