/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A transaction as its two files know it. */
#pragma once
#include "repo/transaction.h"

struct VmbTransaction {
    int domain_fd; /* domains/<uuid> */
    int fd;        /* staging/ */
    char *uuid;
    char *label;    /* "REPO/domains/<uuid>/staging", for messages */
    gboolean moved; /* to points/: nothing is left to roll back */
};

/* A small file with this content; any name. No fsync: publishing does that for all files. */
gboolean vmb_transaction_write(VmbTransaction *transaction, const char *name, const void *content,
                               gsize length, GError **error);
