/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What people and programs get to see: tables, progress, JSON and exit statuses. */
#include "cli/exit-status.h"
#include "cli/json-view.h"
#include "cli/progress-view.h"
#include "cli/table.h"
#include "util/progress.h"
#include "util/units.h"

#include <string.h>

#define SECOND G_GUINT64_CONSTANT(1000000000)

static void
test_table(void)
{
    static const char *const headers[] = {"NAME", ">SIZE", "LAST", NULL};
    g_autoptr(VmbTable) table = vmb_table_new(headers);
    vmb_table_add(table, "web01", "1 B", "x");
    vmb_table_add(table, "\350\263\207\346\226\231", "1234 B", NULL); /* two wide characters */
    vmb_table_add(table, "a\033[31m\nb", "", "");
    g_assert_cmpuint(vmb_table_rows(table), ==, 3);
    g_autofree char *text = vmb_table_text(table, "> ");
    g_assert_cmpstr(text, ==,
                    "> NAME        SIZE  LAST\n"
                    "> web01        1 B  x\n"
                    "> \350\263\207\346\226\231      1234 B  -\n"
                    "> a?[31m b\n");
}

static void
test_width(void)
{
    g_assert_cmpuint(vmb_text_width(""), ==, 0);
    g_assert_cmpuint(vmb_text_width("e\314\201"), ==, 1); /* a combining accent */
    g_assert_cmpuint(vmb_text_width("\303\244b"), ==, 2);
}

static void
test_progress_sum(void)
{
    g_auto(VmbProgressSum) none = {0};
    vmb_progress_sum_read(&none);
    g_assert_cmpuint(none.n, ==, 0);
    g_autoptr(VmbProgress) first = vmb_progress_new("web\00301");
    vmb_progress_phase(first, "reading");
    vmb_progress_add_total(first, 1000);
    vmb_progress_advance(first, 400, 100);
    g_auto(VmbProgressSum) one = {0};
    vmb_progress_sum_read(&one);
    g_assert_cmpstr(one.label, ==, "web?01");
    g_assert_cmpuint(one.total, ==, 1000);
    g_autoptr(VmbProgress) second = vmb_progress_new("db");
    vmb_progress_advance(second, 5, 5);
    g_auto(VmbProgressSum) two = {0};
    vmb_progress_sum_read(&two);
    g_assert_cmpstr(two.label, ==, "2 jobs");
    g_assert_cmpuint(two.done, ==, 405);
    g_assert_cmpuint(two.total, ==, 0); /* one does not know yet */
    vmb_progress_add_total(second, 500);
    g_auto(VmbProgressSum) known = {0};
    vmb_progress_sum_read(&known);
    g_assert_cmpuint(known.total, ==, 1500);
}

static void
test_progress_rate(void)
{
    VmbProgressRate rate = {0};
    VmbProgressSum sum = {.n = 1, .total = 1000 * VMB_MIB};
    vmb_progress_rate_update(&rate, &sum, SECOND);
    sum.done = 100 * VMB_MIB;
    sum.moved = 50 * VMB_MIB;
    vmb_progress_rate_update(&rate, &sum, 2 * SECOND);
    g_assert_cmpfloat_with_epsilon(rate.done_rate, 100.0 * VMB_MIB, 1);
    g_assert_cmpfloat_with_epsilon(rate.moved_rate, 50.0 * VMB_MIB, 1);
    /* A job that ends takes its counters with it; that is no negative rate. */
    sum.done = 10;
    vmb_progress_rate_update(&rate, &sum, 3 * SECOND);
    g_assert_cmpfloat_with_epsilon(rate.done_rate, 100.0 * VMB_MIB, 1);
    vmb_progress_rate_update(&rate, &sum, 3 * SECOND);
    g_assert_cmpfloat_with_epsilon(rate.done_rate, 100.0 * VMB_MIB, 1);
}

static void
test_progress_text(void)
{
    VmbProgressSum sum = {.n = 1,
                          .label = (char *)"web01",
                          .phase = "reading",
                          .done = 250 * VMB_MIB,
                          .total = 1000 * VMB_MIB};
    VmbProgressRate rate = {.done_rate = 75.0 * VMB_MIB, .moved_rate = 20.0 * VMB_MIB};
    g_autofree char *line = vmb_progress_line(&sum, &rate);
    g_assert_cmpstr(line, ==, "web01: reading, 25 %, 250 MiB of 1000 MiB, 20.0 MiB/s, 10.0 s left");
    for (guint width = 1; width < 200; width++) {
        g_autofree char *bar = vmb_progress_bar(&sum, &rate, width);
        g_assert_cmpuint(vmb_text_width(bar), <=, width);
    }
    g_autofree char *wide = vmb_progress_bar(&sum, &rate, 150);
    g_assert_nonnull(strstr(wide, "[#######.......................]  25 %"));
    sum.total = 0;
    g_autofree char *unknown = vmb_progress_line(&sum, &rate);
    g_assert_cmpstr(unknown, ==, "web01: reading, 250 MiB, 20.0 MiB/s");
    sum.total = 100; /* more done than was expected */
    g_autofree char *over = vmb_progress_bar(&sum, &rate, 100);
    g_assert_nonnull(strstr(over, "100 %"));
}

static void
add_result(VmbExitTally *tally, int code)
{
    g_autoptr(GError) error = NULL;
    if (code >= 0)
        vmb_error_set(&error, (VmbErrorCode)code, "x");
    vmb_exit_tally_add(tally, error);
}

static void
test_exit_status(void)
{
    static const struct {
        int codes[3], n, status;
    } cases[] = {
        {{-1}, 0, 0},
        {{-1, -1}, 2, 0},
        {{VMB_ERROR_LOCKED}, 1, 11},
        {{VMB_ERROR_LOCKED, VMB_ERROR_LOCKED}, 2, 11},
        {{VMB_ERROR_LOCKED, VMB_ERROR_QUIESCE}, 2, 1},
        {{-1, VMB_ERROR_QUIESCE}, 2, 3},
        {{VMB_ERROR_QUIESCE, -1, VMB_ERROR_LOCKED}, 3, 3},
        {{VMB_ERROR_NO_REPOSITORY}, 1, 10},
        {{VMB_ERROR_LIBVIRT}, 1, 20},
        {{VMB_ERROR_DOMAIN}, 1, 21},
        {{VMB_ERROR_NO_INCREMENTAL}, 1, 23},
        {{VMB_ERROR_DAMAGE}, 1, 4},
        {{VMB_ERROR_USAGE}, 1, 2},
        {{VMB_ERROR_NO_SPACE}, 1, 1},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        VmbExitTally tally = {0};
        for (int k = 0; k < cases[i].n; k++)
            add_result(&tally, cases[i].codes[k]);
        g_assert_cmpint(vmb_exit_tally_status(&tally), ==, cases[i].status);
    }
    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, G_FILE_ERROR_NOENT, "x");
    g_assert_cmpint(vmb_exit_status(foreign), ==, VMB_EXIT_FAILED);
    g_assert_cmpstr(vmb_error_name(foreign), ==, "failed");
}

static void
test_json_point(void)
{
    g_autoptr(VmbManifest) manifest = vmb_manifest_new();
    manifest->id = g_strdup("20261121T020000Z");
    manifest->domain = g_strdup("web\377\"01");
    manifest->uuid = g_strdup("0d1a6b4c-0000-4000-8000-00000000aa01");
    VmbManifestDisk *disk = vmb_manifest_disk_new();
    disk->target = g_strdup("vda");
    disk->size = 64 * VMB_TIB;
    disk->reason = VMB_REASON_FIRST_BACKUP;
    g_ptr_array_add(manifest->disks, disk);
    g_autoptr(VmbJson) view = vmb_view_point(manifest);
    const char *text = json_object_to_json_string(view);
    g_autoptr(GError) error = NULL;
    g_autoptr(VmbJson) parsed = vmb_json_parse(text, strlen(text), &error);
    g_assert_no_error(error);
    VmbJson *disks = NULL;
    const char *level = NULL, *reason = NULL;
    guint64 size = 0;
    g_assert_true(vmb_json_get_array(parsed, "disks", &disks, NULL));
    VmbJson *first = json_object_array_get_idx(disks, 0);
    g_assert_true(vmb_json_get_uint(first, "size", &size, NULL));
    g_assert_true(vmb_json_get_string(first, "level", &level, NULL));
    g_assert_true(vmb_json_get_string(first, "reason", &reason, NULL));
    g_assert_cmpuint(size, ==, 64 * VMB_TIB);
    g_assert_cmpstr(level, ==, "full");
    g_assert_cmpstr(reason, ==, "first-backup");
}

static void
test_json_findings(void)
{
    g_autoptr(GPtrArray) findings = g_ptr_array_new();
    VmbFinding with = {.point = (char *)"a/b",
                       .disk = (char *)"vda",
                       .offset = 0,
                       .length = 65536,
                       .message = (char *)"m"};
    VmbFinding without = {.point = (char *)"a/b", .offset = -1, .message = (char *)"m"};
    g_ptr_array_add(findings, &with);
    g_ptr_array_add(findings, &without);
    g_autoptr(VmbJson) view = vmb_view_findings(findings);
    g_assert_cmpstr(
        json_object_to_json_string_ext(view,
                                       JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
        ==,
        "[{\"point\":\"a/b\",\"disk\":\"vda\",\"file\":null,\"offset\":0,\"length\":65536,"
        "\"kind\":\"file\",\"affected\":null,\"message\":\"m\"},"
        "{\"point\":\"a/b\",\"disk\":null,\"file\":null,\"offset\":null,\"length\":0,"
        "\"kind\":\"file\",\"affected\":null,\"message\":\"m\"}]");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli-view/table", test_table);
    g_test_add_func("/cli-view/width", test_width);
    g_test_add_func("/cli-view/progress-sum", test_progress_sum);
    g_test_add_func("/cli-view/progress-rate", test_progress_rate);
    g_test_add_func("/cli-view/progress-text", test_progress_text);
    g_test_add_func("/cli-view/exit-status", test_exit_status);
    g_test_add_func("/cli-view/json-point", test_json_point);
    g_test_add_func("/cli-view/json-findings", test_json_findings);
    return g_test_run();
}
