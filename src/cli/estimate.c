/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmbackup estimate: what a backup would need, before it is made. */
#include "job/estimate.h"
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "util/log.h"
#include "util/units.h"

static char *
size_or_null(guint64 bytes)
{
    return bytes != VMB_BYTES_UNKNOWN ? vmb_units_format_size(bytes) : NULL;
}

static void
add_row(VmbTable *table, const char *domain, const VmbEstimateDisk *disk)
{
    g_autofree char *name = g_strdup_printf("%s/%s", domain, disk->target);
    g_autofree char *size = vmb_units_format_size(disk->size);
    g_autofree char *allocated = vmb_units_format_size(disk->allocated);
    g_autofree char *most = vmb_units_format_size(disk->full_most);
    g_autofree char *likely = size_or_null(disk->full_likely);
    g_autofree char *daily = size_or_null(disk->daily);
    g_autofree char *need = vmb_units_format_size(disk->need);
    vmb_table_add(table, name, size, allocated, most, likely, daily, vmb_level_name(disk->level),
                  need);
}

static void
print_places(const VmbEstimates *estimates)
{
    g_autofree char *need = vmb_units_format_size(estimates->need);
    g_autofree char *left = vmb_units_format_size(estimates->free_bytes);
    g_autofree char *scratch = vmb_units_format_size(estimates->scratch_need);
    g_autofree char *reserve = vmb_units_format_size(estimates->scratch_reserve);
    g_autofree char *scratch_left = vmb_units_format_size(estimates->scratch_free);
    if (estimates->repository != NULL)
        vmb_output_line("Repository: %s at most for the next backups, %s are free in %s: %s", need,
                        left, estimates->repository, estimates->fits ? "it fits" : "TOO LITTLE");
    else
        vmb_output_line("Repository: %s at most for the next backups", need);
    if (estimates->scratch_need > 0)
        vmb_output_line("Scratch:    %s while the largest domain is backed up, and %s in reserve, "
                        "%s are free in %s: %s",
                        scratch, reserve, scratch_left, estimates->scratch,
                        estimates->scratch_fits ? "it fits" : "TOO LITTLE");
    else
        vmb_output_line("Scratch:    none is needed, for no domain runs");
}

static void
print_text(const VmbEstimates *estimates)
{
    static const char *const headers[] = {"DISK",           ">VIRTUAL", ">ALLOCATED",
                                          ">FULL, AT MOST", ">LIKELY",  ">PER DAY",
                                          "NEXT",           ">NEEDS",   NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    for (guint i = 0; i < estimates->domains->len; i++) {
        const VmbEstimate *estimate = estimates->domains->pdata[i];
        for (guint d = 0; d < estimate->disks->len; d++)
            add_row(table, estimate->domain, estimate->disks->pdata[d]);
    }
    if (vmb_table_rows(table) == 0)
        return;
    g_autofree char *text = vmb_table_text(table, "");
    vmb_output_text(text);
    vmb_output_line("%s", "");
    print_places(estimates);
}

static VmbJson *
view_disk(const VmbEstimateDisk *disk)
{
    VmbJson *object = json_object_new_object();
    g_autofree char *ratio = g_strdup_printf("%.2f", disk->ratio);
    vmb_json_add_string(object, "target", disk->target);
    vmb_json_add_uint(object, "size", disk->size);
    vmb_json_add_uint(object, "allocated", disk->allocated);
    vmb_json_add_uint(object, "full_most", disk->full_most);
    vmb_view_add_bytes(object, "full_likely", disk->full_likely);
    vmb_json_add(object, "ratio",
                 disk->ratio > 0 ? json_object_new_double_s(disk->ratio, ratio) : NULL);
    vmb_view_add_bytes(object, "growth_per_day", disk->daily);
    vmb_json_add_string(object, "next_level", vmb_level_name(disk->level));
    vmb_json_add_string(object, "next_method", vmb_method_name(disk->method));
    vmb_json_add_string(object, "reason",
                        disk->reason < VMB_N_REASONS ? vmb_reason_name(disk->reason) : NULL);
    vmb_json_add_uint(object, "need", disk->need);
    return object;
}

static VmbJson *
view_domain(const VmbEstimate *estimate)
{
    VmbJson *object = json_object_new_object(), *disks = json_object_new_array();
    vmb_json_add_string(object, "domain", estimate->domain);
    vmb_json_add_string(object, "uuid", estimate->uuid);
    vmb_json_add(object, "error", vmb_view_error(estimate->error));
    vmb_json_add_bool(object, "running", estimate->uuid != NULL && !estimate->offline);
    vmb_json_add_uint(object, "points", estimate->n_points);
    vmb_json_add_uint(object, "scratch_need", estimate->scratch_need);
    vmb_json_add_uint(object, "scratch_worst", estimate->scratch_worst);
    for (guint i = 0; i < estimate->disks->len; i++)
        json_object_array_add(disks, view_disk(estimate->disks->pdata[i]));
    vmb_json_add(object, "disks", disks);
    return object;
}

static void
print_json(const VmbEstimates *estimates)
{
    VmbJson *document = vmb_view_new(NULL), *domains = json_object_new_array();
    gboolean known = estimates->repository != NULL;
    for (guint i = 0; i < estimates->domains->len; i++)
        json_object_array_add(domains, view_domain(estimates->domains->pdata[i]));
    vmb_json_add(document, "domains", domains);
    vmb_json_add_uint(document, "full_most", estimates->full_most);
    vmb_json_add_uint(document, "need", estimates->need);
    vmb_view_add_bytes(document, "free", known ? estimates->free_bytes : VMB_BYTES_UNKNOWN);
    vmb_json_add(document, "fits", known ? json_object_new_boolean(estimates->fits) : NULL);
    vmb_json_add_uint(document, "scratch_need", estimates->scratch_need);
    vmb_json_add_uint(document, "scratch_reserve", estimates->scratch_reserve);
    vmb_json_add_uint(document, "scratch_free", estimates->scratch_free);
    vmb_json_add_bool(document, "scratch_fits", estimates->scratch_fits);
    vmb_output_json_document(document);
}

/* A domain without an estimate counts more than space. */
static int
status_of(const VmbEstimates *estimates)
{
    VmbExitTally tally = {0};
    for (guint i = 0; i < estimates->domains->len; i++) {
        const VmbEstimate *estimate = estimates->domains->pdata[i];
        vmb_exit_tally_add(&tally, estimate->error);
        if (estimate->error != NULL)
            vmb_log(VMB_LOG_ERROR, "%s", estimate->error->message);
    }
    int status = vmb_exit_tally_status(&tally);
    if (status != VMB_EXIT_OK)
        return status;
    return estimates->fits && estimates->scratch_fits ? VMB_EXIT_OK : VMB_EXIT_FAILED;
}

int
vmb_verb_estimate(VmbCommand *command)
{
    gboolean all = FALSE, json = FALSE;
    VmbEstimateOptions job = {0};
    const VmbOption options[] = {
        {"all", 'a', VMB_OPTION_FLAG, NULL, "every domain, running or shut off", &all},
        {"scratch-dir", 0, VMB_OPTION_STRING, "DIR", "the scratch directory that backups will use",
         &job.scratch_dir},
        {"json", 0, VMB_OPTION_FLAG, NULL, "one JSON document instead of a table", &json},
        {NULL},
    };
    g_autoptr(GError) error = NULL;
    int status = VMB_EXIT_OK;
    if (!vmb_command_begin(command, options, 0, G_MAXUINT, &status))
        return status;
    job.domains = vmb_command_operands(command);
    if (all == (job.domains[0] != NULL)) {
        vmb_error_set(&error, VMB_ERROR_USAGE,
                      all ? "--all and DOMAIN exclude each other" : "name a domain, or give --all");
        return vmb_command_fail(error);
    }
    job.uri = command->uri;
    job.repository = vmb_command_repository(command, NULL);
    job.cancel = vmb_signals_install();
    g_autoptr(VmbEstimates) estimates = vmb_estimate(&job, &error);
    if (estimates == NULL)
        return vmb_command_fail(error);
    if (json)
        print_json(estimates);
    else
        print_text(estimates);
    return status_of(estimates);
}
