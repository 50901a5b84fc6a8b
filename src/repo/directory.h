/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories and small sealed documents inside a repository. */
#pragma once
#include "util/fsio.h"
#include "util/json.h"

/* Makes @name below @dir_fd, mode 0700 whatever the umask; one that exists is fine. *@made (may be
 * NULL) is TRUE if it was not there. No fsync. */
gboolean vmb_directory_make(int dir_fd, const char *name, gboolean *made, GError **error);

/* The names in a directory but "." and "..", sorted; NULL on error. */
GPtrArray *vmb_directory_list(int dir_fd, GError **error);

/* "run as NAME, who owns it" for a file or directory that may not be read; @path: for messages and
 * to find the owner. Always sets VMB_ERROR_NO_REPOSITORY and returns FALSE. */
gboolean vmb_directory_forbidden(const char *path, int err, GError **error);

/* Reads a regular file of at most @limit bytes. @label names the directory in messages. *@err (may
 * be NULL) gets the errno of an open() that failed, else 0. */
gboolean vmb_directory_read(int dir_fd, const char *name, gsize limit, const char *label,
                            char **content, gsize *length, int *err, GError **error);

/* Reads a document that ends with its digest and has a member "format". NULL without an error if
 * the file is absent. Errors: VMB_ERROR_DAMAGE; VMB_ERROR_NO_REPOSITORY if its format is beyond
 * @format. */
VmbJson *vmb_sealed_read(int dir_fd, const char *name, guint64 format, const char *label,
                         GError **error);

/* Writes it so that it is whole and on disk when this returns. */
gboolean vmb_sealed_write(int dir_fd, const char *name, VmbJson *object, GError **error);
