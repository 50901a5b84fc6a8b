/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Adds and removes bitmaps of images that nobody has open, so that nobody's start fails meanwhile. */
#include "virt/image-edit.h"
#include "util/child.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#define GRANULARITY 65536u
#define REPLY_MS 20000
#define REPLY_MAX (1u << 20)
#define QMP_FD 3
#define FDSET 1
/* Something may just look at the file. */
#define LEASE_TRIES 20
#define LEASE_PAUSE_US (10 * 1000)

struct VmbImageEditor {
    VmbChild *child;
    VmbFd qmp;
    GString *heard; /* what was received and not yet looked at */
};

/* ---- talking to QEMU ---- */

static gboolean
fail(VmbImageEditor *editor, GError **error)
{
    g_autofree char *complaint = vmb_child_complaint(editor->child);
    return vmb_error_set(error, VMB_ERROR_FAILED,
                         "the QEMU that was to change the image did not answer: %s", complaint);
}

/* The next line, without its end; NULL when none came. Free with g_free(). */
static char *
hear(VmbImageEditor *editor)
{
    char bytes[4096];
    for (;;) {
        char *end = memchr(editor->heard->str, '\n', editor->heard->len);
        if (end != NULL) {
            gsize length = (gsize)(end - editor->heard->str);
            char *line = g_strndup(editor->heard->str, length);
            g_string_erase(editor->heard, 0, (gssize)length + 1);
            return line;
        }
        struct pollfd in = {editor->qmp, POLLIN, 0};
        ssize_t n = poll(&in, 1, REPLY_MS) > 0 ? recv(editor->qmp, bytes, sizeof bytes, 0) : 0;
        if (n <= 0 || editor->heard->len > REPLY_MAX)
            return NULL;
        g_string_append_len(editor->heard, bytes, n);
    }
}

/* The reply that is none of an event: TRUE for a return, FALSE with @error for all others. */
static gboolean
hear_reply(VmbImageEditor *editor, GError **error)
{
    for (;;) {
        const char *text = NULL;
        VmbJson *problem = NULL;
        g_autofree char *line = hear(editor);
        g_autoptr(VmbJson) reply = line != NULL ? vmb_json_parse(line, strlen(line), NULL) : NULL;
        if (reply == NULL)
            return fail(editor, error);
        if (json_object_object_get_ex(reply, "return", NULL))
            return TRUE;
        if (!json_object_object_get_ex(reply, "error", &problem))
            continue;
        if (!vmb_json_get_string(problem, "desc", &text, NULL))
            text = "an error without a text";
        return vmb_error_set(error, VMB_ERROR_FAILED, "QEMU refuses: %s", text);
    }
}

/* @fd: passed along, or -1. */
static gboolean
send_text(VmbImageEditor *editor, const char *text, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(char *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    return sendmsg(editor->qmp, &message, MSG_NOSIGNAL) == (ssize_t)part.iov_len;
}

/* Takes @arguments. */
static gboolean
command(VmbImageEditor *editor, const char *name, VmbJson *arguments, int fd, GError **error)
{
    g_autoptr(VmbJson) request = json_object_new_object();
    vmb_json_add_string(request, "execute", name);
    vmb_json_add(request, "arguments", arguments);
    const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
    if (!send_text(editor, text, fd))
        return fail(editor, error);
    return hear_reply(editor, error);
}

static gboolean
give_fd(VmbImageEditor *editor, int fd, GError **error)
{
    VmbJson *arguments = json_object_new_object();
    vmb_json_add_uint(arguments, "fdset-id", FDSET);
    return command(editor, "add-fd", arguments, fd, error);
}

static gboolean
take_fd(VmbImageEditor *editor, GError **error)
{
    VmbJson *arguments = json_object_new_object();
    vmb_json_add_uint(arguments, "fdset-id", FDSET);
    return command(editor, "remove-fd", arguments, -1, error);
}

/* Only bitmaps are read and written: what is below the image is not needed and not opened. */
static gboolean
open_image(VmbImageEditor *editor, GError **error)
{
    VmbJson *file = json_object_new_object(), *arguments = json_object_new_object();
    g_autofree char *name = g_strdup_printf("/dev/fdset/%d", FDSET);
    vmb_json_add_string(file, "driver", "file");
    vmb_json_add_string(file, "filename", name);
    vmb_json_add_string(arguments, "driver", "qcow2");
    vmb_json_add_string(arguments, "node-name", "image");
    json_object_object_add(arguments, "backing", NULL);
    vmb_json_add(arguments, "file", file);
    return command(editor, "blockdev-add", arguments, -1, error);
}

static gboolean
close_image(VmbImageEditor *editor, GError **error)
{
    VmbJson *arguments = json_object_new_object();
    vmb_json_add_string(arguments, "node-name", "image");
    return command(editor, "blockdev-del", arguments, -1, error);
}

static gboolean
change_bitmap(VmbImageEditor *editor, const char *name, gboolean add, GError **error)
{
    VmbJson *arguments = json_object_new_object();
    vmb_json_add_string(arguments, "node", "image");
    vmb_json_add_string(arguments, "name", name);
    if (add) {
        vmb_json_add_uint(arguments, "granularity", GRANULARITY);
        vmb_json_add_bool(arguments, "persistent", TRUE);
    }
    return command(editor, add ? "block-dirty-bitmap-add" : "block-dirty-bitmap-remove", arguments,
                   -1, error);
}

/* ---- starting and ending it ---- */

/* The one of this machine's architecture, under the names that distributions give it. */
static char *
find_qemu(void)
{
    struct utsname host = {0};
    uname(&host);
    g_autofree char *plain = g_strconcat("qemu-system-", host.machine, NULL);
    const char *const names[] = {plain, "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm",
                                 "/usr/bin/kvm"};
    char *found = NULL;
    for (gsize i = 0; i < G_N_ELEMENTS(names) && found == NULL; i++)
        found = g_find_program_in_path(names[i]);
    return found;
}

static VmbChild *
start(const char *qemu, int qmp, GError **error)
{
    const char *const argv[] = {qemu, "-machine", "none", "-nodefaults", "-no-user-config",
                                "-display", "none", "-chardev", "socket,id=qmp,fd=3", "-mon",
                                "chardev=qmp,mode=control", NULL};
    G_STATIC_ASSERT(QMP_FD == 3);
    /* Told to end in the middle of it, QEMU still closes the image in good order. */
    VmbChildSpec spec = {.argv = argv, .fds = &qmp, .n_fds = 1, .end_signal = SIGTERM};
    return vmb_child_start(&spec, error);
}

VmbImageEditor *
vmb_image_editor_new(GError **error)
{
    int pair[2];
    g_autofree char *qemu = find_qemu();
    if (qemu == NULL) {
        vmb_error_set(error, VMB_ERROR_FAILED, "there is no QEMU for this host's architecture");
        return NULL;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        vmb_error_errno(error, errno, "cannot make a socket pair");
        return NULL;
    }
    g_auto(VmbFd) mine = pair[0], theirs = pair[1];
    VmbChild *child = start(qemu, theirs, error);
    if (child == NULL)
        return NULL;
    g_autoptr(VmbImageEditor) editor = g_new0(VmbImageEditor, 1);
    editor->child = child;
    editor->qmp = vmb_fd_steal(&mine);
    editor->heard = g_string_new(NULL);
    vmb_fd_clear(&theirs);
    /* The greeting is passed over like an event. */
    if (!command(editor, "qmp_capabilities", json_object_new_object(), -1, error))
        return NULL;
    return g_steal_pointer(&editor);
}

void
vmb_image_editor_free(VmbImageEditor *editor)
{
    if (editor == NULL)
        return;
    vmb_child_free(editor->child);
    vmb_fd_clear(&editor->qmp);
    g_string_free(editor->heard, TRUE);
    g_free(editor);
}

/* ---- being alone with the image ---- */

static int
open_alone(const char *path, GError **error)
{
    g_auto(VmbFd) fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    /* Who waits makes the kernel signal us, by default with one that kills. */
    if (fd < 0 || fcntl(fd, F_SETSIG, SIGURG) < 0) {
        vmb_error_errno(error, errno, "cannot open %s", path);
        return -1;
    }
    for (int i = 0; fcntl(fd, F_SETLEASE, F_WRLCK) < 0; i++) {
        if (errno != EAGAIN || i == LEASE_TRIES) {
            int reason = errno;
            vmb_error_set(error, VMB_ERROR_LOCKED, "cannot be alone with %s: %s", path,
                          reason == EAGAIN ? "another process has it open" : g_strerror(reason));
            return -1;
        }
        g_usleep(LEASE_PAUSE_US);
    }
    return vmb_fd_steal(&fd);
}

typedef struct {
    const char *name;
    gboolean add;
    VmbImageEditCheck check;
    gpointer user;
} Edit;

static gboolean
edit_open_image(VmbImageEditor *editor, const Edit *edit, GError **error)
{
    g_autoptr(GError) late = NULL;
    if (!open_image(editor, error))
        return FALSE;
    gboolean done = vmb_fault_point("image-open-alone", error) &&
                    change_bitmap(editor, edit->name, edit->add, error);
    return close_image(editor, done ? error : &late) && done;
}

static gboolean
edit_alone(VmbImageEditor *editor, int fd, const Edit *edit, GError **error)
{
    g_autoptr(GError) late = NULL;
    if (!give_fd(editor, fd, error))
        return FALSE;
    gboolean done = edit_open_image(editor, edit, error);
    return take_fd(editor, done ? error : &late) && done;
}

static gboolean
check_after(int fd, const Edit *edit, GError **error)
{
    return edit->check == NULL || edit->check(fd, TRUE, edit->user, error);
}

/* QEMU's locks belong to our descriptor, too; those who wait must not find them. */
static gboolean
unlock(int fd, const char *path, GError **error)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &all) == 0 ||
           vmb_error_errno(error, errno, "cannot unlock %s", path);
}

static gboolean
edit(VmbImageEditor *editor, const char *path, const Edit *edit, GError **error)
{
    g_auto(VmbFd) fd = open_alone(path, error);
    if (fd < 0)
        return FALSE;
    if (edit->check != NULL && !edit->check(fd, FALSE, edit->user, error))
        return FALSE;
    if (edit_alone(editor, fd, edit, error))
        return check_after(fd, edit, error) && unlock(fd, path, error);
    /* QEMU may still have it open: who waits must not find its locks. */
    g_free(vmb_child_complaint(editor->child));
    g_prefix_error(error, "%s: ", path);
    check_after(fd, edit, NULL);
    return FALSE;
}

gboolean
vmb_image_editor_add(VmbImageEditor *editor, const char *path, const char *name,
                     VmbImageEditCheck check, gpointer user, GError **error)
{
    Edit what = {name, TRUE, check, user};
    return edit(editor, path, &what, error);
}

gboolean
vmb_image_editor_remove(VmbImageEditor *editor, const char *path, const char *name, GError **error)
{
    Edit what = {name, FALSE, NULL, NULL};
    return edit(editor, path, &what, error);
}
