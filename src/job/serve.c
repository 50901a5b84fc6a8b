/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all exports share: where they are served, what is said of them, and how long. */
#include "job/serve.h"
#include "repo/directory.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/notify.h"
#include "util/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>

void
vmb_served_disk_free(VmbServedDisk *disk)
{
    g_free(disk->target);
    g_free(disk->uri);
    g_free(disk->context);
    g_free(disk);
}

void
vmb_served_free(VmbServed *served)
{
    if (served == NULL)
        return;
    g_free(served->domain);
    g_free(served->uuid);
    g_free(served->point);
    g_free(served->since);
    g_clear_pointer(&served->disks, g_ptr_array_unref);
    g_free(served);
}

/* ---- where ---- */

#define PRIVATE_PREFIX "export-"
#define ATTEMPTS 100

struct VmbServePlace {
    VmbListener *listener;
    char *directory; /* of a private socket; NULL: none */
    VmbFd directory_fd; /* locked: says that we live */
};

void
vmb_serve_place_free(VmbServePlace *place)
{
    if (place == NULL)
        return;
    vmb_listener_free(place->listener);
    if (place->directory != NULL && rmdir(place->directory) < 0)
        vmb_debug("cannot remove %s: %s", place->directory, g_strerror(errno));
    vmb_fd_clear(&place->directory_fd);
    g_free(place->directory);
    g_free(place);
}

VmbListener *
vmb_serve_place_listener(VmbServePlace *place)
{
    return place->listener;
}

/* What exports that were killed have left: nobody holds its lock. */
static void
remove_leftovers(const char *run)
{
    g_auto(VmbFd) parent = open(run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_autoptr(GPtrArray) names = parent >= 0 ? vmb_directory_list(parent, NULL) : NULL;
    for (guint i = 0; names != NULL && i < names->len; i++) {
        const char *name = names->pdata[i];
        if (!g_str_has_prefix(name, PRIVATE_PREFIX))
            continue;
        g_auto(VmbFd) fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            vmb_fs_remove_tree(parent, name, NULL);
    }
}

/* Another export that begins as well takes what is not locked yet for a leftover: then it is tried again. */
static gboolean
make_directory(VmbServePlace *place, const char *run, GError **error)
{
    for (int i = 0; i < ATTEMPTS; i++) {
        struct stat st;
        g_autofree char *template = g_build_filename(run, PRIVATE_PREFIX "XXXXXX", NULL);
        if (g_mkdtemp_full(template, 0700) == NULL)
            return vmb_error_errno(error, errno, "cannot make a directory below %s", run);
        g_auto(VmbFd) fd = open(template, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || stat(template, &st) < 0)
            continue;
        place->directory = g_steal_pointer(&template);
        place->directory_fd = vmb_fd_steal(&fd);
        return TRUE;
    }
    return vmb_error_set(error, VMB_ERROR_FAILED, "cannot lock a new directory below %s", run);
}

static gboolean
listen_private(VmbServePlace *place, GError **error)
{
    g_autofree char *run = vmb_run_dir(error);
    if (run == NULL)
        return FALSE;
    remove_leftovers(run);
    if (!make_directory(place, run, error))
        return FALSE;
    g_autofree char *path = g_build_filename(place->directory, "nbd.sock", NULL);
    place->listener = vmb_listener_unix(path, error);
    return place->listener != NULL;
}

/* Told before anything begins, and better than by the server. */
static gboolean
check_tls(const VmbServeAddress *address, GError **error)
{
    static const char *const x509[] = {"ca-cert.pem", "server-cert.pem", "server-key.pem", NULL};
    static const char *const psk[] = {"keys.psk", NULL};
    const char *const *names = address->tls == VMB_TLS_PSK ? psk : x509;
    for (guint i = 0; address->tls != VMB_TLS_NONE && names[i] != NULL; i++) {
        g_autofree char *path = g_build_filename(address->tls_dir, names[i], NULL);
        if (access(path, R_OK) < 0)
            return vmb_error_set(error, VMB_ERROR_USAGE, "TLS needs the file %s: %s", path,
                                 g_strerror(errno));
    }
    return TRUE;
}

static gboolean
check_address(const VmbServeAddress *address, gboolean private, GError **error)
{
    if (address->socket != NULL && address->listen != NULL)
        return vmb_error_set(error, VMB_ERROR_USAGE, "--socket and --listen exclude each other");
    if (address->socket != NULL || address->listen != NULL || private || vmb_listener_is_activated())
        return TRUE;
    return vmb_error_set(error, VMB_ERROR_USAGE,
                         "nothing says where to serve: --socket PATH, --listen HOST:PORT, a socket of the "
                         "service manager, or --exec CMD for a command alone");
}

static gboolean
open_listener(VmbServePlace *place, const VmbServeAddress *address, GError **error)
{
    if (address->socket != NULL)
        place->listener = vmb_listener_unix(address->socket, error);
    else if (address->listen != NULL)
        place->listener = vmb_listener_tcp(address->listen, error);
    else if (vmb_listener_is_activated())
        place->listener = vmb_listener_activated(error);
    else
        return listen_private(place, error);
    return place->listener != NULL;
}

VmbServePlace *
vmb_serve_place_new(const VmbServeAddress *address, gboolean private, GError **error)
{
    g_autoptr(VmbServePlace) place = g_new0(VmbServePlace, 1);
    place->directory_fd = -1;
    if (!check_address(address, private, error) || !check_tls(address, error) ||
        !open_listener(place, address, error))
        return NULL;
    if (vmb_listener_is_local(place->listener) || address->tls != VMB_TLS_NONE || address->allow_plain)
        return g_steal_pointer(&place);
    vmb_error_set(error, VMB_ERROR_USAGE,
                  "other hosts could read the disks without being asked who they are, and others could "
                  "listen: use --tls-x509 DIR or --tls-psk DIR, or a loopback address; --allow-plain "
                  "serves all the same");
    return NULL;
}

/* ---- the command ---- */

/* What a variable can be called: all else becomes '_'. */
static char *
variable_name(const char *prefix, const char *target)
{
    char *name = g_strconcat(prefix, target, NULL);
    for (char *p = name; *p != '\0'; p++)
        if (!g_ascii_isalnum(*p))
            *p = '_';
    return name;
}

static void
set(GPtrArray *variables, const char *name, const char *value)
{
    if (value != NULL)
        g_ptr_array_add(variables, g_strconcat(name, "=", value, NULL));
}

static GPtrArray *
make_variables(const VmbServed *served)
{
    GPtrArray *variables = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) targets = g_string_new(NULL);
    const VmbServedDisk *first = served->disks->pdata[0];
    set(variables, "VMBACKUP_DOMAIN", served->domain);
    set(variables, "VMBACKUP_UUID", served->uuid);
    set(variables, "VMBACKUP_POINT", served->point != NULL ? served->point : "live");
    set(variables, "VMBACKUP_SINCE", served->since);
    if (served->disks->len == 1) {
        set(variables, "VMBACKUP_URI", first->uri);
        set(variables, "VMBACKUP_CONTEXT", first->context);
    }
    for (guint i = 0; i < served->disks->len; i++) {
        const VmbServedDisk *disk = served->disks->pdata[i];
        g_autofree char *uri = variable_name("VMBACKUP_URI_", disk->target);
        g_autofree char *size = variable_name("VMBACKUP_SIZE_", disk->target);
        g_autofree char *context = variable_name("VMBACKUP_CONTEXT_", disk->target);
        g_autofree char *bytes = g_strdup_printf("%" G_GUINT64_FORMAT, disk->size);
        set(variables, uri, disk->uri);
        set(variables, size, bytes);
        set(variables, context, disk->context);
        g_string_append_printf(targets, "%s%s", i > 0 ? " " : "", disk->target);
    }
    set(variables, "VMBACKUP_DISKS", targets->str);
    g_ptr_array_add(variables, NULL);
    return variables;
}

/* ---- how long ---- */

static gboolean
is_over(const struct pollfd *fd)
{
    return (fd->revents & (POLLIN | POLLHUP | POLLERR)) != 0;
}

/* Waits for one of three things; a descriptor of -1 never tells anything. */
static void
wait_for_end(GCancellable *cancel, VmbShell *shell, int server_fd, struct pollfd fds[3])
{
    GPollFD pollfd = {-1, 0, 0};
    gboolean made = cancel != NULL && g_cancellable_make_pollfd(cancel, &pollfd);
    do {
        fds[0] = (struct pollfd){made ? pollfd.fd : -1, POLLIN, 0};
        fds[1] = (struct pollfd){shell != NULL ? vmb_shell_fd(shell) : -1, POLLIN, 0};
        fds[2] = (struct pollfd){server_fd, POLLIN, 0};
    } while (poll(fds, 3, -1) < 0 && errno == EINTR);
    if (made)
        g_cancellable_release_fd(cancel);
}

gboolean
vmb_serve(const VmbServed *served, const char *command, int server_fd, VmbServeReady ready,
          gpointer user, GCancellable *cancel, int *status, VmbShell **left, GError **error)
{
    g_autoptr(GPtrArray) variables = make_variables(served);
    g_autoptr(VmbShell) shell = NULL;
    struct pollfd fds[3];
    *status = 0;
    *left = NULL;
    if (ready != NULL)
        ready(served, user);
    vmb_notify("READY=1");
    if (!vmb_fault_point("export-ready", error))
        return FALSE;
    if (command != NULL) {
        shell = vmb_shell_start(command, (const char *const *)(gpointer)variables->pdata, error);
        if (shell == NULL)
            return FALSE;
    }
    wait_for_end(cancel, shell, server_fd, fds);
    vmb_notify("STOPPING=1");
    if (is_over(&fds[1])) {
        g_autofree char *how = vmb_shell_wait(shell, status);
        return how == NULL || vmb_error_set(error, VMB_ERROR_FAILED, "the command %s", how);
    }
    if (shell != NULL)
        vmb_shell_ask(shell);
    *left = g_steal_pointer(&shell);
    if (is_over(&fds[0]))
        return command == NULL ||
               vmb_error_set(error, VMB_ERROR_CANCELLED, "interrupted while the command ran");
    return vmb_error_set(error, VMB_ERROR_FAILED, "the server has ended by itself");
}
