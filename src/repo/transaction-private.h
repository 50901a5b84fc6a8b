/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A transaction as its two files know it. */
#pragma once
#include "repo/transaction.h"

struct VmbTransaction {
    int domain_fd; /* domains/<uuid> */
    int fd;        /* staging/ */
    char *uuid;
    char *label;    /* "REPO/domains/<uuid>/staging", for messages */
    GPtrArray *files; /* VmbStagedFile: all that were made */
    VmbPointState state;
    gboolean moved;   /* to points/: nothing is left to roll back */
};

/* Open until the point is published: an error of write-back is told to those who have the file open. To
 * who opens it later the kernel may have forgotten it, together with the inode. */
typedef struct {
    char *name;
    int fd;
} VmbStagedFile;

/* A small file with this content; any name. No fsync: publishing does that for all files. */
gboolean vmb_transaction_write(VmbTransaction *transaction, const char *name, const void *content,
                               gsize length, GError **error);
