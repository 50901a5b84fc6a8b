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
    gboolean group; /* it leads one */
    VmbFd fd;
    int status;
};

typedef struct {
    pid_t parent;
    gboolean group;
} SetUp;

/* Between fork and exec: only system calls. */
static void
set_up(gpointer data)
{
    const SetUp *own = data;
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (own->group)
        setpgid(0, 0);
    if (getppid() != own->parent)
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
    /* A command that talks to the terminal must stay in the group that the terminal talks to. */
    SetUp own = {getpid(), isatty(STDIN_FILENO) == 0};
    GPid pid = 0;
    if (!g_spawn_async(NULL, (char **)argv, env,
                       G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_CHILD_INHERITS_STDIN, set_up, &own, &pid,
                       &local)) {
        vmb_error_set(error, VMB_ERROR_FAILED, "cannot run the command: %s", local->message);
        return NULL;
    }
    VmbShell *shell = g_new0(VmbShell, 1);
    shell->pid = pid;
    shell->group = own.group;
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

static void
send_signal(VmbShell *shell, int number)
{
    if (shell->pid > 0 && (!shell->group || kill(-shell->pid, number) < 0))
        kill(shell->pid, number);
}

static gboolean
ends_within(VmbShell *shell, int ms)
{
    struct pollfd end = {shell->fd, POLLIN, 0};
    return shell->fd < 0 || poll(&end, 1, ms) > 0;
}

void
vmb_shell_ask(VmbShell *shell)
{
    send_signal(shell, SIGTERM);
}

void
vmb_shell_free(VmbShell *shell)
{
    if (shell == NULL)
        return;
    if (shell->pid > 0) {
        send_signal(shell, SIGTERM);
        gboolean ended = ends_within(shell, END_MS);
        if (!ended)
            send_signal(shell, SIGKILL);
        /* What waits for a dead filesystem ends with that, and not for us. */
        if (ended || ends_within(shell, END_MS))
            reap(shell);
    }
    vmb_fd_clear(&shell->fd);
    g_free(shell);
}
