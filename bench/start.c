/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wall time from exec to exit of a command and its peak resident memory, median and maximum of
 * many runs: "SECONDS BYTES". A process starts with the peak of the one that started it, so this
 * one is small, which an interpreter is not.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 51 };

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void start(char **command)
{
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    execv(command[0], command);
    perror(command[0]);
    _exit(127);
}

int main(int argc, char **argv)
{
    double seconds[RUNS];
    long peak = 0; /* KiB */
    if (argc < 2) {
        fprintf(stderr, "usage: start COMMAND [ARGUMENT...]\n");
        return 2;
    }
    for (int i = 0; i < RUNS; i++) {
        struct rusage usage;
        int status;
        const double begin = now();
        const pid_t child = fork();
        if (child == 0)
            start(argv + 1);
        if (child < 0 || wait4(child, &status, 0, &usage) != child || status != 0) {
            fprintf(stderr, "start: %s failed\n", argv[1]);
            return 1;
        }
        seconds[i] = now() - begin;
        peak = usage.ru_maxrss > peak ? usage.ru_maxrss : peak;
    }
    qsort(seconds, RUNS, sizeof seconds[0], compare);
    printf("%.6f %lld\n", seconds[RUNS / 2], (long long)peak * 1024);
    return 0;
}
