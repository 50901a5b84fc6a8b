/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the check-up share. */
#pragma once
#include "job/doctor.h"
#include "repo/repository.h"
#include "virt/domain.h"

/* What is known while the lines are written. */
typedef struct {
    const VmbDoctorOptions *options;
    GPtrArray *lines;
    VmbConnection *connection;
    VmbRepository *repository; /* NULL: none given */
    VmbDomain *domain;         /* NULL: libvirt does not know it (any more) */
    const char *name, *uuid;   /* of the domain; NULL: it is about the host */
} VmbDoctor;

/* Appends a line, which may still be given an advice. */
VmbDoctorLine *vmb_doctor_say(VmbDoctor *doctor, VmbDoctorGrade grade, const char *disk,
                              const char *topic, const char *format, ...) G_GNUC_PRINTF(5, 6);

/* Reports what runs that died have left of this domain. @repo_domain: NULL if the repository does
 * not hold it. */
void vmb_doctor_leftovers(VmbDoctor *doctor, VmbRepoDomain *repo_domain, const GPtrArray *points);

/* Undoes what can be undone, under the domain's locks, and reports that. */
void vmb_doctor_repair(VmbDoctor *doctor);

/* UUIDs (char *) of domains of the repository that libvirt does not know and that have leftovers.
 */
GPtrArray *vmb_doctor_gone_domains(VmbDoctor *doctor, GError **error);
