/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a check-up: can each domain, disk by disk, be backed up incrementally? */
#pragma once
#include <gio/gio.h>

typedef enum { VMB_DOCTOR_OK, VMB_DOCTOR_NOTE, VMB_DOCTOR_PROBLEM } VmbDoctorGrade;

typedef struct {
    VmbDoctorGrade grade;
    char *domain; /* NULL: about the host */
    char *disk;   /* target or NULL */
    char *topic;  /* "libvirt", "agent", "disk", "scratch", "socket", "job", "leftovers", "repair",
                     ... */
    char *message;
    char *advice;    /* what to change, with the exact command; or NULL */
    gboolean locked; /* a run is at work, so nothing was repaired */
} VmbDoctorLine;
void vmb_doctor_line_free(VmbDoctorLine *line);

typedef struct {
    const char *uri;
    const char *repository;     /* may be NULL: then nothing is said of points */
    const char *const *domains; /* NULL or empty: all */
    const char *scratch_dir;    /* NULL: the default */
    gboolean repair;            /* undo what dead runs have left; needs a repository */
    GCancellable *cancel;
} VmbDoctorOptions;

/* A GPtrArray of VmbDoctorLine; changes nothing without repair. Domains that libvirt does not know
 * count if the repository holds leftovers of theirs. Errors: VMB_ERROR_LIBVIRT, VMB_ERROR_DOMAIN;
 * with repair also VMB_ERROR_NO_REPOSITORY for a copy, and VMB_ERROR_FAILED if it cannot be
 * written. */
GPtrArray *vmb_doctor(const VmbDoctorOptions *options, GError **error);
