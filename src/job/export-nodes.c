/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The block devices that a disk of a point consists of, as QEMU is told to open them. */
#include "job/export-nodes.h"
#include "util/units.h"

/* QEMU keeps tables of each layer in memory: so much of all of them together, and of each at least so much. */
#define CACHE_OF_ALL (256 * VMB_MIB)
#define CACHE_LEAST (1 * VMB_MIB)
#define CACHE_MOST (32 * VMB_MIB)

static VmbJson *
describe_file(int fd, gboolean writable)
{
    /* Over our own process: so it gets what we have open, also if the name has gone to another file, or there is none. */
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), fd);
    VmbJson *file = json_object_new_object();
    vmb_json_add_string(file, "driver", "file");
    vmb_json_add_string(file, "filename", path);
    vmb_json_add_bool(file, "read-only", !writable);
    return file;
}

/* @below: NULL for none. */
static VmbJson *
describe_image(int fd, gboolean writable, const char *name, const char *below)
{
    VmbJson *node = json_object_new_object();
    vmb_json_add_string(node, "driver", "qcow2");
    vmb_json_add_string(node, "node-name", name);
    vmb_json_add_bool(node, "read-only", !writable);
    vmb_json_add_string(node, "backing", below);
    vmb_json_add(node, "file", describe_file(fd, writable));
    return node;
}

char *
vmb_export_nodes_chain(VmbExportServer *server, VmbChainFiles *files, guint n, const char *target)
{
    guint64 cache = CLAMP(CACHE_OF_ALL / n, CACHE_LEAST, CACHE_MOST);
    char *below = NULL;
    for (guint i = n; i-- > 0;) {
        char *name = g_strdup_printf("%s-%u", target, i);
        VmbJson *node = describe_image(vmb_chain_files_layer_fd(files, i), FALSE, name, below);
        vmb_json_add_uint(node, "l2-cache-size", cache);
        vmb_export_server_add_node(server, node);
        g_free(below);
        below = name;
    }
    return below;
}

char *
vmb_export_nodes_top(VmbExportServer *server, int fd, gboolean writable, const char *below,
                     const char *target)
{
    char *name = g_strdup_printf("%s-top", target);
    VmbJson *node = describe_image(fd, writable, name, below);
    if (writable)
        vmb_json_add_string(node, "discard", "unmap");
    vmb_export_server_add_node(server, node);
    return name;
}
