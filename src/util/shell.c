/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command of the user's, run by the shell beside us with our input and output. */
#include "util/shell.h"
#include "util/error.h"
#include "util/fsio.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_MS 10000
#define SHELL_SIGNALLED 128

struct VmbShell {
    pid_t pid; /* 0: its end was waited for */
    VmbFd fd;
    int status;
};

/* Between fork and exec: only system calls. */
static void
set_up(gpointer data)
{
    const pid_t *parent = data;
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (getppid() != *parent)
        _exit(127);
}

static char **
make_environment(const char *const *variables)
{
    char **env = g_get_environ();
    env = g_environ_unsetenv(env, "LISTEN_FDS");
    env = g_environ_unsetenv(env, "LISTEN_PID");
    env = g_environ_unsetenv(env, "LISTEN_FDNAMES");
    env = g_environ_unsetenv(env, "NOTIFY_SOCKET");
    for (guint i = 0; variables[i] != NULL; i++) {
        const char *equals = strchr(variables[i], '=');
        g_autofree char *name = g_strndup(variables[i], (gsize)(equals - variables[i]));
        env = g_environ_setenv(env, name, equals + 1, TRUE);
    }
    return env;
}

VmbShell *
vmb_shell_start(const char *command, const char *const *variables, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_auto(GStrv) env = make_environment(variables);
    const char *argv[] = {"/bin/sh", "-c", command, NULL};
    pid_t parent = getpid();
    GPid pid = 0;
    if (!g_spawn_async(NULL, (char **)argv, env,
                       G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_CHILD_INHERITS_STDIN, set_up, &parent, &pid,
                       &local)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "cannot run the command: %s", local->message);
        return NULL;
    }
    VmbShell *shell = g_new0(VmbShell, 1);
    shell->pid = pid;
    shell->fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (shell->fd < 0) {
        vmb_error_errno(error, errno, "cannot watch the command");
        vmb_shell_free(shell);
        return NULL;
    }
    return shell;
}

int
vmb_shell_fd(const VmbShell *shell)
{
    return shell->fd;
}

static void
reap(VmbShell *shell)
{
    while (shell->pid > 0 && waitpid(shell->pid, &shell->status, 0) < 0 && errno == EINTR)
        continue;
    shell->pid = 0;
}

char *
vmb_shell_wait(VmbShell *shell, int *status)
{
    reap(shell);
    int number = WIFEXITED(shell->status) ? WEXITSTATUS(shell->status)
                                          : SHELL_SIGNALLED + WTERMSIG(shell->status);
    if (status != NULL)
        *status = number;
    if (number == 0)
        return NULL;
    if (WIFEXITED(shell->status))
        return g_strdup_printf("ended with status %d", number);
    return g_strdup_printf("was ended by signal %d", WTERMSIG(shell->status));
}

void
vmb_shell_free(VmbShell *shell)
{
    if (shell == NULL)
        return;
    struct pollfd end = {shell->fd, POLLIN, 0};
    if (shell->pid > 0)
        kill(shell->pid, SIGTERM);
    if (shell->pid > 0 && (shell->fd < 0 || poll(&end, 1, END_MS) <= 0))
        kill(shell->pid, SIGKILL);
    reap(shell);
    vmb_fd_clear(&shell->fd);
    g_free(shell);
}
