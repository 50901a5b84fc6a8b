/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes blocks of a file in a guest, each brought to disk, until SIGTERM; then tells how long they took. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define FILE_SIZE (256u << 20)
#define MAX_WRITES (1u << 20)

static volatile sig_atomic_t ended;
static uint32_t microseconds[MAX_WRITES];

static void
on_signal(int number)
{
    (void)number;
    ended = 1;
}

static double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Writes the whole file once, so that later writes need no metadata. */
static int
prepare(const char *path, const char *block, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    for (off_t done = 0; fd >= 0 && done < (off_t)FILE_SIZE; done += (off_t)length)
        if (write(fd, block, length) != (ssize_t)length)
            return 1;
    return fd >= 0 && (fsync(fd) != 0 || close(fd) != 0);
}

/* Usage: write-latency FILE BYTES. FILE is made if it is not there. Prints the seconds in all, then
 * one number of microseconds per write. */
int
main(int argc, char **argv)
{
    size_t length = argc == 3 ? (size_t)atol(argv[2]) : 0;
    unsigned n = 0;
    if (length == 0 || length > 1u << 20)
        return 2;
    char *block = calloc(1, length);
    if (block == NULL || prepare(argv[1], block, length) != 0)
        return 1;
    int fd = open(argv[1], O_RDWR | O_DSYNC);
    if (fd < 0)
        return 1;
    signal(SIGTERM, on_signal);
    srandom(1);
    double start = now();
    while (!ended && n < MAX_WRITES) {
        off_t offset = (off_t)((uint64_t)random() % (FILE_SIZE / length) * length);
        for (size_t i = 0; i < length; i += sizeof(long))
            *(long *)(void *)(block + i) = random();
        double before = now();
        if (pwrite(fd, block, length, offset) != (ssize_t)length)
            return 1;
        microseconds[n++] = (uint32_t)((now() - before) * 1e6);
    }
    printf("%.6f\n", now() - start);
    for (unsigned i = 0; i < n; i++)
        printf("%u\n", microseconds[i]);
    return 0;
}
