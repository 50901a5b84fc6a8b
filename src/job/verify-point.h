/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying one point that is pinned, and keeping the result. */
#pragma once
#include "job/verify.h"

typedef struct {
    const VmbVerifyOptions *options;
    VmbRepoDomain *domain;
    GPtrArray *points;   /* all of the domain */
    VmbPoint *point;     /* one of them */
    GHashTable *needed;  /* of vmb_verify_needed() */
} VmbVerifyPoint;

/* Fills findings, advice, bytes and error of @result, whose names are set. *@kept is FALSE if the result
 * could not be kept because the repository cannot be written. */
void vmb_verify_point(const VmbVerifyPoint *job, VmbVerifyResult *result, gboolean *kept);
