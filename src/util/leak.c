/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests: files and sockets that the program has left open at its end. */
#include "util/leak.h"

#include <dirent.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DESCRIPTORS "/proc/self/fd"

static GHashTable *inherited; /* numbers; NULL: nobody asked */

/* *@own is the descriptor of the list itself. */
static GArray *
list(int *own)
{
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(int));
    DIR *dir = opendir(DESCRIPTORS);
    *own = dir != NULL ? dirfd(dir) : -1;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        int number = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && number != *own)
            g_array_append_val(numbers, number);
    }
    if (dir != NULL)
        closedir(dir);
    return numbers;
}

void
vmb_leak_begin(void)
{
    int own;
    if (g_getenv("VMBACKUP_TEST_LEAKS") == NULL)
        return;
    inherited = g_hash_table_new(NULL, NULL);
    g_autoptr(GArray) numbers = list(&own);
    for (guint i = 0; i < numbers->len; i++)
        g_hash_table_add(inherited, GINT_TO_POINTER(g_array_index(numbers, int, i)));
}

static void
judge(int number)
{
    char target[512];
    g_autofree char *path = g_strdup_printf(DESCRIPTORS "/%d", number);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0)
        return;
    target[length] = '\0';
    if (target[0] == '/' || g_str_has_prefix(target, "socket:"))
        fprintf(stderr, "vmbackup: leaked descriptor %d: %s\n", number, target);
}

void
vmb_leak_end(void)
{
    int own;
    if (inherited == NULL)
        return;
    g_autoptr(GArray) numbers = list(&own);
    for (guint i = 0; i < numbers->len; i++)
        if (!g_hash_table_contains(inherited, GINT_TO_POINTER(g_array_index(numbers, int, i))))
            judge(g_array_index(numbers, int, i));
    g_clear_pointer(&inherited, g_hash_table_unref);
}
