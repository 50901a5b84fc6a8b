/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a repository holds, for listing and showing. */
#pragma once
#include "repo/summary.h"

/* One domain of the repository. */
typedef struct {
    char *uuid;
    char *name;        /* of the newest point that can be read; NULL if there is none */
    GPtrArray *points; /* VmbSummary by sequence, damaged ones last, no retired ones; empty if @damage is set */
    guint64 *frees;    /* for each of them as by vmb_summaries_frees() */
    GPtrArray *retired; /* VmbSummary: hidden, but still there */
    GError *damage;    /* its points could not be looked at */
} VmbCatalogDomain;

/* Domains in the order of their names, each once. @names: names or UUIDs of the only ones that are wanted,
 * NULL-terminated; NULL or empty: all. GPtrArray of VmbCatalogDomain. Errors: as vmb_repository_open() and
 * vmb_repository_find_domain(). */
GPtrArray *vmb_catalog_read(VmbRepository *repository, const char *const *names, GError **error);

/* One point with its state and its manifest as it is stored. */
typedef struct {
    GPtrArray *points; /* all of the domain; owns @point */
    VmbPoint *point;
    VmbPointState state;
    VmbJson *manifest;
} VmbCatalogPoint;
void vmb_catalog_point_free(VmbCatalogPoint *entry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbCatalogPoint, vmb_catalog_point_free)

/* @text: as for vmb_repository_find_point(). Errors: the same, and VMB_ERROR_DAMAGE. */
VmbCatalogPoint *vmb_catalog_find(const char *repository, const char *text, GError **error);
