/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A helper program that runs beside us and never outlives us. */
#include "util/child.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FIRST_FD 3
/* Beyond all that descriptors become in the child, so that none is overwritten before it was moved. */
#define PARKED_FD 64
#define COMPLAINT_MAX 2000
#define PID_VARIABLE "LISTEN_PID="
#define PID_DIGITS 20
#define EXEC_FAILED 127

/* So long it may take to end by itself. */
#define END_MS 5000

struct VmbChild {
    char *name;
    int end_signal;
    pid_t pid;     /* 0: its end was waited for */
    int status;
    VmbFd log;
};

/* All that the new process needs, made before the fork: after it only system calls are safe. */
typedef struct {
    char *path;
    char **argv, **envp;
    char *pid_variable; /* in envp, with room for the number; or NULL */
    const VmbChildSpec *spec;
    int null, log;
    pid_t parent;
} Image;

static void
image_clear(Image *image)
{
    g_free(image->path);
    g_strfreev(image->argv);
    g_strfreev(image->envp);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Image, image_clear)

static void
make_environment(Image *image)
{
    char **env = g_get_environ();
    env = g_environ_setenv(env, "LC_ALL", "C", TRUE);
    env = g_environ_unsetenv(env, "LISTEN_FDNAMES");
    env = g_environ_unsetenv(env, "LISTEN_FDS");
    env = g_environ_unsetenv(env, "LISTEN_PID");
    if (image->spec->listening) {
        g_autofree char *count = g_strdup_printf("%u", image->spec->n_fds);
        env = g_environ_setenv(env, "LISTEN_FDS", count, TRUE);
        guint n = g_strv_length(env);
        env = g_renew(char *, env, n + 2);
        env[n] = g_malloc0(sizeof PID_VARIABLE + PID_DIGITS);
        strcpy(env[n], PID_VARIABLE);
        image->pid_variable = env[n];
        env[n + 1] = NULL;
    }
    image->envp = env;
}

/* snprintf() is not safe here. */
static void
write_pid(char *variable, pid_t pid)
{
    char digits[PID_DIGITS];
    int n = 0;
    for (guint64 rest = (guint64)pid; n == 0 || rest > 0; rest /= 10)
        digits[n++] = (char)('0' + rest % 10);
    char *at = variable + strlen(PID_VARIABLE);
    while (n > 0)
        *at++ = digits[--n];
}

static gboolean
move_fds(const Image *image)
{
    const guint n_fds = image->spec->n_fds;
    int parked[PARKED_FD];
    if (dup2(image->null, 0) < 0 || dup2(image->null, 1) < 0 || dup2(image->log, 2) < 0)
        return FALSE;
    for (guint i = 0; i < n_fds; i++) {
        parked[i] = fcntl(image->spec->fds[i], F_DUPFD_CLOEXEC, PARKED_FD);
        if (parked[i] < 0)
            return FALSE;
    }
    for (guint i = 0; i < n_fds; i++)
        if (dup2(parked[i], FIRST_FD + (int)i) < 0)
            return FALSE;
    /* From Linux 5.11 on; everything of ours has the flag anyway. */
    syscall(SYS_close_range, FIRST_FD + n_fds, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    return TRUE;
}

G_GNUC_NORETURN static void
become(const Image *image)
{
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, image->spec->end_signal);
    if (getppid() != image->parent)
        _exit(EXEC_FAILED);
    setsid();
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (image->pid_variable != NULL)
        write_pid(image->pid_variable, getpid());
    if (move_fds(image))
        execve(image->path, image->argv, image->envp);
    _exit(EXEC_FAILED);
}

VmbChild *
vmb_child_start(const VmbChildSpec *spec, GError **error)
{
    const char *name = spec->argv[0];
    g_auto(Image) image = {.path = g_find_program_in_path(name), .spec = spec, .parent = getpid()};
    g_return_val_if_fail(spec->n_fds < PARKED_FD - FIRST_FD, NULL);
    if (image.path == NULL) {
        vmb_error_set(error, VMB_ERROR_FAILED, "the program %s is not installed", name);
        return NULL;
    }
    g_auto(VmbFd) null = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_auto(VmbFd) log = memfd_create("vmbackup-child", MFD_CLOEXEC);
    image.argv = g_strdupv((char **)spec->argv);
    image.null = null;
    image.log = log;
    make_environment(&image);
    pid_t pid = null >= 0 && log >= 0 ? fork() : -1;
    if (pid == 0)
        become(&image);
    if (pid < 0) {
        vmb_error_errno(error, errno, "cannot start %s", name);
        return NULL;
    }
    VmbChild *child = g_new0(VmbChild, 1);
    child->name = g_path_get_basename(name);
    child->end_signal = spec->end_signal;
    child->pid = pid;
    child->log = vmb_fd_steal(&log);
    return child;
}

static void
reap(VmbChild *child)
{
    while (child->pid > 0 && waitpid(child->pid, &child->status, 0) < 0 && errno == EINTR)
        continue;
    child->pid = 0;
}

gboolean
vmb_child_wait(VmbChild *child, int ms)
{
    if (child->pid > 0) {
        g_auto(VmbFd) fd = (int)syscall(SYS_pidfd_open, child->pid, 0);
        struct pollfd end = {fd, POLLIN, 0};
        if (fd < 0 || poll(&end, 1, ms) <= 0)
            return FALSE;
        reap(child);
    }
    return WIFEXITED(child->status) && WEXITSTATUS(child->status) == 0;
}

gboolean
vmb_child_stop(VmbChild *child, int ms)
{
    if (child->pid > 0)
        kill(child->pid, child->end_signal);
    return vmb_child_wait(child, ms);
}

static void
end(VmbChild *child)
{
    if (child->pid > 0)
        kill(child->pid, child->end_signal);
    if (child->pid > 0 && child->end_signal != SIGKILL) {
        vmb_child_wait(child, END_MS);
        if (child->pid > 0)
            kill(child->pid, SIGKILL);
    }
    reap(child);
}

char *
vmb_child_complaint(VmbChild *child)
{
    char text[COMPLAINT_MAX + 1];
    end(child);
    ssize_t n = pread(child->log, text, COMPLAINT_MAX, 0);
    text[MAX(n, 0)] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (text[0] != '\0')
        return g_strdup(text);
    if (WIFEXITED(child->status))
        return g_strdup_printf("%s ended with status %d", child->name, WEXITSTATUS(child->status));
    return g_strdup_printf("%s was ended by signal %d", child->name, WTERMSIG(child->status));
}

void
vmb_child_free(VmbChild *child)
{
    if (child == NULL)
        return;
    end(child);
    vmb_fd_clear(&child->log);
    g_free(child->name);
    g_free(child);
}
