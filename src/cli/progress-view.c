/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shows how far the jobs are: a bar on a terminal, a line now and then elsewhere. */
#include "cli/progress-view.h"
#include "cli/output.h"
#include "cli/table.h"
#include "util/log.h"
#include "util/progress.h"
#include "util/text.h"
#include "util/units.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_INTERVAL_NS G_GUINT64_CONSTANT(250000000)
#define LINE_INTERVAL_NS G_GUINT64_CONSTANT(30000000000)
#define SECOND_NS 1e9
#define SMOOTHING_S 5.0
#define ERASE "\r\033[K"

struct VmbProgressView {
    GThread *thread;
    GMutex lock; /* guards stop */
    GCond wake;
    gboolean stop;
    gboolean terminal;
    guint64 interval_ns;
};

/* Guards what stands on the terminal's last line; messages and results step in between. */
static GMutex screen;
static gboolean bar_is_shown;

static void
erase_bar(void)
{
    g_mutex_lock(&screen);
    if (bar_is_shown)
        fputs(ERASE, stderr);
    bar_is_shown = FALSE;
}

static void
leave_screen(void)
{
    g_mutex_unlock(&screen);
}

static void
add_state(const VmbProgressState *state, gpointer data)
{
    VmbProgressSum *sum = data;
    gboolean all_known = sum->n == 0 || sum->total > 0;
    if (sum->n++ == 0) {
        sum->label = vmb_text_clean(state->label);
        sum->phase = state->phase;
    }
    sum->done += state->done;
    sum->moved += state->moved;
    sum->total = all_known && state->total > 0 ? sum->total + state->total : 0;
}

void
vmb_progress_sum_read(VmbProgressSum *sum)
{
    *sum = (VmbProgressSum){0};
    vmb_progress_foreach(add_state, sum);
    if (sum->n > 1) {
        g_free(sum->label);
        sum->label = g_strdup_printf("%u jobs", sum->n);
    }
}

void
vmb_progress_sum_clear(VmbProgressSum *sum)
{
    g_clear_pointer(&sum->label, g_free);
}

void
vmb_progress_rate_update(VmbProgressRate *rate, const VmbProgressSum *sum, guint64 now_ns)
{
    /* When a job came or went, the counters do not continue those of before. */
    gboolean continues = rate->at_ns != 0 && now_ns > rate->at_ns && sum->n == rate->n &&
                         sum->done >= rate->done && sum->moved >= rate->moved;
    if (continues) {
        double seconds = (double)(now_ns - rate->at_ns) / SECOND_NS;
        double weight =
            rate->done_rate + rate->moved_rate > 0 ? seconds / (seconds + SMOOTHING_S) : 1;
        rate->done_rate += weight * ((double)(sum->done - rate->done) / seconds - rate->done_rate);
        rate->moved_rate +=
            weight * ((double)(sum->moved - rate->moved) / seconds - rate->moved_rate);
    }
    rate->n = sum->n;
    rate->done = sum->done;
    rate->moved = sum->moved;
    rate->at_ns = now_ns;
}

/* " 42 %", or "" while the end is unknown. */
static char *
percent_text(const VmbProgressSum *sum)
{
    if (sum->total == 0)
        return g_strdup("");
    double share = (double)MIN(sum->done, sum->total) / (double)sum->total;
    return g_strdup_printf("%3u %%", (guint)(share * 100));
}

/* "1m 20s left", or "". */
static char *
left_text(const VmbProgressSum *sum, const VmbProgressRate *rate)
{
    double seconds = rate->done_rate > 0 && sum->total > sum->done
                         ? (double)(sum->total - sum->done) / rate->done_rate
                         : 0;
    if (seconds <= 0 || seconds > 100 * 86400.0)
        return g_strdup("");
    g_autofree char *text = vmb_units_format_duration((guint64)(seconds * SECOND_NS));
    return g_strdup_printf("%s left", text);
}

static char *
amount_text(const VmbProgressSum *sum, const VmbProgressRate *rate)
{
    g_autofree char *done = vmb_units_format_size(sum->done);
    g_autofree char *total = vmb_units_format_size(sum->total);
    g_autofree char *speed = vmb_units_format_size((guint64)rate->moved_rate);
    if (sum->total == 0)
        return g_strdup_printf("%s, %s/s", done, speed);
    return g_strdup_printf("%s of %s, %s/s", done, total, speed);
}

static void
append_gauge(GString *out, const VmbProgressSum *sum, guint cells)
{
    guint filled = (guint)((double)cells * (double)MIN(sum->done, sum->total) / (double)sum->total);
    g_string_append(out, " [");
    for (guint i = 0; i < cells; i++)
        g_string_append_c(out, i < filled ? '#' : '.');
    g_string_append(out, "]");
}

static void
truncate_to(GString *out, guint width)
{
    while (vmb_text_width(out->str) > width)
        g_string_truncate(out, (gsize)(g_utf8_prev_char(out->str + out->len) - out->str));
}

char *
vmb_progress_bar(const VmbProgressSum *sum, const VmbProgressRate *rate, guint width)
{
    g_autofree char *percent = percent_text(sum);
    g_autofree char *amount = amount_text(sum, rate);
    g_autofree char *left = left_text(sum, rate);
    g_autoptr(GString) out = g_string_new(NULL);
    g_autofree char *end =
        g_strdup_printf(" %s %s%s%s", percent, amount, left[0] != '\0' ? ", " : "", left);
    g_string_printf(out, "%s %s", sum->label, sum->phase);
    guint used = vmb_text_width(out->str) + vmb_text_width(end);
    if (sum->total > 0 && used + 14 <= width)
        append_gauge(out, sum, MIN(width - used - 4, 30));
    g_string_append(out, end);
    truncate_to(out, width);
    return g_strdup(out->str);
}

char *
vmb_progress_line(const VmbProgressSum *sum, const VmbProgressRate *rate)
{
    g_autofree char *percent = percent_text(sum);
    g_autofree char *amount = amount_text(sum, rate);
    g_autofree char *left = left_text(sum, rate);
    return g_strdup_printf("%s: %s%s%s, %s%s%s", sum->label, sum->phase,
                           percent[0] != '\0' ? ", " : "", g_strstrip(percent), amount,
                           left[0] != '\0' ? ", " : "", left);
}

static guint
terminal_width(void)
{
    struct winsize size = {0};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20)
        return 79;
    return size.ws_col - 1u;
}

static void
draw(const VmbProgressSum *sum, const VmbProgressRate *rate)
{
    g_autofree char *bar = vmb_progress_bar(sum, rate, terminal_width());
    g_mutex_lock(&screen);
    fprintf(stderr, ERASE "%s", bar);
    fflush(stderr);
    bar_is_shown = TRUE;
    g_mutex_unlock(&screen);
}

static void
show(VmbProgressView *view, VmbProgressRate *rate)
{
    g_auto(VmbProgressSum) sum = {0};
    vmb_progress_sum_read(&sum);
    vmb_progress_rate_update(rate, &sum, vmb_units_monotonic());
    if (sum.n == 0) {
        erase_bar();
        leave_screen();
    } else if (view->terminal) {
        draw(&sum, rate);
    } else {
        g_autofree char *line = vmb_progress_line(&sum, rate);
        vmb_notice("%s", line);
    }
}

static gpointer
run(gpointer data)
{
    VmbProgressView *view = data;
    VmbProgressRate rate = {0};
    g_mutex_lock(&view->lock);
    gint64 next = g_get_monotonic_time();
    while (!view->stop) {
        next += (gint64)(view->interval_ns / 1000);
        while (!view->stop && g_cond_wait_until(&view->wake, &view->lock, next))
            ;
        if (view->stop)
            break;
        g_mutex_unlock(&view->lock);
        show(view, &rate);
        g_mutex_lock(&view->lock);
    }
    g_mutex_unlock(&view->lock);
    return NULL;
}

static guint64
line_interval(void)
{
    const char *text = g_getenv("VMBACKUP_TEST_PROGRESS_MS");
    guint64 ms = text != NULL ? g_ascii_strtoull(text, NULL, 10) : 0;
    return ms > 0 ? ms * 1000000 : LINE_INTERVAL_NS;
}

VmbProgressView *
vmb_progress_view_start(void)
{
    if (vmb_log_level() < VMB_LOG_NOTICE)
        return NULL;
    VmbProgressView *view = g_new0(VmbProgressView, 1);
    view->terminal = isatty(STDERR_FILENO) && g_strcmp0(g_getenv("TERM"), "dumb") != 0;
    view->interval_ns = view->terminal ? BAR_INTERVAL_NS : line_interval();
    g_mutex_init(&view->lock);
    g_cond_init(&view->wake);
    if (view->terminal) {
        vmb_log_set_hooks(erase_bar, leave_screen);
        vmb_output_set_hooks(erase_bar, leave_screen);
    }
    view->thread = g_thread_new("progress", run, view);
    return view;
}

void
vmb_progress_view_free(VmbProgressView *view)
{
    if (view == NULL)
        return;
    g_mutex_lock(&view->lock);
    view->stop = TRUE;
    g_cond_signal(&view->wake);
    g_mutex_unlock(&view->lock);
    g_thread_join(view->thread);
    vmb_log_set_hooks(NULL, NULL);
    vmb_output_set_hooks(NULL, NULL);
    erase_bar();
    leave_screen();
    g_mutex_clear(&view->lock);
    g_cond_clear(&view->wake);
    g_free(view);
}
