/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all fuzz targets share: reading the input as numbers, files in memory, seals, seeds. */
#pragma once
#include "util/error.h"
#include "util/fsio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A target defines these three. What fuzz_one() is given becomes files and arguments of the reader
 * under test; it aborts when a promise does not hold. */
void fuzz_set_up(void);                          /* once, before the first input */
void fuzz_one(const guint8 *data, gsize length); /* leaves nothing behind */
void fuzz_seeds(void);                           /* calls fuzz_seed() for each first input */

/* Writes one input of the seed corpus. @name: unique within the target. */
void fuzz_seed(const char *name, const void *data, gsize length);
/* The same for a sealed document after one byte @mode: once with @sealed_mode as it is, and once
 * with
 * @open_mode and without its seal; what fuzz_reseal() makes of that is the document again. */
void fuzz_seed_document(const char *name, guint8 open_mode, guint8 sealed_mode, const char *text);

/* A promise of the program: stops the run and keeps the input when it does not hold. */
#define FUZZ_CHECK(condition)                                                                      \
    G_STMT_START                                                                                   \
    {                                                                                              \
        if (!(condition))                                                                          \
            fuzz_broken(__FILE__, __LINE__, #condition);                                           \
    }                                                                                              \
    G_STMT_END
G_NORETURN void fuzz_broken(const char *file, int line, const char *condition);

/* A call that failed must have set an error of ours, with a message and with @code (-1: any). */
void fuzz_check_error(const GError *error, int code);

/* The input as a row of numbers; what is missing at the end is zero. */
typedef struct {
    const guint8 *at;
    gsize left;
} FuzzInput;
guint64 fuzz_take(FuzzInput *input, guint n_bytes);                 /* little-endian */
gsize fuzz_take_bytes(FuzzInput *input, guint8 *out, gsize length); /* gives how many there were */

/* A file in memory, with any content; the descriptor stays the same. */
int fuzz_file_new(void);
void fuzz_file_set(int fd, const void *content, gsize length);

/* A private directory, removed at the end of the process; owned by the caller. */
char *fuzz_directory(void);
/* Writes @name below @dir_fd without the syncs that the program itself does. */
void fuzz_directory_set(int dir_fd, const char *name, const void *content, gsize length);

/* @data as text of a document whose seal (a digest of itself at its end) is right, whatever the
 * rest is: without that nothing behind the seal would ever be reached. The closing brace at the end
 * of @data is taken for the document's. Free with g_free(). */
char *fuzz_reseal(const guint8 *data, gsize length, gsize *sealed_length);

/* @data as a string: a zero byte ends it. Free with g_free(). */
char *fuzz_text(const guint8 *data, gsize length);

/* libFuzzer's own mutations, for mutators that know a structure. */
gsize LLVMFuzzerMutate(guint8 *data, gsize size, gsize max_size);
